"""The work on one partition in each step of the stage: functions that write their results into a folder.

count    slice -> frequencies.npy                      (SimHash with tfidf only)
sketch   slice -> lengths, exact, minhash, simhash, simhash-prints, contaminated, taken (.npy); sets for an index
exact    range of exact keys -> links.npy              (repetition, the document it repeats)
propose  ranges of band or table keys -> pairs.npy, members.npy, offsets.npy
shingle  slice -> the sets of its documents in a pair or group
compare  pairs or groups -> pairs.npy, similarity.npy
compare_standing  groups -> the same                   (direct clusters only)
keep     part -> part.parquet without the removed documents
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from babyllm.files import fsync
from babyllm.ragged import U64, Ragged, compress, hash_rows, offsets_of, reduce_rows
from babyllm.store.corpus import Count, schema_of
from babyllm.store.parquet import parquet_writer
from babyllm.text.dedup import decontaminate
from babyllm.text.dedup.dedup_config import DedupConfig
from babyllm.text.dedup.exact import exact_forms
from babyllm.text.dedup.near.candidates import NO_PAIRS, Candidates, Span, entries, find, load, merge, unpack
from babyllm.text.dedup.near.frequencies import N_COUNTERS, frequencies
from babyllm.text.dedup.near.methods import METHODS, Method
from babyllm.text.dedup.near.shingles import distinct, shingles
from babyllm.text.dedup.near.verify import Links, SetStore, verify, verify_groups, verify_in_order, write_sets
from babyllm.text.dedup.normal import fold
from babyllm.text.dedup.slices import Slice, read, read_texts
from babyllm.text.takedowns import NO_TAKEDOWNS, Takedowns

GRAMS = "grams.bin"  # the n-grams of the evaluation sets
IDF = "idf.npy"  # the inverse document frequencies of shingles
RECALLED = "recalled-"  # beginning of the steps whose folders follow those of the new documents, see `index.recall`
_ROW_GROUP_BYTES = 2 << 20


@dataclass(frozen=True)
class Setting:
    """Settings that all partitions share.

    Attributes:
        config: settings of the stage.
        n_documents: number of documents in all corpora.
        directory: directory of the intermediate files.
        takedowns: documents that are removed whatever they say.
    """

    config: DedupConfig
    n_documents: int
    directory: Path
    takedowns: Takedowns = NO_TAKEDOWNS

    def folders(self, step: str) -> list[Path]:
        """The finished folders of a step, in their order; then those of documents recalled from an index."""
        own = self.own_folders("sketch" if step == "sets" and self.keeps_sets() else step)
        return own + (self.own_folders(RECALLED + step) if self.config.index else [])

    def own_folders(self, step: str) -> list[Path]:
        """The same without recalled documents."""
        return sorted(folder for folder in (self.directory / step).glob("[0-9]*") if folder.is_dir())

    def keeps_sets(self) -> bool:
        """Whether the sketches hold the shingles of all documents, because an index will."""
        return self.config.index is not None and bool(self.config.near)

    def method(self, name: str) -> Method:
        """The method of this name for finding near-duplicates."""
        idf = self.directory / IDF
        return METHODS[name].build(self.config, self.n_documents, np.load(idf) if idf.exists() else None)


def count(item: tuple[Slice, bool], folder: Path, *, setting: Setting) -> None:
    """Count the documents of a slice that hold each counter's shingles."""
    total = np.zeros(N_COUNTERS, np.uint32)
    for texts in read_texts(item[0]):
        total += frequencies(distinct(shingles(fold(texts), setting.config.shingles)))
    np.save(folder / "frequencies.npy", total)


