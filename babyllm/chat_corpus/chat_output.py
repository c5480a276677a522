"""Chat files written in the form they came in: JSON lines, a JSON array, CSV, TSV, Parquet or Arrow, compressed or not.

worker:  kept records of a partition -> ChatSink -> a piece for each file, rejected.jsonl
in all:  pieces of a file, in order -> join_chats -> the file

Fields keep their names, order and values. Text files become UTF-8. The files of an archive become single files.
"""

from __future__ import annotations

import csv
import io
import json
import lzma
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from babyllm.chat.reading import READ
from babyllm.chat_corpus.chat_records import ChatRecord
from babyllm.errors import UserError
from babyllm.files import fsync
from babyllm.pipeline.output import REJECTED
from babyllm.pipeline.report_html import REPORT_FILES
from babyllm.store.chat_folders import CHATS
from babyllm.store.parquet import open_parquet, parquet_writer
from babyllm.text.readers import Rejected, Source
from babyllm.text.readers.formats.json_values import JSON_SUFFIXES, holds_lines, json_blocks
from babyllm.text.readers.formats.table import ARCHIVES, TABLES

ROWS = 1024  # rows of a table that are converted together
COPY_BYTES = 1 << 20
EXCERPT = 200  # characters of a rejected conversation that are listed
OWN_FILES = (CHATS, REJECTED, *REPORT_FILES, "scores.parquet", "clusters.parquet", "contaminated.parquet")
APART = "data"


@dataclass(frozen=True)
class Piece:
    """The kept records of a partition that belong to one file.

    Attributes:
        name: path of the file to write, relative to the output directory.
        form: "lines", "array", "table" (rows of text), or "arrow" (columns with types).
        compression: compression of the file; empty for none.
        columns: names of the columns of a table; empty for other forms.
        records: number of kept records.
        file: name of the piece in the partition's folder.
    """

    name: str
    form: str
    compression: str
    columns: list[str]
    records: int
    file: str


