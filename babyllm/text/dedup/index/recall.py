"""Kept documents that share a key with a new one, as a small corpus with which the new ones are compared.

new documents' sketches, ranges of keys of all generations -> look_up -> hits (kept document, key)
hits, by generation -> describe_kept -> part.parquet (without texts), and the files of a sketch
wanted kept documents -> fetch_sets -> their shingles

In a range of keys only those of new documents are kept, so what follows depends on the new documents and on the
candidates for them, not on the size of the index. Documents that were taken down are not candidates.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from babyllm.ragged import U64, Ragged, offsets_of
from babyllm.store.corpus import SCHEMA
from babyllm.text.dedup import steps
from babyllm.text.dedup.index.kept_index import Generation
from babyllm.text.dedup.index.sorted_tables import between, rows_at, sets_in, write_table
from babyllm.text.dedup.near.candidates import PADDING, Span, load, spans
from babyllm.text.dedup.near.linking import ENTRIES_PER_BYTE, Steps, save
from babyllm.text.dedup.near.verify import write_sets
from babyllm.text.dedup.slices import Slice
from babyllm.text.dedup.steps import RECALLED, Setting

NUMBERS = "recalled.npy"  # (n,) int64 numbers of the recalled documents, counted over all generations
NO_TEXT = "(kept earlier; the index holds no texts)"
_DOCUMENTS_PER_BYTE = 1 / 256
_LITTLE = 4  # partitions of an index's keys that this process reads before others have started
_UPPER = np.uint64(32)


class KeptRows(NamedTuple):
    """Some recalled documents of one generation.

    Attributes:
        generation: index of the generation.
        start: index of the first of them in `NUMBERS`.
        stop: index after the last of them.
    """

    generation: int
    start: int
    stop: int


@dataclass(frozen=True)
class Recalled:
    """The recalled documents.

    Attributes:
        slices: slices of their corpus, whose documents are numbered after the new ones.
        fetch: function that fetches the shingles of those that became candidates.
    """

    slices: list[Slice]
    fetch: partial[None]

    def n(self) -> int:
        """The number of recalled documents."""
        return sum(piece.n for piece in self.slices)


def recall(run: Steps, items: Sequence[tuple[Slice, bool]], generations: Sequence[Generation]) -> Recalled:
    """The kept documents of some generations that share a key with a document of some slices.

    Args:
        run: runner of the steps, for the new documents alone.
        items: slices of the new documents, as for `find_links`.
        generations: generations of the index.
    """
    setting = run.setting
    run.run("sketch", steps.sketch, items, "sketches", [piece.size_bytes for piece, _ in items])
    n_kept = sum(generation.documents() for generation in generations)
    n = max(n_kept, setting.n_documents)
    ranges = [("exact", list(found)) for found in spans(1, n, run.portion(ENTRIES_PER_BYTE / 3), 1)]
    tables = [
        ("keys", list(found))
        for name in setting.config.near
        for found in spans(setting.method(name).n_tables, n, run.portion(ENTRIES_PER_BYTE))
    ]
    n_entries = n_kept * (2 + sum(setting.method(name).n_tables for name in setting.config.near))
    arguments: dict[str, Any] = {"generations": tuple(generations), "made_from": [generations]}
    is_little = n_entries * 8 < run.portion(_LITTLE)
    run.run("recall", look_up, [*ranges, *tables], "keys of the index", is_little=is_little, **arguments)
    numbers = [np.load(folder / "numbers.npy") for folder in setting.folders("recall")]
    found = np.unique(np.concatenate([np.empty(0, np.int64), *numbers]))
    save(setting.directory / NUMBERS, found)
    chosen = list(_chunks(found, generations, run.portion(_DOCUMENTS_PER_BYTE)))
    is_little = len(found) < run.portion(_DOCUMENTS_PER_BYTE)
    run.run(f"{RECALLED}sketch", describe_kept, chosen, "kept candidates", is_little=is_little, **arguments)
    slices = [
        Slice(
            str(folder / "part.parquet"),
            (0, 1),
            setting.n_documents + item.start,
            item.stop - item.start,
            (folder / "part.parquet").stat().st_size,
            f"{Path(generations[item.generation].directory).name}/{generations[item.generation].name}/",
        )
        for item, folder in zip(chosen, run.setting.folders(f"{RECALLED}sketch"), strict=True)
    ]
    return Recalled(slices, partial(_fetch, chosen=chosen, is_little=is_little, n_new=setting.n_documents, **arguments))


def _fetch(run: Steps, *, chosen: Sequence[KeptRows], **arguments: Any) -> None:
    run.run(f"{RECALLED}sets", fetch_sets, chosen, "shingles of kept candidates", **arguments)


def _chunks(numbers: NDArray[np.int64], generations: Sequence[Generation], at_most: int) -> Iterator[KeptRows]:
    starts = _starts(generations)
    for number in range(len(generations)):
        first, last = np.searchsorted(numbers, starts[number : number + 2]).tolist()
        for start in range(first, last, at_most):
            yield KeptRows(number, start, min(last, start + at_most))


def _starts(generations: Sequence[Generation]) -> NDArray[np.int64]:
    """(generations + 1,) int64: the number of each generation's first document."""
    return offsets_of(np.array([generation.documents() for generation in generations], np.int64))


