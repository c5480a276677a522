"""The scores of all conversations of chat files, as tables on disk: one folder for each partition.

partition -> conversations -> scorers -> scores.parquet: key, place, file, task, bytes, scores, reason; vectors.npy
all partitions -> Candidates: arrays of all conversations, vectors as one memory map
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from babyllm.chat.formats import FormatConfig
from babyllm.chat_corpus.chat_records import ChatRecord, read_records, text_of
from babyllm.chat_corpus.chat_stage import ChatRun
from babyllm.documents import exact_key
from babyllm.errors import UserError
from babyllm.prepare.held_out import contents_of
from babyllm.selection.scorers.scored_batches import BATCH, Scorer, Scores, column
from babyllm.selection.scorers.vector_files import VectorFile
from babyllm.store.parquet import FAULTS, open_parquet, parquet_writer
from babyllm.text.readers import Partition, Rejected

TABLE, VECTORS, ALL_VECTORS = "scores.parquet", "vectors.npy", "vectors.bin"
KEY, PLACE, FILE, TASK, BYTES, REASON = "key", "place", "file", "task", "bytes", "reason"
FIXED = (KEY, PLACE, FILE, TASK, BYTES, REASON)
FIELD = "field:"


@dataclass(frozen=True)
class Candidates:
    """All conversations that were read, in their order, as arrays of n.

    Attributes:
        keys: hashes of their contents, in hexadecimal; equal conversations have equal ones.
        places: files and offsets, or rows.
        files: names of their files.
        tasks: names of their tasks.
        sizes: (n,) int64 bytes of their texts.
        scores: (n,) float64 by name; NaN where there is none.
        reasons: why scores are missing; empty where none is.
        vectors: (n, d) float32 or float16, mapped; NaN where there is none; None without vectors.
    """

    keys: list[str]
    places: list[str]
    files: list[str]
    tasks: list[str]
    sizes: NDArray[np.int64]
    scores: dict[str, NDArray[np.float64]]
    reasons: list[str]
    vectors: NDArray[Any] | None = None

    def __len__(self) -> int:
        """The number of conversations."""
        return len(self.keys)


def key_of_record(record: ChatRecord) -> str:
    """The hash of a conversation's roles and contents, in hexadecimal."""
    return exact_key(contents_of(record.conversation.messages)).hex()


def score_partitions(run: ChatRun, scorer: Scorer | None, fields: Sequence[str], format: FormatConfig) -> list[int]:
    """Score all partitions, one after the other in this process where there is a scorer; returns their sizes.

    Args:
        run: stage whose partitions are scored.
        scorer: scorer of conversations; None for none.
        fields: names of fields of the records that hold numbers, which are scores named like them.
        format: rules by which records become conversations.

    Raises:
        UserError: a conversation holds something else than a number in such a field.
    """
    work = partial(_score, scorer=scorer, fields=tuple(fields), format=format)
    return [int(n) for n in run.run(work, "scores", "select: bytes scored")]


def _score(
    partition: Partition, folder: Path, *, scorer: Scorer | None, fields: tuple[str, ...], format: FormatConfig
) -> int:
    found = (record for record in read_records(partition, format) if not isinstance(record, Rejected))
    names = [*(scorer.names if scorer else ()), *fields]
    schema = pa.schema(
        [(name, pa.int64() if name == BYTES else pa.string()) for name in FIXED] + [(n, pa.float64()) for n in names]
    )
    n, vectors = 0, list[NDArray[np.float32]]()
    with parquet_writer(folder / TABLE, schema) as table:
        for batch in _batches(found):
            chats = [record.conversation for record in batch]
            scores = scorer.score(chats) if scorer else Scores({}, [""] * len(batch))
            rows: dict[str, Any] = {
                KEY: [key_of_record(record) for record in batch],
                PLACE: [chat.id for chat in chats],
                FILE: [record.source.name for record in batch],
                TASK: [chat.task for chat in chats],
                BYTES: [len(text_of(chat).encode()) for chat in chats],
                REASON: scores.reasons,
                **scores.columns,
                **{name: column(_number(record, name) for record in batch) for name in fields},
            }
            table.write_table(pa.table({name: rows[name] for name in schema.names}, schema=schema))
            n += len(batch)
            if scores.vectors is not None:
                vectors.append(scores.vectors)
    if vectors:
        np.save(folder / VECTORS, np.concatenate(vectors))
    return n


