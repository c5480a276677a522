"""A further generation of an index: the keys and shingles of the documents that a run has kept.

new documents' sketches, removed.npy -> describe -> documents, shingles    (a file of each for each slice)
                                     -> sort_keys -> keys, exact           (a file for each range of keys)
                                     -> the folder of the generation -> index.json

A document's row is its number among those that stay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from babyllm.ragged import Ragged, compress, offsets_of
from babyllm.text.dedup.index.kept_index import Generation, KeptIndex, file_name, put_in_place
from babyllm.text.dedup.index.sorted_tables import EXACT, KEYS, write_sets, write_sorted, write_table
from babyllm.text.dedup.near.candidates import Span, load, spans, unpack
from babyllm.text.dedup.near.linking import ENTRIES_PER_BYTE, Steps
from babyllm.text.dedup.slices import Slice, read
from babyllm.text.dedup.steps import Setting

DESCRIBED, SORTED = "kept-documents", "kept-keys"
NAMES = pa.schema([(name, pa.string()) for name in ("id", "domain", "url")])
HASH, LENGTH = pa.field("hash", pa.binary(16)), pa.field("length", pa.int64())
ROWS = 4096  # rows of a row group of documents
_LITTLE = 1 / 16  # keys for each byte of a partition that this process sorts before others have started


def grow(
    run: Steps,
    slices: Sequence[Slice],
    removed: NDArray[np.int64],
    index: KeptIndex,
    digest: str,
    settings: Mapping[str, Any],
) -> None:
    """Add the documents that stay to an index, unless this run has added them already.

    Args:
        run: runner that has run all steps, and has stored the removed documents for `steps.keep`.
        slices: slices of the inputs, whose documents are numbered from 0.
        removed: (documents,) int64 numbers of the removed documents of the inputs, ascending.
        index: index, whose lock is held.
        digest: digest of the inputs and settings of the run.
        settings: settings of keys and shingles, by flag.
    """
    if digest in index.made():
        return
    setting = run.setting
    n = sum(piece.n for piece in slices)
    parts = [
        piece.n - int(np.diff(np.searchsorted(removed, [piece.first, piece.first + piece.n]))[0]) for piece in slices
    ]
    items = list(enumerate(slices))
    run.run(DESCRIBED, describe, items, "kept documents", [piece.size_bytes // 2 for piece in slices])
    exact = [("exact", list(found)) for found in spans(1, n, run.portion(ENTRIES_PER_BYTE / 3), 1)]
    keys = [
        ("keys", list(found))
        for name in setting.config.near
        for found in spans(setting.method(name).n_tables, n, run.portion(ENTRIES_PER_BYTE))
    ]
    n_tables = sum(setting.method(name).n_tables for name in setting.config.near)
    is_little = n * (2 + n_tables) < run.portion(_LITTLE)
    run.run(SORTED, sort_keys, [*exact, *keys], "keys of the index", is_little=is_little, made_from=items, n=n)
    files: dict[str, Path] = {}
    for number, folder in enumerate(setting.own_folders(DESCRIBED)):
        for kind in ("documents", "shingles"):
            files[file_name(kind, number)] = folder / f"{kind}.parquet"
    for number, folder in enumerate(setting.own_folders(SORTED)):
        is_exact = number < len(exact)
        name = file_name("exact", number) if is_exact else file_name("keys", number - len(exact))
        files[name] = folder / "keys.parquet"
    generation = Generation(str(index.directory), index.next_name(), (digest,), tuple(parts), len(keys), len(exact))
    put_in_place(index, generation.name, files)
    index.commit(settings, [*index.generations, generation])


def _removed(setting: Setting) -> NDArray[np.int64]:
    found: NDArray[np.int64] = np.load(setting.directory / "removed.npy", mmap_mode="r")
    return found


def describe(item: tuple[int, Slice], folder: Path, *, setting: Setting) -> int:
    """Write names, hashes, lengths and shingles of the documents of a slice that stay; returns their number."""
    number, piece = item
    sketch = setting.own_folders("sketch")[number]
    stays = np.ones(piece.n, bool)
    removed = _removed(setting)
    stays[removed[slice(*np.searchsorted(removed, [piece.first, piece.first + piece.n]))] - piece.first] = False
    tables, row = [NAMES.empty_table()], 0
    for batch in read(piece, NAMES.names):
        chosen = batch.filter(pa.array(stays[row : row + len(batch)]))
        row += len(batch)
        columns = [chosen[n] if n in batch.schema.names else pa.nulls(len(chosen), pa.string()) for n in NAMES.names]
        tables.append(pa.table([column.cast(pa.string()) for column in columns], schema=NAMES))
    table = pa.concat_tables(tables)
    hashes = np.ascontiguousarray(np.load(sketch / "hashes.npy").T[stays].astype(">u8"))
    table = table.append_column(HASH, pa.Array.from_buffers(HASH.type, len(hashes), [None, pa.py_buffer(hashes)]))
    lengths = np.load(sketch / "lengths.npy")[stays].astype(np.int64)
    write_table(folder / "documents.parquet", table.append_column(LENGTH, pa.array(lengths)), ROWS)
    sets = Ragged(np.empty(0, np.uint64), np.zeros(len(table) + 1, np.int64))
    if setting.keeps_sets():
        offsets = np.load(sketch / "offsets.npy")
        rows = Ragged(np.load(sketch / "sets.npy", mmap_mode="r"), offsets)
        in_use = np.repeat(stays, rows.lengths())
        sets = Ragged(compress(rows, in_use).values, offsets_of(rows.lengths()[stays]))
    write_sets(folder / "shingles.parquet", sets)
    return len(table)


def sort_keys(item: tuple[str, Sequence[Span]], folder: Path, *, setting: Setting, n: int) -> int:
    """Write the sorted keys of a range of the documents that stay; returns their number.

    Args:
        item: kind of the keys, and spans that follow each other.
        folder: folder of the file.
        setting: settings that all partitions share.
        n: number of documents of the inputs; those of --against follow them and are not written.
    """
    kind, found = item
    removed = _removed(setting)
    if kind == "exact":
        keys = _exact(setting, found[0].start << 32, found[-1].stop << 32)
        rows = keys[-1].view(np.int64)
    else:
        files = [sketch / "minhash.npy" for sketch in setting.own_folders("sketch")]
        pieces = [(span.table, *unpack(load(span, files))) for span in found]
        rows = np.concatenate([row for _, _, row in pieces])
        keys = np.concatenate([key.astype(np.uint64) | np.uint64(table << 32) for table, key, _ in pieces])[None]
    place = np.searchsorted(removed, rows)
    stays = rows < n
    if len(removed):
        stays &= removed[np.minimum(place, len(removed) - 1)] != rows
    columns = [keys[0][stays], *([keys[1][stays]] if kind == "exact" else []), (rows - place)[stays].astype(np.uint32)]
    write_sorted(folder / "keys.parquet", EXACT if kind == "exact" else KEYS, columns)
    return len(columns[0])


def _exact(setting: Setting, low: int, high: int) -> NDArray[np.uint64]:
    """(3, n) uint64: two hashes and the document, sorted by the first hash, which is in a range."""
    pieces = [np.empty((3, 0), np.uint64)]
    for folder in setting.own_folders("sketch"):
        keys = np.load(folder / "exact.npy", mmap_mode="r")
        stop = keys.shape[1] if high == 1 << 64 else np.searchsorted(keys[0], np.uint64(high))
        pieces.append(keys[:, np.searchsorted(keys[0], np.uint64(low)) : stop])
    keys = np.concatenate(pieces, axis=1)
    return keys[:, np.argsort(keys[0], kind="stable")]
