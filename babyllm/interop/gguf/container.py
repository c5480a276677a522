"""The container of GGUF: metadata and named tensors in one file.

file -> read_header -> metadata, places of tensors -> read_tensor -> float32, one tensor at a time
metadata, tensors one at a time -> write_file -> file

All that a file claims (counts, lengths, offsets, shapes) is compared with the file's size before memory is allocated
or a loop begins. Layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import math
import mmap
import re
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from babyllm.errors import UserError
from babyllm.files import begins_with
from babyllm.interop.gguf.blocks import NUMBERS, Floats, Format, Kind, dequantised, format_of, kind_for, quantised

MAGIC = b"GGUF"
VERSION = 3
ALIGNMENT = 32
_FLOAT, _BOOL, _STRING, _ARRAY = 6, 7, 8, 9
_NUMBERS = {0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "|b1", 10: "<u8", 11: "<i8"}
_NUMBERS |= {12: "<f8"}
_MOST_DIMENSIONS = 4
_SMALLEST_ENTRY, _SMALLEST_TENSOR = 8 + 4 + 1, 8 + 4 + 4 + 8  # bytes


class Place(NamedTuple):
    """Where a tensor lies.

    Attributes:
        format: number format.
        shape: shape, rows first, as in PyTorch; the file states it the other way round.
        start: byte of the file at which the tensor begins.
        n_bytes: bytes of the tensor.
    """

    format: Format
    shape: tuple[int, ...]
    start: int
    n_bytes: int


@dataclass(frozen=True)
class Header:
    """All of a file but the values of its tensors.

    Attributes:
        path: path of the file.
        metadata: values by key: numbers, truth values, texts, lists of texts, NumPy arrays of numbers.
        tensors: places of the tensors by name.
    """

    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, Place]


def is_gguf(path: Path) -> bool:
    """Whether a file can be read and begins as a GGUF file does."""
    return begins_with(path, re.compile(MAGIC))


def read_header(path: Path) -> Header:
    """The metadata of a GGUF file and the places of its tensors; no tensor is read.

    Raises:
        UserError: the file cannot be read, is damaged or cut short, or has a version or format that is not read.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return _Reader(content, path).header()
    except ValueError:  # an empty file cannot be mapped
        raise UserError(f"{path}: is empty, not a GGUF file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error


def read_tensor(header: Header, name: str) -> Floats:
    """One tensor of a file in float32, a copy.

    Raises:
        UserError: the file lacks the tensor or cannot be read, or the tensor holds NaN or infinity.
    """
    place = header.tensors.get(name)
    if place is None:
        raise UserError(f"{header.path}: lacks the tensor {name!r}")
    try:
        raw = np.memmap(header.path, np.uint8, "r", place.start, (place.n_bytes,))
        values = dequantised(raw, place.format).reshape(place.shape)
    except (OSError, ValueError) as error:  # the file has changed since its header was read
        raise UserError(f"{header.path}: cannot be read ({error})") from error
    if values.size and not (math.isfinite(values.min()) and math.isfinite(values.max())):
        raise UserError(f"{header.path}: tensor {name!r} holds NaN or infinity; download the file again")
    return values


class _Reader:
    """A position in a mapped file; whatever is read is first compared with the bytes that are left."""

    def __init__(self, content: mmap.mmap, path: Path) -> None:
        self._content, self._path, self._at = content, path, 0

    def header(self) -> Header:
        """The header of the file, checked."""
        if self._take(4) != MAGIC:
            raise UserError(f"{self._path}: is not a GGUF file")
        version = self._unpack("<I")
        if version & 0xFFFF == 0:
            raise self._refused("is big-endian; take the file for ordinary processors")
        if version not in (2, VERSION):
            raise self._refused(f"has version {version} of GGUF, where 2 or 3 is wanted; take a newer file")
        n_tensors, n_entries = self._count(_SMALLEST_TENSOR), self._count(_SMALLEST_ENTRY)
        metadata: dict[str, Any] = {}
        for _ in range(n_entries):
            key = self._text()
            if key in metadata:
                raise self._refused(f"holds the key {key[:80]!r} twice")
            metadata[key] = self._value(self._unpack("<I"))
        described = [self._described() for _ in range(n_tensors)]
        return Header(self._path, metadata, self._places(described, self._alignment(metadata)))

    def _refused(self, reason: str) -> UserError:
        return UserError(f"{self._path}: {reason}")

    def _require(self, n_bytes: int) -> None:
        if n_bytes > len(self._content) - self._at:
            raise self._refused("is damaged or cut short; download it again")

    def _take(self, n_bytes: int) -> bytes:
        self._require(n_bytes)
        self._at += n_bytes
        return self._content[self._at - n_bytes : self._at]

    def _unpack(self, layout: str) -> Any:
        return struct.unpack(layout, self._take(struct.calcsize(layout)))[0]

    def _count(self, smallest: int) -> int:
        """A number of things of `smallest` bytes at least, all of which the rest of the file can hold."""
        count = int(self._unpack("<Q"))
        self._require(count * smallest)
        return count

    def _text(self) -> str:
        try:
            return self._take(self._count(1)).decode()
        except UnicodeDecodeError:
            raise self._refused("holds a text that is not UTF-8; download it again") from None

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._text()
        if kind == _ARRAY:
            return self._array()
        number = self._numbers(kind, 1)[0]
        # Shortest decimal of a float32: 1e-05, not 9.999999747378752e-06.
        return float(str(number)) if kind == _FLOAT else number.item()

    def _array(self) -> Any:
        kind = self._unpack("<I")
        if kind == _STRING:
            return [self._text() for _ in range(self._count(8))]
        if kind == _ARRAY:
            raise self._refused("holds an array of arrays, which is not read")
        return self._numbers(kind, self._count(1))

    def _numbers(self, kind: int, count: int) -> NDArray[Any]:
        if kind not in _NUMBERS:
            raise self._refused(f"holds a value of the unknown type {kind}")
        if kind == _BOOL:
            truths: NDArray[Any] = np.frombuffer(self._take(count), np.uint8) != 0
            return truths
        return np.frombuffer(self._take(count * np.dtype(_NUMBERS[kind]).itemsize), _NUMBERS[kind])

    def _alignment(self, metadata: dict[str, Any]) -> int:
        value = metadata.get("general.alignment", ALIGNMENT)
        if type(value) is not int or not 1 <= value <= 1 << 20 or value & (value - 1):
            raise self._refused(f"has an alignment of {str(value)[:40]}, where a power of two is wanted")
        return value

    def _described(self) -> tuple[str, tuple[int, ...], int, int]:
        """The name, shape, format and offset of the next tensor."""
        name, n_dimensions = self._text(), self._unpack("<I")
        if n_dimensions > _MOST_DIMENSIONS:
            raise self._refused(f"has a tensor {name[:80]!r} of {n_dimensions} dimensions")
        shape = tuple(int(self._unpack("<Q")) for _ in range(n_dimensions))
        return name, shape[::-1], self._unpack("<I"), self._unpack("<Q")

    def _places(self, described: Sequence[tuple[str, tuple[int, ...], int, int]], alignment: int) -> dict[str, Place]:
        start = -(-self._at // alignment) * alignment
        n_left = len(self._content) - start
        places: dict[str, Place] = {}
        for name, shape, number, offset in described:
            where = f"{self._path}: tensor {name[:80]!r}"
            format = format_of(number, where)
            n_values = math.prod(shape)
            if name in places or not shape or 0 in shape or shape[-1] % format.n_values or offset % alignment:
                raise UserError(f"{where} is given twice, has an impossible shape or lies at an impossible offset")
            n_bytes = n_values // format.n_values * format.n_bytes
            if offset + n_bytes > len(self._content) - start:
                raise UserError(f"{where} lies beyond the end of the file, which is cut short; download it again")
            n_left -= n_bytes
            places[name] = Place(format, shape, start + offset, n_bytes)
        if n_left < 0:
            raise self._refused("has tensors that overlap; download it again")
        return places


class TensorSource(NamedTuple):
    """A tensor to write, whose values are computed when it is its turn.

    Attributes:
        name: name in the file.
        shape: shape, rows first.
        values: function that returns the values, float32 of that shape.
    """

    name: str
    shape: tuple[int, ...]
    values: Callable[[], Floats]


def write_file(path: Path, metadata: Mapping[str, Any], tensors: Iterable[TensorSource], kind: Kind) -> None:
    """Write a GGUF file of version 3; the values of one tensor at a time are in memory.

    Args:
        path: file to write.
        metadata: values by key: texts, lists of texts, truth values, ints (written as uint32), floats (as float32)
            and NumPy arrays of numbers.
        tensors: tensors in their order in the file.
        kind: format of the matrices. Vectors are written in F32, and matrices whose rows no block divides in F16.

    Raises:
        UserError: a tensor holds NaN, infinity or a value that the format cannot express.
        OSError: the file cannot be written.
    """
    tensors = list(tensors)
    kinds = [kind_for(kind, tensor.shape) for tensor in tensors]
    with path.open("wb") as file:
        file.write(MAGIC + struct.pack("<IQQ", VERSION, len(tensors), len(metadata)))
        for key, value in metadata.items():
            file.write(_text_bytes(key) + _value_bytes(value))
        offset = 0
        for tensor, its_kind in zip(tensors, kinds, strict=True):
            offset += _describe(file, tensor, its_kind, offset)
        for tensor, its_kind in zip(tensors, kinds, strict=True):
            file.write(bytes(-file.tell() % ALIGNMENT))
            values = tensor.values()
            if not (math.isfinite(values.min()) and math.isfinite(values.max())):
                raise UserError(f"tensor {tensor.name!r} holds NaN or infinity; use another step or model")
            file.write(quantised(values, its_kind, f"tensor {tensor.name!r}"))
        file.write(bytes(-file.tell() % ALIGNMENT))


def _describe(file: BinaryIO, tensor: TensorSource, kind: Kind, offset: int) -> int:
    """Write the entry of a tensor; returns the bytes it takes, padding included."""
    format = format_of(NUMBERS[kind], tensor.name)
    file.write(_text_bytes(tensor.name) + struct.pack("<I", len(tensor.shape)))
    file.write(struct.pack(f"<{len(tensor.shape)}QIQ", *tensor.shape[::-1], NUMBERS[kind], offset))
    n_bytes = math.prod(tensor.shape) // format.n_values * format.n_bytes
    return -(-n_bytes // ALIGNMENT) * ALIGNMENT


def _text_bytes(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _value_bytes(value: Any) -> bytes:
    """The type and the bytes of a value."""
    if isinstance(value, np.ndarray):
        kind = next(kind for kind, name in _NUMBERS.items() if np.dtype(name) == value.dtype)
        return struct.pack("<IIQ", _ARRAY, kind, len(value)) + value.tobytes()
    if isinstance(value, list):
        return struct.pack("<IIQ", _ARRAY, _STRING, len(value)) + b"".join(map(_text_bytes, value))
    kind, raw = _typed(value)
    return struct.pack("<I", kind) + raw


def _typed(value: Any) -> tuple[int, bytes]:
    if isinstance(value, str):
        return _STRING, _text_bytes(value)
    if isinstance(value, bool):
        return _BOOL, struct.pack("<B", value)
    if isinstance(value, float):
        return _FLOAT, struct.pack("<f", value)
    return 4, struct.pack("<I", value)
