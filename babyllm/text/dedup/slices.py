"""Corpora cut into slices, each the work of one process at a time; documents are numbered across all corpora."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from babyllm.errors import UserError
from babyllm.store.corpus import Corpus, read_rows, row_groups

_BATCH_BYTES = 1 << 20  # bytes of text processed at once
_BATCH_ROWS = 4096


@dataclass(frozen=True)
class Slice:
    """Some successive row groups of one file.

    Attributes:
        path: path of the file.
        row_groups: index of the first row group, and of the one after the last.
        first: number of the first document.
        n: number of documents.
        size_bytes: bytes that its columns take in memory.
        prefix: beginning of its ids, which no other corpus has; empty if there is one corpus.
    """

    path: str
    row_groups: tuple[int, int]
    first: int
    n: int
    size_bytes: int
    prefix: str


@dataclass(frozen=True)
class Files:
    """The files of a corpus.

    Attributes:
        prefix: beginning of its ids; empty if there is one corpus.
        paths: paths of the files, in their order.
    """

    prefix: str
    paths: list[str]


def files_of(corpora: Sequence[Corpus]) -> list[Files]:
    """The files of each corpus.

    Raises:
        UserError: a corpus is named twice.
    """
    of_corpora = zip(corpora, prefixes([corpus.directory for corpus in corpora]), strict=True)
    return [
        Files(prefix, [str(corpus.directory / part.file) for part in corpus.parts]) for corpus, prefix in of_corpora
    ]


def cut(corpora: Sequence[Files], partition_bytes: int) -> list[list[Slice]]:
    """The slices of each corpus; a slice is one row group, or several that together take at most `partition_bytes`.

    Raises:
        UserError: a file is damaged.
    """
    slices: list[list[Slice]] = []
    n_before = 0
    for files in corpora:
        slices.append([])
        for path in files.paths:
            for group in row_groups(Path(path), partition_bytes):
                row_range = group.begin, group.end
                slices[-1].append(Slice(path, row_range, n_before, group.n, group.size_bytes, files.prefix))
                n_before += group.n
    return slices


def whole(corpora: Sequence[Files], pieces: Sequence[Slice]) -> list[Slice]:
    """One slice for each file, joined from pieces that hold all documents."""
    found: dict[str, Slice] = {}
    for piece in pieces:
        before = found.get(piece.path)
        found[piece.path] = piece if before is None else _joined(before, piece)
    empty = Slice("", (0, 0), 0, 0, 0, "")  # for a file without documents
    return [found.get(path, replace(empty, path=path)) for files in corpora for path in files.paths]


def _joined(before: Slice, piece: Slice) -> Slice:
    return replace(
        before,
        row_groups=(before.row_groups[0], piece.row_groups[1]),
        n=before.n + piece.n,
        size_bytes=before.size_bytes + piece.size_bytes,
    )


def read(piece: Slice, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """The rows of a slice in order, some thousands at a time; `id` has its prefix.

    Raises:
        UserError: the file is damaged.
    """
    # Arrow's own pools do not return tens of megabytes of freed memory to the system.
    pa.set_memory_pool(pa.system_memory_pool())
    for batch in read_rows(Path(piece.path), columns, range(*piece.row_groups), _BATCH_ROWS):
        if "id" in columns and piece.prefix:
            ids = pc.binary_join_element_wise(piece.prefix, batch.column("id"), "")
            batch = batch.set_column(batch.schema.get_field_index("id"), "id", ids)
        yield batch


def read_texts(piece: Slice) -> Iterator[pa.Array]:
    """The texts of a slice in order, as arrays of large strings of about a megabyte.

    Raises:
        UserError: the file is damaged.
    """
    for batch in read(piece, ["text"]):
        texts = batch.column(0).cast(pa.large_string())
        sizes = pc.cumulative_sum(pc.binary_length(texts)).to_numpy()
        first = 0
        while first < len(texts):
            before = sizes[first - 1] if first else 0
            stop = max(first + 1, int(sizes.searchsorted(before + _BATCH_BYTES, side="right")))
            yield texts.slice(first, stop - first)
            first = stop


def prefixes(directories: Sequence[Path]) -> list[str]:
    """The shortest end of each path that distinguishes it from the others, with a trailing slash; empty for one path.

    Raises:
        UserError: a path is named twice.
    """
    if len(directories) == 1:
        return [""]
    parts = [directory.resolve().parts for directory in directories]
    if len(set(parts)) < len(parts):
        raise UserError(f"{', '.join(map(str, directories))}: the same corpus is named twice; name it once")
    depth = next(d for d in range(1, 1 + max(map(len, parts))) if len({p[-d:] for p in parts}) == len(parts))
    return ["/".join(p[-depth:]).lstrip("/") + "/" for p in parts]
