"""Removal of spans that repeat, from the documents that other steps have kept.

kept parts, --against -> slices -> segments -> settled -> windows -> settled-windows       (`repeats`)
part -> cut -> part.parquet, trimmed.parquet (the documents that lost a span)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from babyllm.files import fsync
from babyllm.store.corpus import Count, schema_of
from babyllm.store.parquet import parquet_writer
from babyllm.text.dedup.near.candidates import spans, unpack
from babyllm.text.dedup.near.linking import Steps
from babyllm.text.dedup.slices import Files, Slice, cut, read
from babyllm.text.dedup.steps import Setting, counts_of, write_rows
from babyllm.text.dedup.substrings.repeats import bounds, mark_segments, mark_windows, repeated_spans, settle
from babyllm.text.dedup.substrings.substrings_config import SubstringsConfig
from babyllm.text.dedup.trimming import TRIMMED, Loss, add_losses, loss_of

N_LONGEST = 12  # spans that the report shows
_SHOWN_CHARACTERS = 600
_KEYS_PER_BYTE = 1 / 48  # keys per byte of a partition: each takes 24 bytes and is held twice while sorted


class Lost(NamedTuple):
    """Spans that the documents of a batch lose, ascending.

    Attributes:
        rows: (spans,) int64 index of the document in the batch.
        starts: (spans,) int64 index of each span's first character in its text.
        stops: (spans,) int64 index of the character after its last.
    """

    rows: NDArray[np.int64]
    starts: NDArray[np.int64]
    stops: NDArray[np.int64]


@dataclass(frozen=True)
class Cutting:
    """The documents without the spans that repeat, and what they lost.

    Attributes:
        folders: folder of each part, with `part.parquet`, and `trimmed.parquet` for the documents that lost a span.
        counts: documents, characters and bytes of each part by domain.
        losses: loss of each domain; units are spans.
        longest: longest spans removed: (number of characters, beginning of the text).
    """

    folders: list[Path]
    counts: list[dict[str, list[int]]]
    losses: dict[str, Loss]
    longest: list[tuple[int, str]]

    def reasons(self) -> dict[str, int]:
        """The number of documents removed, by reason."""
        n = sum(loss.removed for loss in self.losses.values())
        return {"keeps less than --substrings.min_left without spans that repeat": n} if n else {}


def cut_substrings(run: Steps, kept: Sequence[str], against: Sequence[Files]) -> Cutting:
    """Remove the spans that repeat.

    Args:
        run: runner of the steps.
        kept: paths of the parts whose documents lose spans, in their order.
        against: files of the corpora whose spans come first and stay.
    """
    inputs = Files("", list(kept))
    slices = cut([*against, inputs], run.setting.config.work.partition_bytes)
    pieces = [piece for of_corpus in slices for piece in of_corpus]
    first_input = sum(piece.n for of_corpus in slices[:-1] for piece in of_corpus)
    sizes = [piece.size_bytes for piece in pieces]

    def settled(step: str, name: str, n_keys: int) -> None:
        ranges = [(span.start, span.stop) for (span,) in spans(1, n_keys, run.portion(_KEYS_PER_BYTE), 1)]
        run.run(name, settle, ranges, f"repeats of {step}", made_from=pieces, step=step, first_input=first_input)

    n_segments = sum(run.run("segments", mark_segments, pieces, "segments", sizes, first_input=first_input))
    settled("segments", "settled", n_segments)
    items = list(zip(pieces, range(len(pieces)), strict=True))
    n_windows = sum(run.run("windows", mark_windows, items, "windows", sizes, first_input=first_input))
    settled("windows", "settled-windows", n_windows)
    parts: dict[str, list[tuple[Slice, int]]] = {path: [] for path in inputs.paths}
    for item in items[len(pieces) - len(slices[-1]) :]:
        parts[item[0].path].append(item)
    part_sizes = [sum(piece.size_bytes for piece, _ in of_part) for of_part in parts.values()]
    results = run.run("cut", cut_part, list(parts.items()), "documents cut", part_sizes, made_from=pieces)
    return _joined(run.setting.folders("cut"), results)


def cut_part(item: tuple[str, list[tuple[Slice, int]]], folder: Path, *, setting: Setting) -> dict[str, Any]:
    """Write a part without the spans that repeat.

    Args:
        item: path of the part, and its slices with their indices.
        folder: folder of the result.
        setting: settings that all parts share.

    Returns:
        "counts": documents, characters and bytes by domain; "losses" by domain; "longest": as in `Cutting`.
    """
    path, slices = item
    counts: dict[str, Count] = {}
    losses: dict[str, Loss] = {}
    longest: set[tuple[int, str]] = set()
    schema = schema_of(Path(path))

    def left(lost: Any) -> Iterator[pa.Table]:
        for batch, found in _batches(slices, schema.names, setting):
            rows, changed, removed = _cut(batch, found, setting.config.substrings)
            longest.update(removed)
            if len(longest) > 64 * N_LONGEST:
                longest.intersection_update(_longest(longest))
            for row in changed:
                losses[row["domain"]] = losses.get(row["domain"], Loss()).plus(loss_of(row))
            lost.write_table(pa.Table.from_pylist(changed, TRIMMED))
            for domain, size in counts_of(rows).items():
                counts[domain] = counts.get(domain, Count()) + size
            yield rows.select(schema.names).cast(schema)

    with parquet_writer(folder / "trimmed.parquet", TRIMMED) as lost:
        write_rows(folder / "part.parquet", schema, left(lost))
    fsync(folder / "trimmed.parquet")
    sizes = {domain: [size.documents, size.characters, size.bytes] for domain, size in counts.items()}
    return {"counts": sizes, "losses": losses, "longest": _longest(longest)}


def without(text: str, removed: Sequence[Sequence[int]]) -> str:
    """The text without some spans (index of the first character, and after the last), which are ascending and apart.

    What was before and after a span is joined. Of the whitespace on both sides, that with more line breaks stays, then
    the longer one; at the ends of the text, none does.
    """
    edges = [0, *(edge for span in removed for edge in span), len(text)]
    pieces = [text[start:stop] for start, stop in zip(edges[::2], edges[1::2], strict=True)]
    kept: list[str] = []
    gaps: list[str] = []
    for number, piece in enumerate(pieces):
        after = piece.lstrip()
        core = after.rstrip()
        if not core:
            gaps.append(piece)
            continue
        gaps.append(piece[: len(piece) - len(after)])
        if kept or not number:
            kept.append(max(gaps, key=lambda gap: (gap.count("\n"), len(gap))))
        kept.append(core)
        gaps = [after[len(core) :]]
    return "".join(kept) + (gaps[0] if len(gaps) == 1 and kept else "")


def _batches(
    slices: Sequence[tuple[Slice, int]], columns: Sequence[str], setting: Setting
) -> Iterator[tuple[pa.RecordBatch, Lost]]:
    """The rows of a part, some thousands at a time, with the spans that they lose."""
    for piece, index in slices:
        starts, stops = repeated_spans(piece, index, setting)
        first = piece.first
        for batch in read(piece, columns):
            inside = slice(*np.searchsorted(starts, bounds(first, len(batch))))
            row, start = unpack(starts[inside])
            yield batch, Lost(row - first, start, unpack(stops[inside])[1])
            first += len(batch)


def _cut(
    batch: pa.RecordBatch, lost: Lost, config: SubstringsConfig
) -> tuple[pa.Table, list[dict[str, Any]], list[tuple[int, str]]]:
    """The rows that are left, a row of `trimmed.parquet` for each document that lost a span, and all spans lost.

    Spans are described by their length and the beginning of their text.
    """
    rows = pa.Table.from_batches([batch])
    changed, firsts = np.unique(lost.rows, return_index=True)
    if not len(changed):
        return rows, [], []
    texts, stays = batch.column("text").to_pylist(), np.ones(len(rows), bool)
    table: list[dict[str, Any]] = []
    shown: list[tuple[int, str]] = []
    edges = np.stack([lost.starts, lost.stops], axis=1)
    for row, of_row in zip(changed.tolist(), np.split(edges, firsts[1:]), strict=True):
        before, removed = texts[row], of_row.tolist()
        text = texts[row] = without(before, removed)
        stays[row] = len(text.strip()) >= config.min_left
        n = len(before) - (len(text) if stays[row] else 0)
        names = {name: batch.column(name)[row].as_py() for name in ("id", "domain")}
        table.append({**names, "units": len(removed), "characters": n, "removed": not stays[row]})
        shown += [(stop - start, before[start : min(stop, start + _SHOWN_CHARACTERS)]) for start, stop in removed]
    column = pa.array(texts, pa.large_string())
    left = rows.set_column(rows.schema.get_field_index("text"), "text", column).filter(pa.array(stays))
    return left, table, shown


def _longest(found: Iterable[tuple[int, str]]) -> list[tuple[int, str]]:
    return sorted(found, key=lambda span: (-span[0], span[1]))[:N_LONGEST]


def _joined(folders: list[Path], results: Sequence[dict[str, Any]]) -> Cutting:
    longest = {(n, text) for result in results for n, text in result["longest"]}
    losses = add_losses(result["losses"] for result in results)
    return Cutting(folders, [result["counts"] for result in results], losses, _longest(longest))
