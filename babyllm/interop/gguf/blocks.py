"""The number formats of GGUF tensors: bytes of a file <-> float32 values.

Q8_0, Q4_0 and Q4_1 store 32 neighbours of a row together: a float16 scale, for Q4_1 also a float16 minimum, and 32
integers of 8 or 4 bits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from babyllm.errors import UserError

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]
Kind = Literal["F32", "F16", "Q8_0"]
"""The formats that are written."""

BLOCK = 32
_CHUNK = 1 << 14  # blocks converted at a time, so that only the result takes memory


class Format(NamedTuple):
    """A number format.

    Attributes:
        name: name in messages.
        n_values: values of a block; divides the length of a row.
        n_bytes: bytes of a block.
        read: function from (N, n_bytes) uint8 blocks to (N, n_values) float32 values.
    """

    name: str
    n_values: int
    n_bytes: int
    read: Callable[[Bytes], Floats]


def _read_f32(blocks: Bytes) -> Floats:
    values: Floats = blocks.view("<f4")
    return values


def _read_f16(blocks: Bytes) -> Floats:
    values: Floats = blocks.view("<f2").astype(np.float32)
    return values


def _read_bf16(blocks: Bytes) -> Floats:
    values: Floats = (blocks.view("<u2").astype(np.uint32) << 16).view(np.float32)
    return values


def _read_q8_0(blocks: Bytes) -> Floats:
    values: Floats = blocks[:, 2:].view(np.int8) * _halves(blocks, 0)
    return values


def _read_q4_0(blocks: Bytes) -> Floats:
    values: Floats = (_nibbles(blocks[:, 2:]) - np.float32(8)) * _halves(blocks, 0)
    return values


def _read_q4_1(blocks: Bytes) -> Floats:
    values: Floats = _nibbles(blocks[:, 4:]) * _halves(blocks, 0) + _halves(blocks, 2)
    return values


def _halves(blocks: Bytes, start: int) -> Floats:
    """(N, 1) float32 values of the float16 number at byte `start` of each block."""
    return _read_f16(np.ascontiguousarray(blocks[:, start : start + 2]))


def _nibbles(packed: Bytes) -> Floats:
    """(N, 32) values from 0 to 15: the low halves of all 16 bytes, then the high ones."""
    return np.concatenate([packed & 15, packed >> 4], axis=1).astype(np.float32)


FORMATS = {
    0: Format("F32", 1, 4, _read_f32),
    1: Format("F16", 1, 2, _read_f16),
    2: Format("Q4_0", BLOCK, 18, _read_q4_0),
    3: Format("Q4_1", BLOCK, 20, _read_q4_1),
    8: Format("Q8_0", BLOCK, 34, _read_q8_0),
    30: Format("BF16", 1, 2, _read_bf16),
}
"""The formats that are read, by their number in files."""
NUMBERS = {format.name: number for number, format in FORMATS.items()}
_OTHERS = {
    **{6: "Q5_0", 7: "Q5_1", 9: "Q8_1", 10: "Q2_K", 11: "Q3_K", 12: "Q4_K", 13: "Q5_K", 14: "Q6_K", 15: "Q8_K"},
    **{16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS"},
    **{24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 29: "IQ1_M", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4"},
}


def format_of(number: int, where: str) -> Format:
    """The format with a number.

    Args:
        number: number of the format in a file.
        where: name of the file and tensor, for messages.

    Raises:
        UserError: the format is not read.
    """
    if number in FORMATS:
        return FORMATS[number]
    name = _OTHERS.get(number, f"number {number}")
    raise UserError(
        f"{where} has the format {name}, which is not read, only {', '.join(NUMBERS)}; "
        "take the F16 or Q8_0 file of the same model"
    )


def dequantised(raw: Bytes, format: Format) -> Floats:
    """The float32 values of the bytes of a whole tensor, flat; a copy."""
    blocks = raw.reshape(-1, format.n_bytes)
    values = np.empty((len(blocks), format.n_values), dtype=np.float32)
    step = _CHUNK * BLOCK // format.n_values
    for start in range(0, len(blocks), step):
        # A block's fields are not aligned in the file.
        values[start : start + step] = format.read(np.ascontiguousarray(blocks[start : start + step]))
    return values.reshape(-1)


def kind_for(kind: Kind, shape: tuple[int, ...]) -> Kind:
    """The format of one tensor in a file of a kind: vectors stay F32, rows that no block divides become F16."""
    if len(shape) < 2:
        return "F32"
    return "F16" if kind == "Q8_0" and shape[-1] % BLOCK else kind


def quantised(values: Floats, kind: Kind, where: str) -> bytes | memoryview:
    """The bytes of finite float32 values in a format.

    Args:
        values: values of a tensor in C order; for Q8_0 the length of a row is a multiple of 32.
        kind: format.
        where: name of the tensor, for messages.

    Raises:
        UserError: a value is too large for float16.
    """
    values = np.ascontiguousarray(values, dtype="<f4")
    if kind == "F32":
        return values.reshape(-1).data.cast("B") if values.size else b""
    flat = values.reshape(-1, BLOCK if kind == "Q8_0" else 1)
    step = _CHUNK * BLOCK // flat.shape[1]
    with np.errstate(over="ignore"):
        parts = [_quantised(flat[start : start + step], kind) for start in range(0, len(flat), step)]
    if any(not np.isfinite(part[0]).all() for part in parts):
        raise UserError(f"{where}: holds a value that is too large for {kind}; write F32")
    return b"".join(raw for _, raw in parts)


def _quantised(blocks: Floats, kind: Kind) -> tuple[NDArray[np.float16], bytes]:
    """The float16 numbers of some blocks, for Q8_0 their scales alone, and all bytes."""
    if kind == "F16":
        halves = blocks.astype("<f2")
        return halves, halves.tobytes()
    scale = np.abs(blocks).max(axis=1, keepdims=True) / np.float32(127)
    with np.errstate(divide="ignore"):
        inverse = np.where(scale == 0, np.float32(0), np.float32(1) / scale)
    halves = scale.astype("<f2")
    integers = _rounded(blocks * inverse).astype(np.int8)
    return halves, np.concatenate([halves.view(np.uint8), integers.view(np.uint8)], axis=1).tobytes()


def _rounded(values: Floats) -> Floats:
    """The nearest whole numbers; halves are rounded away from zero, as C does and NumPy does not."""
    size = np.abs(values)
    whole = np.floor(size)
    rounded: Floats = np.copysign(whole + (size - whole >= np.float32(0.5)), values)
    return rounded
