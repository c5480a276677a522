"""Bare `.bin` files of token ids, as other projects write them: the ids' type, first byte and number.

files, vocabulary size -> header of llm.c, if any; a sample of ids -> dtype, offsets and numbers of tokens
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from babyllm.errors import UserError

Dtype = Literal["uint16", "uint32"]

UINT16_VOCABULARY = 65536
# A file of llm.c begins with 256 numbers of 32 bits: a magic number, a version, the number of tokens and others.
LLMC_HEADER_BYTES = 1024
LLMC_DTYPES: dict[int, Dtype] = {20240520: "uint16", 20240801: "uint32"}
SAMPLES, SAMPLE_BYTES = 32, 1 << 13
LEAST_SAMPLED = 8  # nonzero numbers in a sample; with fewer, every second one may be 0 by chance
_DTYPES: dict[str, Dtype] = {"uint16": "uint16", "uint32": "uint32"}


class BareFlags(NamedTuple):
    """The names, in messages, of a command's flags for bare files."""

    vocab_size: str = "--model.vocab_size"
    dtype: str = "--data.dtype"
    eos_id: str = "--data.eos_id"


TRAINING_FLAGS = BareFlags()


class Layout(NamedTuple):
    """The offset of a file's first id, in bytes, and the number of ids."""

    offset: int
    tokens: int


def read_layouts(files: Sequence[Path], vocab_size: int, dtype: str, flags: BareFlags) -> tuple[Dtype, list[Layout]]:
    """The type of the ids, the same in all files, and the layout of each file.

    Args:
        files: files of one directory, at least one.
        vocab_size: vocabulary size of the tokenizer that made the ids.
        dtype: "uint16" or "uint32", which must match the files; "auto" detects it.
        flags: names of the user's flags in messages.

    Raises:
        UserError: the type is not `dtype`, differs between files, or is not supported; a file is empty, cut off or
            damaged.
    """
    headers = [_llmc_header(file) for file in files]
    given = None if dtype == "auto" else _DTYPES[dtype]
    kinds = [
        _detected_dtype(file, header, vocab_size) or given or "uint16"
        for file, header in zip(files, headers, strict=True)
    ]
    for file, kind in zip(files, kinds, strict=True):
        if kind != kinds[0]:
            raise UserError(f"{files[0]} holds ids of {kinds[0]}, {file} of {kind}; keep them in separate directories")
    if given not in (None, kinds[0]):
        raise UserError(f"{files[0]}: holds ids of {kinds[0]}, not {dtype}; leave {flags.dtype} out to detect it")
    return kinds[0], [_layout(file, header, kinds[0]) for file, header in zip(files, headers, strict=True)]


def _llmc_header(file: Path) -> tuple[Dtype, int] | None:
    """The type and the number of tokens by a header of llm.c; None for a file without one."""
    if file.stat().st_size < LLMC_HEADER_BYTES:
        return None
    magic, _, tokens = np.fromfile(file, "<i4", 3).tolist()
    return (LLMC_DTYPES[magic], tokens) if magic in LLMC_DTYPES else None


def _detected_dtype(file: Path, header: tuple[Dtype, int] | None, vocab_size: int) -> Dtype | None:
    """The type of a file's ids; None where the file is too short, or has too many zeros, to detect it.

    Ids of 32 bits below 65,536 make every second number of 16 bits a 0; ids of 16 bits do not.
    """
    if header:
        return header[0]
    sample = _sample(file)
    is_enough = np.count_nonzero(sample) >= LEAST_SAMPLED
    if is_enough and not sample.reshape(-1, 4)[:, 2:].any():
        raise UserError(f"{file}: holds ids of 64 bits; write them as uint16 or uint32")
    if vocab_size > UINT16_VOCABULARY:
        return "uint32"
    if not is_enough:
        return None
    return "uint16" if sample[1::2].any() else "uint32"


def _sample(file: Path) -> NDArray[Any]:
    """(n,) uint16 numbers from places all over a file, enough for whole ids of 64 bits; all numbers of a short file."""
    size = file.stat().st_size // 8 * 8
    places = np.unique(np.linspace(0, max(0, size - SAMPLE_BYTES), SAMPLES).astype(np.int64) // 8 * 8)
    parts = [np.fromfile(file, "<u2", min(size, SAMPLE_BYTES) // 2, offset=int(place)) for place in places]
    return np.concatenate(parts)


def _layout(file: Path, header: tuple[str, int] | None, dtype: str) -> Layout:
    offset, width = LLMC_HEADER_BYTES if header else 0, np.dtype(dtype).itemsize
    n_bytes = file.stat().st_size
    tokens, rest = divmod(n_bytes - offset, width)
    if header and (rest or tokens != header[1]):
        raise UserError(f"{file}: its header says {header[1]} tokens, its size does not; it is cut off or damaged")
    if rest or not tokens:
        raise UserError(f"{file}: {n_bytes} bytes are not a whole number of {dtype} ids; it is empty or cut off")
    return Layout(offset, tokens)