def sketch(item: tuple[Slice, bool], folder: Path, *, setting: Setting) -> dict[str, int]:
    """Compute the keys of a slice's documents; the item also says whether to compare them with evaluation sets."""
    piece, is_checked = item
    config, first = setting.config, piece.first
    grams = setting.directory / GRAMS
    benchmarks = decontaminate.load(grams, config.decontaminate_words) if is_checked and grams.exists() else None
    methods = {name: setting.method(name) for name in config.near}
    found: dict[str, list[NDArray[Any]]] = {}
    sets = [Ragged(NO_PAIRS, np.zeros(1, np.int64))]
    taken = taken_in(piece, setting)
    found["taken"] = [np.flatnonzero(taken) + first]

    def add(name: str, value: NDArray[Any]) -> None:
        found.setdefault(name, []).append(value)

    for texts in read_texts(piece):
        folded, numbers = fold(texts), np.arange(first, first + len(texts))
        first += len(texts)
        add("lengths", pc.utf8_length(texts).to_numpy())
        is_clean = ~taken[numbers - piece.first]
        if benchmarks:
            n_matches, gram = decontaminate.matches(folded, benchmarks)
            add("contaminated", np.stack([numbers, n_matches, gram])[:, is_clean & (n_matches > 0)])
            is_clean &= n_matches == 0
        hashed = hash_rows(exact_forms(texts, config.fold))
        if config.index is not None:
            add("hashes", np.stack(hash_rows(exact_forms(texts, [])) if config.fold else hashed))
        add("exact", np.stack([*hashed, numbers.view(np.uint64)])[:, is_clean])
        if not methods:
            continue
        hashes = shingles(folded, config.shingles)
        is_clean &= hashes.lengths() > 0
        if setting.keeps_sets():
            sets.append(distinct(hashes))
        for name, method in methods.items():
            keys, prints = method.sketch(hashes)
            add(name, entries(keys[:, is_clean], numbers[is_clean]))
            if prints is not None:
                add(f"{name}-prints", prints)
    _save_sketch(found, folder)
    if setting.keeps_sets():
        write_sets(folder, np.arange(piece.first, first), _concatenated(sets))
    return {"contaminated": sum(part.shape[1] for part in found.get("contaminated", []))}


def _save_sketch(found: dict[str, list[NDArray[Any]]], folder: Path) -> None:
    for name, parts in found.items():
        whole = np.concatenate(parts, axis=0 if parts[0].ndim == 1 or name.endswith("-prints") else 1)
        if name in METHODS:
            whole.sort(axis=1)
        elif name == "exact":
            whole = whole[:, np.argsort(whole[0])]
        np.save(folder / f"{name}.npy", whole)


def taken_in(piece: Slice, setting: Setting) -> NDArray[np.bool_]:
    """(documents,) bool: whether each document of a slice is taken down."""
    if not setting.takedowns:
        return np.zeros(piece.n, bool)
    rows = read(piece, ["id", "text", "url"])
    return np.concatenate([np.zeros(0, bool), *(named_in(setting.takedowns, batch, piece.prefix) for batch in rows)])


def untaken(keys: U64, piece: Slice, setting: Setting) -> U64:
    """The columns of (rows, keys) uint64 whose document, packed in the last row, is not taken down."""
    if not setting.takedowns:
        return keys
    untouched: U64 = keys[:, ~taken_in(piece, setting)[unpack(keys[-1])[0] - piece.first]]
    return untouched


def named_in(takedowns: Takedowns, rows: pa.RecordBatch, prefix: str) -> NDArray[np.bool_]:
    """(rows,) bool: whether each row of a slice is taken down; with the prefix of its id or without."""
    ids = rows.column("id").to_pylist()
    urls = rows.column("url").to_pylist() if "url" in rows.schema.names else ()
    found = takedowns.names(ids, urls, rows.column("text"))
    return found | takedowns.names_hashed([name.removeprefix(prefix) for name in ids], (), ())


def exact(item: tuple[int, int], folder: Path, *, setting: Setting) -> None:
    """Find the exact repetitions among documents whose key's upper 32 bits lie in a range."""
    keys = shared_keys(item, [folder / "exact.npy" for folder in setting.folders("sketch")])
    starts = changes(keys[:2])
    repeated = keys[2, np.flatnonzero(starts)[np.cumsum(starts) - 1]] if len(starts) else keys[2]
    np.save(folder / "links.npy", np.stack([keys[2], repeated])[:, ~starts].view(np.int64))


def shared_keys(key_range: tuple[int, int], files: Sequence[Path]) -> U64:
    """(3, shared) uint64: the columns of all files whose first hash occurs twice, sorted by row 0, then 1, then 2.

    Args:
        key_range: range in which the upper 32 bits of the first hashes lie.
        files: files of (3, entries) uint64 arrays: two hashes and a number, sorted by the first hash.
    """
    pieces = [np.empty((3, 0), np.uint64)]
    for file in files:
        keys = np.load(file, mmap_mode="r")
        start = np.searchsorted(keys[0], np.uint64(key_range[0] << 32))
        is_last = key_range[1] == 1 << 32
        stop = keys.shape[1] if is_last else np.searchsorted(keys[0], np.uint64(key_range[1] << 32))
        pieces.append(np.asarray(keys[:, start:stop]))
    keys, is_shared = in_order(np.concatenate(pieces, axis=1))
    return keys[:, is_shared]