class ChatSink:
    """Writes the records of one partition: those kept into pieces, the others with their reasons.

    Args:
        folder: empty folder of the partition.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writers: dict[str, _PieceWriter] = {}
        self._rejected = (folder / REJECTED).open("w", encoding="utf-8")

    def keep(self, record: ChatRecord, part: str = "") -> None:
        """Keep a record, in the folder `part` of the output.

        Raises:
            UserError: a value does not fit the type of its column.
        """
        name = output_name(record.source, part)
        if name not in self._writers:
            self._writers[name] = _PieceWriter(self._folder, len(self._writers), name, record.source)
        self._writers[name].add(record.fields)

    def reject(self, found: Rejected | ChatRecord, reason: str = "", label: str = "") -> None:
        """List a record that is not kept, with the reason and the filter that rejected it."""
        if isinstance(found, Rejected):
            line = {**asdict(found), "filter": None}
        else:
            text = found.conversation.messages[0].content[:EXCERPT]
            line = {"place": found.conversation.id, "reason": reason, "excerpt": text, "line": None, "filter": label}
        self._rejected.write(json.dumps(line, ensure_ascii=False) + "\n")

    def close(self) -> list[dict[str, Any]]:
        """Finish all files; returns the pieces as JSON values."""
        self._rejected.close()
        return [asdict(writer.close()) for writer in self._writers.values()]


def output_name(source: Source, part: str = "") -> str:
    """The path of the file that holds what is kept of a source; one named like a file of ours goes into a folder."""
    name = source.name
    for suffix in ARCHIVES:
        name = name.replace(f"{suffix}/", "/")
    name = name.lstrip("/")
    if part:
        return f"{part}/{name}"
    return f"{APART}/{name}" if name in OWN_FILES else name


class _PieceWriter:
    """Writes the kept records of one file and partition."""

    def __init__(self, folder: Path, number: int, name: str, source: Source) -> None:
        self._source, self._name, self._n = source, name, 0
        self._form = _form_of(source)
        self._columns: list[str] = []
        self._path = folder / f"{number:05d}.piece"
        self._rows: list[dict[str, Any]] = []
        self._schema = _schema_of(source) if self._form == "arrow" else None
        if self._schema is not None:
            self._columns = self._schema.names
            self._file: Any = None
            self._context = parquet_writer(self._path, self._schema)
            self._table = self._context.__enter__()
        else:
            self._file = self._path.open("w", encoding="utf-8", newline="")

    def add(self, fields: dict[str, Any]) -> None:
        self._n += 1
        if self._schema is not None:
            self._rows.append(fields)
            if len(self._rows) >= ROWS:
                self._flush()
        elif self._form == "table":
            self._columns = self._columns or list(fields)
            csv.writer(self._file, delimiter=_delimiter(self._name)).writerow(fields.values())
        else:
            self._file.write(json.dumps(fields, ensure_ascii=False) + "\n")

    def _flush(self) -> None:
        try:
            self._table.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
        except (pa.ArrowException, TypeError, ValueError) as error:
            raise UserError(
                f"{self._source.name}: a value cannot be written in the type of its column ({error}); convert the file "
                "to JSON lines"
            ) from error
        self._rows = []

    def close(self) -> Piece:
        if self._schema is not None:
            if self._rows:
                self._flush()
            self._context.__exit__(None, None, None)
        else:
            self._file.close()
        return Piece(self._name, self._form, self._source.compression, self._columns, self._n, self._path.name)


def _form_of(source: Source) -> str:
    if source.format in TABLES:
        return "arrow"
    if source.format not in JSON_SUFFIXES:
        return "table"
    if source.start or source.end is not None or holds_lines(source, READ):
        return "lines"
    head = next(json_blocks(source, READ), b"").lstrip(b"\xef\xbb\xbf \t\r\n")
    return "array" if head.startswith(b"[") else "lines"


def _schema_of(source: Source) -> pa.Schema:
    if source.format == ".parquet":
        with open_parquet(source.path) as file:
            return file.schema_arrow
    with source.path.open("rb") as file:
        is_file = file.read(6) == b"ARROW1"
        file.seek(0)
        return (pa.ipc.open_file(file) if is_file else pa.ipc.open_stream(file)).schema


def _delimiter(name: str) -> str:
    return "\t" if ".tsv" in name.lower() else ","


# ---- all pieces of a file


def join_chats(folders: Sequence[Path], pieces: Sequence[Sequence[Mapping[str, Any]]], made: Path) -> dict[str, int]:
    """Join the pieces of all partitions into files in `made`.

    Args:
        folders: folders of the partitions, in order.
        pieces: the result of `ChatSink.close` for each partition.
        made: directory of the files.

    Returns:
        The number of records of each file that has any, by its path relative to `made`.
    """
    of_file: dict[str, list[tuple[Path, Piece]]] = {}
    for folder, values in zip(folders, pieces, strict=True):
        for piece in (Piece(**value) for value in values):
            if piece.records:
                of_file.setdefault(piece.name, []).append((folder / piece.file, piece))
    for name, parts in of_file.items():
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        _JOIN[parts[0][1].form](made / name, parts)
        fsync(made / name)
    return {name: sum(piece.records for _, piece in parts) for name, parts in of_file.items()}


def _join_lines(path: Path, parts: Sequence[tuple[Path, Piece]]) -> None:
    with _compressed(path, parts[0][1].compression) as out:
        for file, _ in parts:
            for block in _blocks(file):
                out.write(block)


def _join_array(path: Path, parts: Sequence[tuple[Path, Piece]]) -> None:
    with _compressed(path, parts[0][1].compression) as out:
        before = b"[\n"
        for file, _ in parts:
            with file.open("rb") as lines:
                for line in lines:
                    out.write(before + line.rstrip(b"\n"))
                    before = b",\n"
        out.write(b"\n]\n")


def _join_table(path: Path, parts: Sequence[tuple[Path, Piece]]) -> None:
    head = csv_line(parts[0][1].columns, _delimiter(path.name))
    with _compressed(path, parts[0][1].compression) as out:
        out.write(head.encode())
        for file, _ in parts:
            for block in _blocks(file):
                out.write(block)


def csv_line(cells: Sequence[str], delimiter: str) -> str:
    """A row of a table as text, with its line break."""
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter).writerow(cells)
    return text.getvalue()


def _join_arrow(path: Path, parts: Sequence[tuple[Path, Piece]]) -> None:
    with open_parquet(parts[0][0]) as first:
        schema = first.schema_arrow
    with _arrow_writer(path, schema) as out:
        for file, _ in parts:
            with open_parquet(file) as piece:
                for batch in piece.iter_batches(ROWS, use_threads=False):
                    out.write_batch(batch)


@contextmanager
def _arrow_writer(path: Path, schema: pa.Schema) -> Iterator[Any]:
    if path.suffix.lower() == ".parquet":
        with parquet_writer(path, schema) as out:
            yield out
        return
    with path.open("wb") as file, pa.ipc.new_file(file, schema) as out:
        yield out


_JOIN: dict[str, Callable[[Path, Sequence[tuple[Path, Piece]]], None]] = {
    "lines": _join_lines,
    "array": _join_array,
    "table": _join_table,
    "arrow": _join_arrow,
}


def _blocks(file: Path) -> Iterator[bytes]:
    with file.open("rb") as content:
        while block := content.read(COPY_BYTES):
            yield block


@contextmanager
def _compressed(path: Path, compression: str) -> Iterator[IO[bytes]]:
    with path.open("wb") as file:
        if not compression:
            yield file
        elif compression == "xz":
            with lzma.open(file, "wb") as out:
                yield out
        else:
            with pa.CompressedOutputStream(file, compression) as out:
                yield out