def _batches(records: Iterator[ChatRecord]) -> Iterator[list[ChatRecord]]:
    batch: list[ChatRecord] = []
    for record in records:
        batch.append(record)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _number(record: ChatRecord, name: str) -> float | None:
    value: Any = record.fields
    for part in [name] if name in record.fields else name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            pass
    if value is None or (isinstance(value, (int, float)) and not isinstance(value, bool)):
        return value
    raise UserError(f"{record.conversation.id}: the field {name} is not a number; correct it, or choose another field")


# ---- all partitions


def read_candidates(
    folders: Sequence[Path], table: Path | None, vectors: VectorFile | None, directory: Path
) -> Candidates:
    """The conversations of all partitions with their scores.

    Args:
        folders: folders of the partitions, in order.
        table: Parquet file of more scores, one row for each conversation; None for none.
        vectors: file of vectors, one for each conversation; None takes those that the scorers made.
        directory: directory for the vectors as one file, which is mapped.

    Raises:
        UserError: the table or the vectors cannot be read, or are not as many as the conversations.
    """
    texts: dict[str, list[str]] = {name: [] for name in (KEY, PLACE, FILE, TASK, REASON)}
    once: dict[str, str] = {}  # names of files and tasks, and reasons, which are few, are in memory once
    numbers: dict[str, list[NDArray[Any]]] = {}
    for folder in folders:
        with open_parquet(folder / TABLE) as file:
            for batch in file.iter_batches(use_threads=False):
                for name in batch.schema.names:
                    if name in (KEY, PLACE):
                        texts[name] += batch.column(name).to_pylist()
                    elif name in texts:
                        texts[name] += [once.setdefault(text, text) for text in batch.column(name).to_pylist()]
                    else:
                        numbers.setdefault(name, []).append(batch.column(name).to_numpy(zero_copy_only=False))
    joined = {name: np.concatenate(parts) for name, parts in numbers.items()}
    n = len(texts[KEY])
    sizes = joined.pop(BYTES, np.empty(0)).astype(np.int64)
    scores = {name: values.astype(np.float64) for name, values in joined.items()}
    for name, values in (_numbers_of(table, n) if table else {}).items():
        if name in scores:
            raise UserError(f"--table={table}: its column {name} is also a score of --scores; rename it")
        scores[name] = values
    found = _vectors(folders, n, vectors, directory)
    return Candidates(texts[KEY], texts[PLACE], texts[FILE], texts[TASK], sizes, scores, texts[REASON], found)


def _numbers_of(path: Path, n: int) -> dict[str, NDArray[np.float64]]:
    try:
        with open_parquet(path) as file:
            kinds = {field.name: field.type for field in file.schema_arrow}
            names = [k for k, v in kinds.items() if pa.types.is_integer(v) or pa.types.is_floating(v)]
            rows = file.read(names)
    except FAULTS as error:
        raise UserError(f"--table={path}: cannot be read as Parquet ({error})") from None
    if rows.num_rows != n or not names:
        raise UserError(
            f"--table={path}: has {rows.num_rows:,} rows and {len(names)} columns of numbers; it needs one row for "
            f"each of the {n:,} conversations, in their order"
        )
    return {name: rows.column(name).cast(pa.float64()).to_numpy() for name in names}


def _vectors(folders: Sequence[Path], n: int, file: VectorFile | None, directory: Path) -> NDArray[Any] | None:
    """The vectors of all conversations in one file, mapped; a matrix in .npy is mapped where it lies."""
    if file is not None and file.n != n:
        raise UserError(
            f"--vectors={file.path}: holds {file.n:,} vectors for {n:,} conversations; give one for each, in order"
        )
    if file is not None and file.path.suffix == ".npy":
        mapped: NDArray[Any] = np.load(file.path, mmap_mode="r")
        return mapped
    parts: Iterator[NDArray[np.float32]]
    if file is not None:
        parts = file.batches()
    else:
        found = [folder / VECTORS for folder in folders if (folder / VECTORS).is_file()]
        parts = (np.load(path, mmap_mode="r") for path in found)
    target, width = directory / ALL_VECTORS, 0
    with target.open("wb") as out:
        for part in parts:
            width = part.shape[1]
            np.ascontiguousarray(part, np.float32).tofile(out)
    return np.memmap(target, np.float32, "r", shape=(n, width)) if width else None