def in_order(keys: U64) -> tuple[U64, NDArray[np.bool_]]:
    """Sort the columns of (3, entries) uint64 by row 0, and those that share their value there by rows 1 and 2 as well.

    Returns:
        the sorted columns, in the same memory, and (entries,) bool: whether each shares its value of row 0.
    """
    order = np.argsort(keys[0])
    for row in keys:
        row[:] = row[order]
    same = keys[0, 1:] == keys[0, :-1]
    is_shared = np.zeros(keys.shape[1], bool)
    is_shared[1:] |= same
    is_shared[:-1] |= same
    shared = keys[:, is_shared]  # few, so that a slow sort is good enough
    keys[:, is_shared] = shared[:, np.lexsort((shared[2], shared[1], shared[0]))]
    return keys, is_shared


def changes(rows: U64) -> NDArray[np.bool_]:
    """(columns,) bool: whether each column differs from the one before it; true for the first one."""
    starts = np.ones(rows.shape[1], bool)
    starts[1:] = (rows[:, 1:] != rows[:, :-1]).any(axis=0)
    return starts


def exact_links(setting: Setting) -> NDArray[np.int64]:
    """(2, links) int64: each repetition, and the document it repeats."""
    found = [np.load(folder / "links.npy") for folder in setting.folders("exact")]
    return np.concatenate([np.empty((2, 0), np.int64), *found], axis=1)


def propose(item: Sequence[Span], folder: Path, *, setting: Setting, method: str) -> int:
    """Find the pairs and groups that share a key of a method; returns the number of pairs."""
    is_repetition = np.zeros(setting.n_documents, bool)
    is_repetition[exact_links(setting)[0]] = True
    sketches = setting.folders("sketch")
    chosen, prints = setting.method(method), _fingerprints(sketches, method)
    found = []
    for span in item:
        entry = load(span, [sketched / f"{method}.npy" for sketched in sketches])
        candidates = find(entry[~is_repetition[unpack(entry)[1]]])
        if prints is not None:
            candidates = Candidates(chosen.narrow(candidates.pairs, prints), candidates.groups)
        found.append(candidates)
    pairs, groups = merge(found)
    np.save(folder / "pairs.npy", pairs)
    np.save(folder / "members.npy", groups.values)
    np.save(folder / "offsets.npy", groups.offsets)
    return len(pairs)


def shingle(item: tuple[Slice, bool], folder: Path, *, setting: Setting) -> None:
    """Compute the sets of shingles of a slice's documents that are in a pair or group."""
    piece = item[0]
    wanted = np.load(setting.directory / "wanted.npy", mmap_mode="r")[piece.first : piece.first + piece.n]
    numbers, sets = np.flatnonzero(wanted), [Ragged(NO_PAIRS, np.zeros(1, np.int64))]
    row = 0
    for texts in read_texts(piece) if len(numbers) else ():
        rows = np.flatnonzero(wanted[row : row + len(texts)])
        row += len(texts)
        if len(rows):
            sets.append(distinct(shingles(fold(texts.take(pa.array(rows))), setting.config.shingles)))
    write_sets(folder, numbers + piece.first, _concatenated(sets))


def _concatenated(rows: Sequence[Ragged]) -> Ragged:
    lengths = np.concatenate([part.lengths() for part in rows])
    return Ragged(np.concatenate([part.values for part in rows]), offsets_of(lengths))


def compare(item: tuple[str, int, int], folder: Path, *, setting: Setting, method: str) -> None:
    """Find the links among the pairs whose first document lies in a range, or among the groups of one folder."""
    kind, start, stop = item
    store, proposed = SetStore(setting.folders("sets")), setting.folders(method)
    if kind == "pairs":
        files = [np.load(found / "pairs.npy", mmap_mode="r") for found in proposed]
        bounds = np.array([start << 32, stop << 32], np.uint64)
        pairs = [file[slice(*np.searchsorted(file, bounds))] for file in files]
        links = verify(store, np.unique(np.concatenate(pairs)), setting.config.threshold)
    else:
        links = verify_groups(store, _groups(proposed[start]), setting.config.threshold)
    _save_links(links, folder)


