"""Keep or refuse records one by one, as they come."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any

from babyllm.errors import UserError
from babyllm.text.dedup.near.minhash import MinHashConfig, choose_bands
from babyllm.text.dedup.near.shingles import ShingleConfig
from babyllm.text.dedup.online.kept import Kept, Match
from babyllm.text.dedup.online.record_log import RecordLog
from babyllm.text.dedup.online.record_storage import LocalRecords, Storage
from babyllm.text.dedup.online.redis_records import SCHEMES, RedisRecords
from babyllm.text.dedup.online.sketches import Sketcher

THRESHOLD = 0.55
MINHASH = MinHashConfig(recall=0.98)


class Online:
    """The records of a stream without near-duplicates.

        with babyllm.dedup.Online("kept.log") as kept:
            if (match := kept.add("chat-17", "今天天气怎么样？")) is None:
                ...                                       # new: it is kept
            else:
                print(match.id, match.similarity)         # the kept record that it repeats

    Texts are compared in NFKC without case, whitespace and punctuation, traditional Chinese characters as simplified
    ones. Texts of up to 200 such characters are compared by pairs of characters, longer ones by 5-grams. MinHash finds
    candidates; the Jaccard similarity of the sets decides. A text of punctuation or symbols alone repeats only its
    equal.

    Threads may share an object: of near-duplicates that they add, one is kept. Once `add` or `add_many` has returned,
    what it kept survives a kill of the process; with `sync` also a loss of power. An interrupted call may have kept
    some of its records: adding them again under the same ids says that they were kept. Only one process can have a file
    open; several processes share records in Redis. Memory: about 1 KB a record, and 4 bytes per distinct shingle.

    Args:
        where: file to append to (opened again, it continues), address of a Redis server such as
            `redis://localhost:6379/0#chats`, or None for memory alone.
        threshold: least Jaccard similarity of near-duplicates. It may change from one opening of a file to the next.
        shingles: shingles of all texts, whatever their length; None for pairs and 5-grams as above.
        simplify: whether traditional characters count as their simplified forms; needs OpenCC.
        minhash: settings of MinHash.
        sync: whether each call flushes the file to the disk before it returns; takes milliseconds.

    Raises:
        UserError: the file is another process's, damaged or of other settings; the server does not answer; a package
            is missing; or there are too few permutations.
    """

    def __init__(
        self,
        where: str | Path | None = None,
        *,
        threshold: float = THRESHOLD,
        shingles: ShingleConfig | None = None,
        simplify: bool = True,
        minhash: MinHashConfig = MINHASH,
        sync: bool = False,
    ) -> None:
        if not 0 < threshold <= 1:
            raise UserError(f"threshold={threshold}: it must be above 0 and at most 1")
        bands = choose_bands(minhash, threshold)
        self._sketcher = Sketcher(shingles, simplify, bands, threshold)
        self._lock = threading.Lock()
        self._storage: Storage | None = None
        settings: dict[str, Any] = {"shingles": asdict(shingles) if shingles else None, "simplify": simplify}
        if isinstance(where, str) and where.partition("://")[0] in SCHEMES:
            # What another process stored is found only by the same bands.
            settings |= {"bands": list(bands)}
            self._storage = RedisRecords(where, settings, threshold)
        else:
            log = None if where is None else RecordLog(Path(where), settings, sync)
            self._storage = LocalRecords(Kept(bands.n + 1, threshold), log, self._sketcher)

    def add(self, id: str, text: str) -> Match | None:
        """Keep a text unless it duplicates a kept one.

        Args:
            id: name of the record, which later matches report.
            text: text to compare.

        Returns:
            The kept record that the text duplicates, the most similar one; None if the text is kept now, or was kept
            before under the same id.

        Raises:
            UserError: the file or the server cannot be written; then the text is not kept.
        """
        return self._add([id], [text])[0]

    def add_many(self, records: Iterable[tuple[str, str]]) -> list[Match | None]:
        """As `add` for each (id, text) in turn, several times as fast.

        Records of one call are also compared with each other. An error leaves the records before it kept.
        """
        results: list[Match | None] = []
        for ids, texts in _batches(records, self._open().at_once):
            results += self._add(ids, texts)
        return results

    def check(self, text: str) -> Match | None:
        """The kept record that a text duplicates, without keeping the text; None if there is none."""
        sketches = self._sketcher.sketch([text])[0]
        with self._lock:
            return self._open().find(sketches)

    def __len__(self) -> int:
        """The number of kept records."""
        with self._lock:
            return len(self._open())

    def close(self) -> None:
        """Flush and close the file, or close the connections; a closed object is closed again without effect."""
        with self._lock:
            storage, self._storage = self._storage, None
            if storage is not None:
                storage.close()

    def __enter__(self) -> Online:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self) -> Storage:
        if self._storage is None:
            raise UserError("the online deduplication is closed; open it again")
        return self._storage

    def _add(self, ids: Sequence[str], texts: Sequence[str]) -> list[Match | None]:
        sketches = self._sketcher.sketch(texts)
        with self._lock:
            return self._open().add(ids, sketches)


def _batches(records: Iterable[tuple[str, str]], at_once: int) -> Iterator[tuple[list[str], list[str]]]:
    """The ids and texts of some records at a time."""
    left = iter(records)
    while batch := list(islice(left, at_once)):
        yield [name for name, _ in batch], [text for _, text in batch]
