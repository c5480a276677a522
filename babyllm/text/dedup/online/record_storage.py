"""Where kept records are: what `Online` asks of it, and the records of one process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from babyllm.text.dedup.online.kept import Kept, Match, better
from babyllm.text.dedup.online.record_log import RecordLog
from babyllm.text.dedup.online.sketches import Sketch, Sketcher


class Storage(Protocol):
    """Kept records; one call at a time.

    Attributes:
        at_once: most records of a call of `add`.
    """

    at_once: int

    def __len__(self) -> int:
        """The number of kept records."""

    def find(self, sketches: Sequence[Sketch]) -> Match | None:
        """The kept record that a text duplicates, from the text's sketches; None if there is none."""

    def add(self, ids: Sequence[str], sketches: Sequence[Sequence[Sketch]]) -> list[Match | None]:
        """Keep each text in turn unless it duplicates one kept before; what is kept is safe when this returns.

        Args:
            ids: ids of the texts.
            sketches: sketches of each text, its own first.
        """

    def close(self) -> None:
        """Release what the storage holds."""


class LocalRecords:
    """Records in memory, read from a file at the beginning and appended to it.

    Args:
        kept: records in memory, none yet.
        log: file of the records; None to keep them in memory alone.
        sketcher: maker of the keys of the records in the file.
    """

    at_once = 512

    def __init__(self, kept: Kept, log: RecordLog | None, sketcher: Sketcher) -> None:
        self._kept, self._log = kept, log
        try:
            for ids, sets, n in log.read() if log else ():
                for id, sketch in zip(ids, sketcher.of_sets(sets, n), strict=True):
                    kept.append(id, sketch)
        except BaseException:
            self.close()
            raise

    def __len__(self) -> int:
        return len(self._kept)

    def find(self, sketches: Sequence[Sketch]) -> Match | None:
        """The kept record that a text duplicates, from the text's sketches; None if there is none."""
        return self._kept.find(sketches)

    def add(self, ids: Sequence[str], sketches: Sequence[Sequence[Sketch]]) -> list[Match | None]:
        """Keep each text in turn unless it duplicates one kept before; the file has what is kept when this returns."""
        matches, new = keep_new(self._kept, ids, sketches)
        try:
            if new and self._log:
                self._log.append([(ids[i], sketches[i][0]) for i in new])
        except BaseException:
            for i in reversed(new):
                self._kept.remove_last(sketches[i][0])
            raise
        return matches

    def close(self) -> None:
        """Flush and close the file."""
        if self._log:
            self._log.close()


def keep_new(
    kept: Kept,
    ids: Sequence[str],
    sketches: Sequence[Sequence[Sketch]],
    found: Sequence[Match | None] | None = None,
) -> tuple[list[Match | None], list[int]]:
    """The match of each text, and the indices of those that were kept.

    A text that was kept before under the same id has no match, and is not kept again.

    Args:
        kept: records to compare with and to append to.
        ids: ids of the texts.
        sketches: sketches of each text, its own first.
        found: match of each text among records kept elsewhere, before those in `kept`; None if there are none.
    """
    matches: list[Match | None] = []
    new = []
    for i, (id, sketch) in enumerate(zip(ids, sketches, strict=True)):
        match, earlier = kept.find(sketch), found[i] if found else None
        if match is None and earlier is None:
            kept.append(id, sketch[0])
            new.append(i)
        elif match:
            match = better(earlier, *match)
        else:
            match = earlier
        matches.append(None if match == (id, 1.0) else match)
    return matches, new