# ---- one partition


def look_up(
    item: tuple[str, Sequence[Span]], folder: Path, *, setting: Setting, generations: Sequence[Generation]
) -> int:
    """Find the kept documents that share a key of a range with a new one; returns the number of hits."""
    kind, found = item
    low, high = _edge(found[0].table, found[0].start), _edge(found[-1].table, found[-1].stop)
    if kind == "exact":
        low, high = found[0].start << 32, found[-1].stop << 32
    new = _new_exact(setting, low, high) if kind == "exact" else new_keys(setting, found)
    starts = _starts(generations)
    hits: list[tuple[NDArray[Any], ...]] = []
    for generation, first in zip(generations, starts[:-1], strict=True):
        for path in generation.files("exact" if kind == "exact" else "keys"):
            for key, *others in between(path, low, high):
                shared = shared_rows(key, new)
                hits.append((key[shared], *(column[shared] for column in others[:-1]), others[-1][shared] + first))
    empty = [np.empty(0, np.uint64)] * (2 if kind == "exact" else 1)
    columns = [np.concatenate(parts) for parts in zip((*empty, np.empty(0, np.int64)), *hits, strict=True)]
    np.save(folder / "numbers.npy", columns[-1].astype(np.int64))
    np.save(folder / f"{kind}.npy", np.stack(columns[:-1]))
    return len(columns[-1])


def shared_rows(kept: U64, new: U64) -> NDArray[np.int64]:
    """(n,) int64: the places in `kept`, sorted, whose key occurs in `new`, sorted and distinct."""
    new = new[slice(*np.searchsorted(new, kept[[0, -1]] + np.array([0, 1], np.uint64)))] if len(kept) else new[:0]
    starts, stops = np.searchsorted(kept, new), np.searchsorted(kept, new, side="right")
    found = starts < stops
    starts, lengths = starts[found], (stops - starts)[found]
    return np.arange(lengths.sum()) + np.repeat(starts - offsets_of(lengths)[:-1], lengths)


def new_keys(setting: Setting, found: Sequence[Span]) -> U64:
    """(n,) uint64: the band keys of the new documents within spans that follow each other, table and key in one."""
    files = [folder / "minhash.npy" for folder in setting.own_folders("sketch")]
    files = [file for file in files if file.exists()]
    keys = [(load(span, files) >> _UPPER) | np.uint64(span.table << 32) for span in found]
    return _distinct(np.concatenate(keys))


def _new_exact(setting: Setting, low: int, high: int) -> U64:
    keys = [np.empty(0, np.uint64)]
    for folder in setting.own_folders("sketch"):
        hashes = np.load(folder / "exact.npy", mmap_mode="r")[0]
        stop = len(hashes) if high == 1 << 64 else np.searchsorted(hashes, np.uint64(high))
        keys.append(hashes[np.searchsorted(hashes, np.uint64(low)) : stop])
    return _distinct(np.sort(np.concatenate(keys)))


def _distinct(keys: U64) -> U64:
    """Sorted keys, each once; unlike np.unique it does not hash them first."""
    return keys[np.concatenate([[True], keys[1:] != keys[:-1]])] if len(keys) else keys


def _edge(table: int, key: int) -> int:
    return (table << 32) + key


