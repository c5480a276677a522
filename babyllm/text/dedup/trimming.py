"""Removal of lines or paragraphs that many documents share; later steps see the trimmed texts.

slice -> hash_units -> units.npy (keys, document and index; sorted)
range of keys -> find_frequent -> removed.npy (document and index; sorted), the most frequent units
part -> trim -> part.parquet, trimmed.parquet (the documents that lost a unit)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from babyllm.files import fsync
from babyllm.ragged import U64
from babyllm.store.corpus import schema_of
from babyllm.store.parquet import open_parquet, parquet_writer
from babyllm.text.dedup.near.candidates import NO_PAIRS, pack, spans, unpack
from babyllm.text.dedup.near.linking import Steps
from babyllm.text.dedup.results import describe
from babyllm.text.dedup.slices import Files, Slice, read, read_texts, whole
from babyllm.text.dedup.steps import Setting, changes, shared_keys, untaken, write_rows
from babyllm.text.dedup.units import LinesConfig, unit_keys, unit_texts, without

N_FREQUENT = 12  # units that the report shows
_UNITS_PER_BYTE = 1 / 48  # units per byte of a partition: each takes 24 bytes and is held twice while sorted
TRIMMED = pa.schema(
    [
        ("id", pa.large_string()),
        ("domain", pa.large_string()),
        ("units", pa.int64()),
        ("characters", pa.int64()),
        ("removed", pa.bool_()),
    ]
)


class Loss(NamedTuple):
    """What some documents lost.

    Attributes:
        trimmed: number of documents that lost units and stay.
        removed: number of documents removed because too little was left.
        units: number of lines or paragraphs removed, those of removed documents included.
        characters: number of characters removed, all of removed documents included.
    """

    trimmed: int = 0
    removed: int = 0
    units: int = 0
    characters: int = 0

    def plus(self, other: Sequence[int]) -> Loss:
        """The sum of both."""
        return Loss(*(a + b for a, b in zip(self, other, strict=True)))


@dataclass(frozen=True)
class Trimming:
    """The trimmed inputs, and what they lost.

    Attributes:
        files: trimmed files of each input.
        losses: loss of each domain.
        frequent: units removed from most documents: (number of these documents, text).
        tables: files that list the documents that lost a unit.
    """

    files: list[Files]
    losses: dict[str, Loss]
    frequent: list[tuple[int, str]]
    tables: list[Path]

    def total(self) -> Loss:
        """The loss of all domains together."""
        return total_loss(self.losses)

    def reasons(self) -> dict[str, int]:
        """The number of documents removed, by reason."""
        n = self.total().removed
        return {"keeps less than --lines.min_left without lines that repeat": n} if n else {}


def trim_inputs(run: Steps, slices: Sequence[Sequence[Slice]], inputs: Sequence[Files]) -> Trimming:
    """Remove the lines or paragraphs of the inputs that many documents share.

    Args:
        run: runner of the steps.
        slices: slices of each corpus, the inputs first; the units of the others count, but stay.
        inputs: files of each input.
    """
    pieces = [piece for of_corpus in slices for piece in of_corpus]
    n_units = sum(run.run("lines", hash_units, pieces, "lines", [piece.size_bytes for piece in pieces]))
    ranges = [(span.start, span.stop) for (span,) in spans(1, n_units, run.portion(_UNITS_PER_BYTE), 1)]
    n_inputs = sum(piece.n for of_corpus in slices[: len(inputs)] for piece in of_corpus)
    found = run.run("frequent", find_frequent, ranges, "frequent lines", n_inputs=n_inputs)
    parts = whole(inputs, pieces)
    losses = run.run("trim", trim, parts, "documents trimmed", [part.size_bytes for part in parts])
    folders = run.setting.folders("trim")
    trimmed = iter(folders)
    files = [Files(of.prefix, [str(next(trimmed) / "part.parquet") for _ in of.paths]) for of in inputs]
    frequent = _most_frequent(run.setting, pieces, [unit for of_range in found for unit in of_range])
    return Trimming(files, add_losses(losses), frequent, [folder / "trimmed.parquet" for folder in folders])


def write_trimmed(tables: Sequence[Path], path: Path) -> None:
    """Write one table of all documents that lost something, from the tables of the parts."""
    with parquet_writer(path, TRIMMED) as file:
        for table in tables:
            with open_parquet(table) as found:
                for i in range(found.num_row_groups):
                    file.write_table(found.read_row_group(i))
    fsync(path)


def add_losses(losses: Iterable[dict[str, Loss] | dict[str, list[int]]]) -> dict[str, Loss]:
    """The loss of each domain, sorted, from those of the parts."""
    total: dict[str, Loss] = {}
    for domain, loss in (item for of_part in losses for item in of_part.items()):
        total[domain] = total.get(domain, Loss()).plus(loss)
    return dict(sorted(total.items()))


def total_loss(losses: dict[str, Loss]) -> Loss:
    """The loss of all domains together."""
    return Loss(*map(sum, zip(Loss(), *losses.values(), strict=True)))


def hash_units(piece: Slice, folder: Path, *, setting: Setting) -> int:
    """Compute the keys of the units of a slice, but for documents taken down; returns the number of units."""
    first, found = piece.first, [np.empty((3, 0), np.uint64)]
    for texts in read_texts(piece):
        numbers = np.arange(first, first + len(texts), dtype=np.uint64)
        found.append(unit_keys(texts, numbers, setting.config.lines, setting.config.fold))
        first += len(texts)
    keys = untaken(np.concatenate(found, axis=1), piece, setting)
    np.save(folder / "units.npy", keys[:, np.argsort(keys[0], kind="stable")])
    return int(keys.shape[1])


def find_frequent(item: tuple[int, int], folder: Path, *, setting: Setting, n_inputs: int) -> list[list[int]]:
    """Find the units to remove among those whose key's upper 32 bits lie in a range.

    Args:
        item: range of the keys.
        folder: folder of the result.
        setting: settings that all partitions share.
        n_inputs: number of documents of the inputs; those after them stay unchanged.

    Returns:
        The most frequent units to remove: number of documents that lose the unit, then number of the first of these
        documents and index of the unit in it.
    """
    keys = shared_keys(item, [folder / "units.npy" for folder in setting.folders("lines")])
    document = unpack(keys[2])[0]
    starts = np.flatnonzero(changes(keys[:2]))
    is_new = changes(np.stack([*keys[:2], document.view(np.uint64)]))
    sizes = np.diff([*starts, keys.shape[1]])
    n_documents = np.add.reduceat(is_new, starts, dtype=np.int64) if len(starts) else sizes
    is_frequent = n_documents >= (setting.config.lines.min_documents or 0)
    # Documents are sorted by number, so the last one of a unit says whether --against contains it.
    is_outside = document[starts + sizes - 1] >= n_inputs
    keeper = np.where(is_outside | (setting.config.lines.keep == "none"), -1, document[starts])
    goes = np.repeat(is_frequent, sizes) & (document < n_inputs) & (document != np.repeat(keeper, sizes))
    np.save(folder / "removed.npy", np.sort(keys[2, goes]))
    n_losing = np.add.reduceat(is_new & goes, starts, dtype=np.int64) if len(starts) else sizes
    first = np.flatnonzero(goes)[np.searchsorted(np.flatnonzero(goes), starts[n_losing > 0])]
    n_losing = n_losing[n_losing > 0]
    top = np.lexsort((keys[2, first], -n_losing))[:N_FREQUENT]
    most = np.stack([n_losing, *unpack(keys[2, first])], axis=1)[top]
    return [[int(value) for value in unit] for unit in most]


def trim(part: Slice, folder: Path, *, setting: Setting) -> dict[str, Loss]:
    """Write a part without the removed units; returns the loss of each domain."""
    removed = _removed_from(part, setting)
    losses: dict[str, Loss] = {}
    schema = schema_of(Path(part.path))

    def left(lost: Any) -> Iterator[pa.Table]:
        first = part.first
        for batch in read(replace(part, prefix=""), schema.names):
            start, stop = np.searchsorted(removed, _bounds(first, len(batch)))
            rows, changed = _trimmed(batch, removed[start:stop] - _bounds(first, 0)[0], setting.config.lines)
            first += len(batch)
            for row in changed:
                row["id"] = part.prefix + row["id"]
                losses[row["domain"]] = losses.get(row["domain"], Loss()).plus(loss_of(row))
            lost.write_table(pa.Table.from_pylist(changed, TRIMMED))
            yield rows.select(schema.names).cast(schema)

    with parquet_writer(folder / "trimmed.parquet", TRIMMED) as lost:
        write_rows(folder / "part.parquet", schema, left(lost))
    fsync(folder / "trimmed.parquet")
    return losses


def _trimmed(batch: pa.RecordBatch, removed: U64, config: LinesConfig) -> tuple[pa.Table, list[dict[str, Any]]]:
    """The rows that are left, and a row of `trimmed.parquet` for each document that lost a unit.

    Args:
        batch: documents.
        removed: (units,) uint64: packed index in the batch and index of the unit, of all units to remove.
        config: settings of the units.
    """
    rows = pa.Table.from_batches([batch])
    number, index = unpack(removed)
    changed, starts = np.unique(number, return_index=True)
    if not len(changed):
        return rows, []
    texts, stays, lost = batch.column("text").to_pylist(), np.ones(len(rows), bool), []
    for row, indices in zip(changed.tolist(), np.split(index, starts[1:]), strict=True):
        text = without(texts[row], indices.tolist(), config)
        stays[row] = len(text.strip()) >= config.min_left
        n = len(texts[row]) - (len(text) if stays[row] else 0)
        names = {name: batch.column(name)[row].as_py() for name in ("id", "domain")}
        lost.append({**names, "units": len(indices), "characters": n, "removed": not stays[row]})
        texts[row] = text
    column = pa.array(texts, pa.large_string())
    return rows.set_column(rows.schema.get_field_index("text"), "text", column).filter(pa.array(stays)), lost


def loss_of(row: dict[str, Any]) -> Loss:
    """The loss of one document, from its row of a table of `TRIMMED`."""
    return Loss(not row["removed"], row["removed"], row["units"], row["characters"])


def _removed_from(part: Slice, setting: Setting) -> U64:
    """(units,) uint64: the units that the documents of a part lose, packed, sorted."""
    found = [NO_PAIRS]
    for folder in setting.folders("frequent"):
        removed = np.load(folder / "removed.npy", mmap_mode="r")
        found.append(np.asarray(removed[slice(*np.searchsorted(removed, _bounds(part.first, part.n)))]))
    return np.sort(np.concatenate(found))


def _bounds(first: int, n: int) -> U64:
    """(2,) uint64: the packed numbers between which the units of n documents lie."""
    return pack(np.array([first, first + n]), np.zeros(2, np.uint64))


def _most_frequent(setting: Setting, pieces: Sequence[Slice], found: Sequence[Sequence[int]]) -> list[tuple[int, str]]:
    """The units removed from most documents: (number of these documents, text)."""
    top = sorted(found, key=lambda unit: (-unit[0], unit[1:]))[:N_FREQUENT]
    documents = np.unique(np.array([document for _, document, _ in top], np.int64))
    texts = dict(zip(documents.tolist(), describe(pieces, documents, ["text"])["text"].to_pylist(), strict=True))
    return [(n, unit_texts(texts[document], setting.config.lines)[index]) for n, document, index in top]
