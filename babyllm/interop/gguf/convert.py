"""Whole models in GGUF files, read and written one tensor at a time.

file -> open_gguf -> OpenModel -> write_gguf -> file
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from babyllm.errors import UserError
from babyllm.files import fsync
from babyllm.interop.gguf.blocks import Floats, Kind
from babyllm.interop.gguf.container import Header, TensorSource, read_header, read_tensor, write_file
from babyllm.interop.gguf.model_keys import (
    ROPE_FACTORS,
    from_gguf_rows,
    gguf_name,
    model_metadata,
    read_config,
    rope_factors,
    to_gguf_rows,
)
from babyllm.interop.gguf.tokenizer_keys import read_vocabulary, vocabulary_metadata
from babyllm.interop.open_model import OpenModel, shapes
from babyllm.model.config import ModelConfig


def open_gguf(path: Path) -> OpenModel:
    """The model in a GGUF file, of which no weight is read yet.

    Raises:
        UserError: the file cannot be read, is damaged, or holds a model, tokenizer or number format that is not
            supported.
    """
    header = read_header(path)
    config = read_config(header)
    expected = shapes(config)
    _require_tensors(header, expected)
    tokenizer, chat_template, end_ids = read_vocabulary(header)
    return OpenModel(path, config, partial(_parameter, header, config), tokenizer, chat_template, end_ids)


def _require_tensors(header: Header, expected: dict[str, tuple[int, ...]]) -> None:
    wanted = {gguf_name(name): shape for name, shape in expected.items()}
    for name, shape in wanted.items():
        place = header.tensors.get(name)
        if place is None or place.shape != shape:
            raise UserError(
                f"{header.path}: tensor {name!r} is missing or of another shape than its keys say; download it again"
            )
    unknown = sorted(header.tensors.keys() - wanted.keys() - {ROPE_FACTORS})
    if unknown:
        raise UserError(f"{header.path}: holds a tensor {unknown[0][:80]!r}, which a model of this kind does not have")


def _parameter(header: Header, config: ModelConfig, name: str) -> Tensor:
    values = from_gguf_rows(read_tensor(header, gguf_name(name)), name, config)
    return torch.from_numpy(values)


def write_gguf(path: Path, opened: OpenModel, kind: Kind = "F32", name: str = "babyllm") -> None:
    """Write a model as a GGUF file, whole or not at all; one tensor at a time is in memory.

    Args:
        path: file to write; one that exists is replaced.
        opened: the model; a tied output layer is left out.
        kind: format of the matrices; norms and biases are always F32.
        name: name of the model that other programs show.

    Raises:
        UserError: the model, its positions or its tokenizer cannot be expressed, or a weight is not finite.
        OSError: the file cannot be written.
    """
    config = opened.config
    metadata = model_metadata(config, name, kind)
    metadata |= vocabulary_metadata(
        opened.tokenizer, config.vocab_size, chat_template=opened.chat_template, end_ids=opened.end_ids
    )
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        write_file(temporary, metadata, _sources(opened), kind)
        fsync(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    fsync(path.parent)


def _sources(opened: OpenModel) -> Iterator[TensorSource]:
    config = opened.config
    factors = rope_factors(config)
    if factors is not None:
        yield TensorSource(ROPE_FACTORS, factors.shape, lambda: factors)
    for name, shape in shapes(config).items():
        yield TensorSource(gguf_name(name), shape, partial(_values, opened, name))


def _values(opened: OpenModel, name: str) -> Floats:
    return to_gguf_rows(opened.read(name).float().numpy(), name, opened.config)