def describe_kept(item: KeptRows, folder: Path, *, setting: Setting, generations: Sequence[Generation]) -> int:
    """Write names, lengths and hit keys of recalled documents in the form of a part and of a sketch."""
    numbers = np.load(setting.directory / NUMBERS, mmap_mode="r")[item.start : item.stop]
    generation, first = generations[item.generation], _starts(generations)[item.generation]
    rows = pa.concat_tables(_kept_rows(generation, numbers - first))
    is_taken = setting.takedowns.names_hashed(*names_in(rows))
    texts = pa.array([NO_TEXT] * len(rows), pa.large_string())
    part = rows.select(["id", "domain"]).append_column("text", texts).cast(SCHEMA)
    write_table(folder / "part.parquet", part, len(rows))
    np.save(folder / "lengths.npy", rows["length"].to_numpy())
    documents = setting.n_documents + np.arange(item.start, item.stop)
    exact, keys = (_hits(setting, kind, numbers, documents, is_taken) for kind in ("exact", "keys"))
    np.save(folder / "exact.npy", exact[:, np.argsort(exact[0], kind="stable")])
    for name in setting.config.near:
        np.save(folder / f"{name}.npy", _by_table(keys, setting.method(name).n_tables))
    return int(np.count_nonzero(is_taken))


def names_in(rows: pa.Table) -> tuple[list[str], list[str | None], list[str]]:
    """The ids, urls and hashes in rows of a file of documents, as takedowns name them."""
    return rows["id"].to_pylist(), rows["url"].to_pylist(), [value.hex() for value in rows["hash"].to_pylist()]


def _kept_rows(generation: Generation, rows: NDArray[np.int64], kind: str = "documents") -> Iterator[pa.Table]:
    """The rows of a generation's files of documents, (n,) int64 and ascending."""
    starts = offsets_of(np.array(generation.parts, np.int64))
    columns = ["id", "domain", "url", "hash", "length"] if kind == "documents" else ["shingles"]
    files = generation.files("documents" if kind == "documents" else "shingles")
    for file, first, stop in zip(files, starts, starts[1:], strict=False):
        inside = rows[slice(*np.searchsorted(rows, [first, stop]))] - first
        if len(inside):
            yield from rows_at(file, inside, columns)


def _hits(
    setting: Setting, kind: str, numbers: NDArray[np.int64], documents: NDArray[np.int64], is_taken: NDArray[np.bool_]
) -> U64:
    """(columns, hits) uint64: the keys that were hit and the documents that have them, without those taken down."""
    found = [np.empty((3 if kind == "exact" else 2, 0), np.uint64)]
    for folder in setting.folders("recall"):
        if not (folder / f"{kind}.npy").exists():
            continue
        keys, hit = np.load(folder / f"{kind}.npy"), np.load(folder / "numbers.npy")
        place = np.minimum(np.searchsorted(numbers, hit), len(numbers) - 1)
        is_here = (numbers[place] == hit) & ~is_taken[place]
        found.append(np.vstack([keys[:, is_here], documents[place[is_here]].astype(np.uint64)]))
    return np.concatenate(found, axis=1)


def _by_table(hits: U64, n_tables: int) -> U64:
    """(tables, longest) uint64 entries as of `candidates.entries`, sorted in each row; short rows end with PADDING."""
    table, entry = hits[0] >> _UPPER, (hits[0] << _UPPER) | hits[1]
    lengths = np.bincount(table.view(np.int64), minlength=n_tables)
    order = np.lexsort((entry, table))
    result = np.full((n_tables, int(lengths.max(initial=0))), PADDING)
    for number, (start, stop) in enumerate(zip(offsets_of(lengths), offsets_of(lengths)[1:], strict=False)):
        result[number, : stop - start] = entry[order[start:stop]]
    return result


def fetch_sets(
    item: KeptRows, folder: Path, *, setting: Setting, generations: Sequence[Generation], n_new: int
) -> None:
    """Read the shingles of the recalled documents that are in a pair or group."""
    wanted = np.load(setting.directory / "wanted.npy", mmap_mode="r")[n_new + item.start : n_new + item.stop]
    numbers = np.load(setting.directory / NUMBERS, mmap_mode="r")[item.start : item.stop]
    rows = numbers[wanted] - _starts(generations)[item.generation]
    sets = [sets_in(table) for table in _kept_rows(generations[item.generation], rows, "shingles")]
    values = np.concatenate([np.empty(0, np.uint64), *(part.values for part in sets)])
    lengths = np.concatenate([np.empty(0, np.int64), *(part.lengths() for part in sets)])
    assert len(lengths) == len(rows)
    documents = np.flatnonzero(wanted) + n_new + item.start
    write_sets(folder, documents, Ragged(values, offsets_of(lengths)))
