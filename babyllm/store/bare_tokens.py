"""Bare `.bin` files of token ids, as other projects write them: how wide ids are, where they begin, how many there are.

files, vocabulary -> header of llm.c or not, ids at some places -> dtype, offsets and tokens
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
# llm.c: 256 numbers of 32 bits come first, the magic number, a version and the number of tokens among them.
LLMC_HEADER_BYTES = 1024
LLMC_DTYPES: dict[int, Dtype] = {20240520: "uint16", 20240801: "uint32"}
SAMPLES, SAMPLE_BYTES = 32, 1 << 13
LEAST_SAMPLED = 8  # numbers that are not 0; of fewer, every second one may be 0 by chance
_DTYPES: dict[str, Dtype] = {"uint16": "uint16", "uint32": "uint32"}


class BareFlags(NamedTuple):
    """What a command calls the flags that tell about bare files, for its messages."""

    vocab_size: str = "--model.vocab_size"
    dtype: str = "--data.dtype"
    eos_id: str = "--data.eos_id"


TRAINING_FLAGS = BareFlags()


class Layout(NamedTuple):
    """Where the ids of a file begin, in bytes, and how many there are."""

    offset: int
    tokens: int


def read_layouts(files: Sequence[Path], vocab_size: int, dtype: str, flags: BareFlags) -> tuple[Dtype, list[Layout]]:
    """The type of the ids of these files, which is that of all, and where they lie in each.

    Args:
        files: of one directory.
        vocab_size: of the tokenizer that made the ids.
        dtype: "uint16" or "uint32", which must be right; "auto" tells it from the files.
        flags: how the user gives them.

    Raises:
        UserError: the type is not the given one, is not the same in all files, or cannot be read; a file is cut off.
    """
    headers = [_llmc_header(file) for file in files]
    given = None if dtype == "auto" else _DTYPES[dtype]
    kinds = [
        _told_dtype(file, header, vocab_size) or given or "uint16" for file, header in zip(files, headers, strict=True)
    ]
    for file, kind in zip(files, kinds, strict=True):
        if kind != kinds[0]:
            raise UserError(f"{files[0]} holds ids of {kinds[0]}, {file} of {kind}; keep them in separate directories")
    if given not in (None, kinds[0]):
        raise UserError(f"{files[0]}: holds ids of {kinds[0]}, not {dtype}; leave {flags.dtype} out, files tell it")
    return kinds[0], [_layout(file, header, kinds[0]) for file, header in zip(files, headers, strict=True)]


def _llmc_header(file: Path) -> tuple[Dtype, int] | None:
    """The type and the number of tokens that a header of llm.c tells; None where there is none."""
    if file.stat().st_size < LLMC_HEADER_BYTES:
        return None
    magic, _, tokens = np.fromfile(file, "<i4", 3).tolist()
    return (LLMC_DTYPES[magic], tokens) if magic in LLMC_DTYPES else None


def _told_dtype(file: Path, header: tuple[Dtype, int] | None, vocab_size: int) -> Dtype | None:
    """How wide the ids of a file are; None where it is too short, or too empty, to tell.

    Wider ids than the vocabulary needs leave every second number of 16 bits 0, which others do not.
    """
    if header:
        return header[0]
    sample = _sample(file)
    is_telling = np.count_nonzero(sample) >= LEAST_SAMPLED
    if is_telling and not sample.reshape(-1, 4)[:, 2:].any():
        raise UserError(f"{file}: holds ids of 64 bits; write them as uint16 or uint32")
    if vocab_size > UINT16_VOCABULARY:
        return "uint32"
    if not is_telling:
        return None
    return "uint16" if sample[1::2].any() else "uint32"


def _sample(file: Path) -> NDArray[Any]:
    """Numbers of 16 bits from places all over a file, as many as make whole ids of 64 bits; all of a short one."""
    size = file.stat().st_size // 8 * 8
    places = np.unique(np.linspace(0, max(0, size - SAMPLE_BYTES), SAMPLES).astype(np.int64) // 8 * 8)
    parts = [np.fromfile(file, "<u2", min(size, SAMPLE_BYTES) // 2, offset=int(place)) for place in places]
    return np.concatenate(parts)


def _layout(file: Path, header: tuple[str, int] | None, dtype: str) -> Layout:
    offset, width = LLMC_HEADER_BYTES if header else 0, np.dtype(dtype).itemsize
    n_bytes = file.stat().st_size
    tokens, rest = divmod(n_bytes - offset, width)
    if header and (rest or tokens != header[1]):
        raise UserError(f"{file}: its header says {header[1]} tokens, its size does not; it is cut off, or damaged")
    if rest or not tokens:
        raise UserError(f"{file}: {n_bytes} bytes are not a whole number of {dtype} ids; it is empty or cut off")
    return Layout(offset, tokens)
