"""Generations of an index merged into one: the same documents in the same order, without those taken down.

keys of all generations, by range -> rows renumbered, sorted -> one file for each range
documents, shingles -> the same files; those that hold a document taken down are written again without it
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from babyllm.ragged import Ragged, offsets_of
from babyllm.text.dedup.index.growth import ROWS
from babyllm.text.dedup.index.kept_index import Generation, KeptIndex, Kind, file_name, held, open_index, put_in_place
from babyllm.text.dedup.index.recall import names_in
from babyllm.text.dedup.index.sorted_tables import (
    EXACT,
    KEYS,
    between,
    largest_key,
    rows_at,
    sets_in,
    write_sets,
    write_sorted,
    write_table,
)
from babyllm.text.takedowns import Takedowns, find_takedowns

ENTRIES_AT_ONCE = 4 << 20  # keys that are sorted together
_WORK = ".merging"


def merge_generations(directory: Path, entries_at_once: int = ENTRIES_AT_ONCE) -> tuple[KeptIndex, int]:
    """Merge all generations of an index into one; comparisons with it have the same results.

    Args:
        directory: directory of the index.
        entries_at_once: number of keys that are held in memory at a time.

    Returns:
        The index, and the number of documents left out because they were taken down.

    Raises:
        UserError: there is no index, another process uses it, a file is damaged or the disk is full.
    """
    index = open_index(directory)
    with held(index):
        takedowns = find_takedowns([directory])
        stays = [_stays(generation, takedowns) for generation in index.generations]
        n_removed = sum(int(np.count_nonzero(~kept)) for kept in stays)
        if len(index.generations) < 2 and not n_removed:
            return index, 0
        work = directory / _WORK
        work.mkdir(exist_ok=True)
        try:
            files, parts = _documents(index.generations, stays, work)
            counts = {}
            for kind in ("exact", "keys"):
                found = _sorted(index.generations, stays, kind, work, entries_at_once)
                counts[kind] = len(found)
                files |= found
            name = index.next_name()
            made = tuple(index.made())
            merged = Generation(str(directory), name, made, tuple(parts), counts["keys"], counts["exact"])
            put_in_place(index, name, files)
            return index.commit(index.settings, [merged]), n_removed
        finally:
            for file in work.iterdir():
                file.unlink()
            work.rmdir()


def _stays(generation: Generation, takedowns: Takedowns) -> NDArray[np.bool_]:
    """(documents,) bool: whether each document of a generation is not taken down."""
    found = [np.ones(0, bool)]
    for file, n in zip(generation.files("documents"), generation.parts, strict=True):
        if not takedowns:
            found.append(np.ones(n, bool))
            continue
        for table in rows_at(file, np.arange(n), ["id", "url", "hash"]):
            found.append(~takedowns.names_hashed(*names_in(table)))
    return np.concatenate(found)


def _documents(
    generations: Sequence[Generation], stays: Sequence[NDArray[np.bool_]], work: Path
) -> tuple[dict[str, Path], list[int]]:
    """The files of documents and of shingles, by name, and the number of documents in each pair."""
    files: dict[str, Path] = {}
    parts: list[int] = []
    for generation, kept in zip(generations, stays, strict=True):
        edges = offsets_of(np.array(generation.parts, np.int64)).tolist()
        for number, (first, stop) in enumerate(pairwise(edges)):
            rows = np.flatnonzero(kept[first:stop])
            for kind in _PAIR:
                name, source = file_name(kind, len(parts)), generation.file(kind, number)
                if len(rows) < stop - first:
                    _write_some(kind, source, rows, work / name)
                    source = work / name
                files[name] = source
            parts.append(len(rows))
    return files, parts


_PAIR: tuple[Kind, Kind] = ("documents", "shingles")


def _write_some(kind: Kind, source: Path, rows: NDArray[np.int64], target: Path) -> None:
    if kind == "documents":
        columns = ["id", "domain", "url", "hash", "length"]
        tables = list(rows_at(source, rows, columns)) or [_empty(source, columns)]
        write_table(target, pa.concat_tables(tables), ROWS)
        return
    sets = [sets_in(table) for table in rows_at(source, rows, ["shingles"])]
    values = np.concatenate([np.empty(0, np.uint64), *(part.values for part in sets)])
    lengths = np.concatenate([np.empty(0, np.int64), *(part.lengths() for part in sets)])
    write_sets(target, Ragged(values, offsets_of(lengths)))


def _empty(source: Path, columns: Sequence[str]) -> pa.Table:
    return next(rows_at(source, np.arange(1), columns)).slice(0, 0)


def _sorted(
    generations: Sequence[Generation], stays: Sequence[NDArray[np.bool_]], kind: Kind, work: Path, at_once: int
) -> dict[str, Path]:
    """The files of keys of all documents that stay, by name."""
    total = sum(len(kept) for kept in stays)
    largest = max((largest_key(file) for g in generations for file in g.files(kind)), default=-1)
    n_tables = max(1, (largest >> 32) + 1) if kind == "keys" else 1
    n_ranges = max(1, -(-total * n_tables // at_once))
    edges = [(largest + 1) * i // n_ranges for i in range(n_ranges + 1)]
    found: dict[str, Path] = {}
    for low, high in pairwise(edges) if largest >= 0 else ():
        name = file_name(kind, len(found))
        columns = [np.concatenate(part) for part in zip(*_in_range(generations, stays, kind, low, high), strict=True)]
        schema = EXACT if kind == "exact" else KEYS
        if not columns:
            columns = [np.empty(0, field.type.to_pandas_dtype()) for field in schema]
        order = np.argsort(columns[0], kind="stable")
        write_sorted(work / name, schema, [column[order] for column in columns])
        found[name] = work / name
    return found


def _in_range(
    generations: Sequence[Generation], stays: Sequence[NDArray[np.bool_]], kind: Kind, low: int, high: int
) -> Iterator[list[NDArray[Any]]]:
    """The keys of a range and the rows of their documents in the merged generation."""
    first = 0
    for generation, kept in zip(generations, stays, strict=True):
        new_rows = first + np.cumsum(kept) - 1
        for file in generation.files(kind):
            for *keys, rows in between(file, low, high):
                chosen = kept[rows]
                yield [*(key[chosen] for key in keys), new_rows[rows[chosen]].astype(np.uint32)]
        first += int(np.count_nonzero(kept))
