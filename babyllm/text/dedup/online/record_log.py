"""The kept records on disk: a file to which batches are appended, so that a kill loses none that was acknowledged.

A line of JSON with the settings comes first. Each record then has two CRC-32, of its head and of its contents; its `n`,
and the lengths of its id and its set; the id; and the set, 4 bytes per distinct shingle. Texts are not stored.

A batch is one write. What was written survives the end of the process, however it ends; with `sync` it is also flushed
to the disk, so that it survives a loss of power. A batch that a kill cut short was not acknowledged: opening the file
removes its torn end. Anything else that is wrong with the file is reported and left as it is.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from babyllm.errors import UserError
from babyllm.ragged import Ragged, offsets_of
from babyllm.text.dedup.online.sketches import Sketch

_FORMAT = "babyllm online deduplication, version 1"
_CRC = struct.Struct("<I")  # of the rest of the head
_HEAD = struct.Struct("<4I")  # CRC-32 of the contents, n, bytes of the id, shingles
_HEAD_BYTES = _CRC.size + _HEAD.size
_AT_ONCE = 8192  # records read at once


class StoredRecords(NamedTuple):
    """Some records of a file.

    Attributes:
        ids: ids of the records.
        sets: distinct shingles (uint32, ascending) of each record.
        n: tokens of a shingle of each record.
    """

    ids: list[str]
    sets: Ragged
    n: list[int]


class RecordLog:
    """An open file of kept records.

    Args:
        path: file to open or create.
        settings: settings that decide what is stored; those of an existing file must be the same.
        sync: whether each batch is flushed to the disk.

    Raises:
        UserError: the file cannot be opened, is another one's, is damaged, or has other settings.
    """

    def __init__(self, path: Path, settings: dict[str, Any], sync: bool) -> None:
        self._path, self._sync = path, sync
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._stream = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+b", buffering=0)
        except OSError as error:
            raise self._error(error) from error
        self._file = self._stream.fileno()
        try:
            self._lock()
            self._end = self._start(settings)
        except BaseException:
            self._stream.close()
            raise

    def read(self) -> Iterator[StoredRecords]:
        """The ids, sets and `n` of the stored records, some thousands at a time; removes a torn end.

        Raises:
            UserError: the file is damaged before its end.
        """
        size = os.fstat(self._file).st_size
        if size > self._end:
            with mmap.mmap(self._file, size, access=mmap.ACCESS_READ) as content:
                yield from self._records(content, size)
        if size > self._end:
            os.ftruncate(self._file, self._end)

    def append(self, records: Sequence[tuple[str, Sketch]]) -> None:
        """Store ids and sketches; they survive a kill of the process once this has returned.

        Raises:
            UserError: the file cannot be written; then none of them is stored.
        """
        parts = []
        for id, sketch in records:
            name, values = id.encode("utf-8", "surrogatepass"), sketch.shingles.astype("<u4", copy=False).tobytes()
            head = _HEAD.pack(zlib.crc32(values, zlib.crc32(name)), sketch.n, len(name), len(sketch.shingles))
            parts += [_CRC.pack(zlib.crc32(head)), head, name, values]
        try:
            self._write(b"".join(parts))
        except OSError as error:
            os.ftruncate(self._file, self._end)
            raise self._error(error) from error

    def close(self) -> None:
        """Flush the file to the disk and close it."""
        os.fsync(self._file)
        self._stream.close()

    def _write(self, content: bytes) -> None:
        left, position = memoryview(content), self._end
        while left:
            n = os.pwrite(self._file, left, position)
            left, position = left[n:], position + n
        if self._sync:
            os.fsync(self._file)
        self._end = position

    def _lock(self) -> None:
        if (fcntl := _fcntl()) is None:
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"{self._path}: it is open already, here or in another process; close that, or share by Redis"
            ) from error
        except OSError:  # a network disk without locks
            return

    def _start(self, settings: dict[str, Any]) -> int:
        """Read or write the line of settings; returns where the records begin."""
        line = json.dumps({"format": _FORMAT, **settings}, sort_keys=True).encode() + b"\n"
        self._end = 0
        found = os.pread(self._file, 4096, 0)
        head, feed, _ = found.partition(b"\n")
        if not feed and line.startswith(found):  # new, or cut short by a kill before its first record
            try:
                self._write(line)
            except OSError as error:
                raise self._error(error) from error
            return len(line)
        try:
            stored = json.loads(head)
            is_ours = stored.pop("format", None) == _FORMAT
        except (ValueError, AttributeError):
            is_ours = False
        if not is_ours:
            raise UserError(f"{self._path}: it is not a file of online deduplication; choose another path")
        for key, value in settings.items():
            if stored.get(key) != value:
                raise UserError(
                    f"{self._path}: {key} is {json.dumps(stored.get(key))} in the file and {json.dumps(value)} here; "
                    f"take the same, or another path"
                )
        return len(head) + 1

    def _records(self, content: mmap.mmap, size: int) -> Iterator[StoredRecords]:
        ids: list[str] = []
        sets: list[bytes] = []
        n: list[int] = []
        position = self._end
        while (head := self._head(content, position, size)) is not None:
            crc, tokens, length, n_values = head
            start = position + _HEAD_BYTES
            stop = start + length + 4 * n_values
            if stop > size:
                break
            if zlib.crc32(content[start:stop]) != crc:
                raise self._damaged(position)
            ids.append(content[start : start + length].decode("utf-8", "surrogatepass"))
            sets.append(content[start + length : stop])
            n.append(tokens)
            position = stop
            if len(ids) == _AT_ONCE:
                yield _batch(ids, sets, n)
                ids, sets, n = [], [], []
            self._end = position
        if ids:
            yield _batch(ids, sets, n)

    def _head(self, content: mmap.mmap, position: int, size: int) -> tuple[int, ...] | None:
        """CRC of the contents, `n` and the two lengths of the record at a position; None if it is cut short."""
        if position + _HEAD_BYTES > size:
            return None
        head = content[position + _CRC.size : position + _HEAD_BYTES]
        if _CRC.unpack_from(content, position)[0] == zlib.crc32(head):
            return _HEAD.unpack(head)
        if not any(content[position:size]):  # room that was never written
            return None
        raise self._damaged(position)

    def _damaged(self, position: int) -> UserError:
        return UserError(
            f"{self._path}: the record at byte {position:,} is damaged; restore the file, or keep the records "
            f"before it with `truncate -s {position} {self._path}`"
        )

    def _error(self, error: OSError) -> UserError:
        return UserError(f"{self._path}: cannot be written ({error.strerror or error})")


def _batch(ids: list[str], sets: list[bytes], n: list[int]) -> StoredRecords:
    offsets = offsets_of(np.array([len(part) // 4 for part in sets], np.int64))
    values = np.frombuffer(b"".join(sets), "<u4").astype(np.uint32)
    return StoredRecords(ids, Ragged(values, offsets), n)


def _fcntl() -> ModuleType | None:
    try:
        import fcntl
    except ImportError:
        return None
    return fcntl
