"""The kept records of one process: in memory, and in a file if they are to survive it."""

from __future__ import annotations

from collections.abc import Callable

from babyllm.text.dedup.online.kept import Kept, Match, Records
from babyllm.text.dedup.online.record_log import RecordLog
from babyllm.text.dedup.online.sketches import Sketcher, Sketches


class LocalRecords:
    """Records in memory, read from a file at the beginning and appended to it.

    Args:
        n_tables: number of keys of a record.
        threshold: least similarity of near-duplicates.
        log: file of the records; None to keep them in memory alone.
        sketcher: maker of the keys of the records in the file.
    """

    def __init__(self, n_tables: int, threshold: float, log: RecordLog | None, sketcher: Sketcher) -> None:
        self._kept, self._log = Kept(n_tables, threshold), log
        for ids, sets, n in log.read() if log else ():
            self._kept.append(Records(ids, sets, n, sketcher.keys(sets, n)))

    def __len__(self) -> int:
        return len(self._kept)

    def best(self, sketches: Sketches, n_texts: int) -> list[Match | None]:
        """The most similar kept record of each text, None where no kept one reaches the threshold."""
        return self._kept.best(sketches, n_texts)

    def update(self, sketches: Sketches, n_texts: int, choose: Callable[[list[Match | None]], Records]) -> None:
        """Look texts up, and store the records that `choose` makes of the matches, in the file first."""
        records = choose(self.best(sketches, n_texts))
        if len(records.n):
            if self._log:
                self._log.append(list(records.ids), records.sets, records.n)
            self._kept.append(records)

    def close(self) -> None:
        """Close the file."""
        if self._log:
            self._log.close()