def compare_standing(item: int, folder: Path, *, setting: Setting, method: str, n_fixed: int) -> None:
    """Find the links among the documents that stay in the groups of one folder, preferred documents first."""
    groups = open_groups(setting, method, item)
    ranks = np.load(setting.directory / "ranks.npy", mmap_mode="r")[groups.values]
    order = np.lexsort((ranks, np.repeat(np.arange(len(groups.offsets) - 1), groups.lengths())))
    in_order = Ragged(groups.values[order], groups.offsets)
    store = SetStore(setting.folders("sets"))
    _save_links(verify_in_order(store, in_order, ranks[order] < n_fixed, setting.config.threshold), folder)


def open_groups(setting: Setting, method: str, number: int) -> Ragged:
    """The documents that stay of each group of a folder, if these changed and are two or more."""
    stays, before = np.load(setting.directory / "stays.npy", mmap_mode="r")
    groups = _groups(setting.folders(method)[number])
    is_in = stays[groups.values]
    changed = reduce_rows(np.logical_or, Ragged(is_in != before[groups.values], groups.offsets), False)
    standing = compress(groups, is_in & np.repeat(changed, groups.lengths()))
    lengths = standing.lengths()
    return Ragged(standing.values[np.repeat(lengths > 1, lengths)], offsets_of(lengths[lengths > 1]))


def _groups(folder: Path) -> Ragged:
    return Ragged(np.load(folder / "members.npy"), np.load(folder / "offsets.npy"))


def _save_links(links: Links, folder: Path) -> None:
    np.save(folder / "pairs.npy", links.pairs)
    np.save(folder / "similarity.npy", links.similarity)


def keep(item: Slice, folder: Path, *, setting: Setting) -> dict[str, list[int]]:
    """Write one part of a corpus without the removed documents; returns documents, characters and bytes by domain."""
    removed: NDArray[np.int64] = np.load(setting.directory / "removed.npy", mmap_mode="r")
    total: dict[str, Count] = {}
    schema = schema_of(Path(item.path))

    def left() -> Iterator[pa.Table]:
        number = item.first
        for batch in read(item, schema.names):
            inside = removed[slice(*np.searchsorted(removed, [number, number + len(batch)]))]
            stays = np.ones(len(batch), bool)
            stays[inside - number] = False
            number += len(batch)
            rows = pa.Table.from_batches([batch]).filter(pa.array(stays)).select(schema.names).cast(schema)
            for domain, size in counts_of(rows).items():
                total[domain] = total.get(domain, Count()) + size
            yield rows

    write_rows(folder / "part.parquet", schema, left())
    return {domain: [size.documents, size.characters, size.bytes] for domain, size in total.items()}


def write_rows(path: Path, schema: pa.Schema, rows: Iterable[pa.Table]) -> None:
    """Write a part of a corpus in row groups of about two megabytes."""
    with parquet_writer(path, schema) as file:
        tables: list[pa.Table] = []
        for table in rows:
            tables.append(table)
            if sum(table.nbytes for table in tables) >= _ROW_GROUP_BYTES:
                file.write_table(pa.concat_tables(tables))
                tables = []
        if tables:
            file.write_table(pa.concat_tables(tables))
    fsync(path)


def counts_of(rows: pa.Table) -> dict[str, Count]:
    """The size of each domain in some rows of a corpus."""
    sizes = rows.select(["domain"])
    sizes = sizes.append_column("characters", pc.cast(pc.utf8_length(rows["text"]), pa.int64()))
    sizes = sizes.append_column("bytes", pc.cast(pc.binary_length(rows["text"]), pa.int64()))
    groups = sizes.group_by("domain").aggregate([("bytes", "count"), ("characters", "sum"), ("bytes", "sum")])
    columns = [groups[name].to_pylist() for name in ("domain", "bytes_count", "characters_sum", "bytes_sum")]
    return {domain: Count(*numbers) for domain, *numbers in zip(*columns, strict=True)}


def _fingerprints(sketches: Sequence[Path], method: str) -> U64 | None:
    """The fingerprints of all documents, in rows by document number; None if the method has none."""
    files = [folder / f"{method}-prints.npy" for folder in sketches]
    files = [file for file in files if file.exists()]
    return np.concatenate([np.load(file) for file in files]) if files else None
