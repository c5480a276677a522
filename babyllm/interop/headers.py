"""The sizes that a model's files claim, compared before memory of that size is allocated.

header of model.safetensors -> names and shapes -> compared with config.json
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError, safe_open

from babyllm.errors import UserError, in_one_line
from babyllm.files import path_as_text
from babyllm.model.config import ModelConfig
from babyllm.model.transformer import EMBEDDING

_LAYER = re.compile(r"model\.layers\.(\d+)\.")


def tensor_shapes(files: Sequence[Path]) -> dict[str, list[int]]:
    """The shape of each tensor in safetensors files, by name; only the headers are read.

    Raises:
        UserError: a file cannot be read or is not a safetensors file.
    """
    return {name: header.shape for file in files for name, header in tensor_headers(file).items()}


class TensorHeader(NamedTuple):
    """What a safetensors file says about a tensor: its shape, and its type as the format writes it (F32, BF16)."""

    shape: list[int]
    dtype: str


def tensor_headers(file: Path) -> dict[str, TensorHeader]:
    """The headers of the tensors in a safetensors file, by name.

    Raises:
        UserError: the file cannot be read or is not a safetensors file.
    """
    try:
        with path_as_text(file) as place, safe_open(place, "pt") as opened:
            slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118
            return {name: TensorHeader(list(one.get_shape()), one.get_dtype()) for name, one in slices.items()}
    except (SafetensorError, OSError) as e:
        raise UserError(f"{file}: cannot be read ({in_one_line(e)})") from e


def require_fitting_header(files: Sequence[Path], config: ModelConfig, path: Path) -> None:
    """Check that the tensors of `files` have the shapes that a configuration describes; no files always pass.

    Args:
        files: safetensors files with the weights.
        config: configuration read from a config.json.
        path: path of that config.json, for messages.

    Raises:
        UserError: a shape differs; the message names the key and the tensor.
    """
    if not files:
        return
    shapes = tensor_shapes(files)
    n_layers = len({m[1] for name in shapes if (m := _LAYER.match(name))})
    if config.n_layers != n_layers:
        raise UserError(f"{path}: num_hidden_layers is {config.n_layers}, but {files[0]} holds {n_layers} layers")
    for key, tensor, dimension, size in (
        ("vocab_size", EMBEDDING, 0, config.vocab_size),
        ("hidden_size", EMBEDDING, 1, config.d_model),
        ("intermediate_size", "layers.0.mlp.gate_proj", 0, config.ff_width),
        ("num_key_value_heads", "layers.0.self_attn.k_proj", 0, config.kv_heads * config.head_width),
        ("num_attention_heads", "layers.0.self_attn.q_proj", 0, config.n_heads * config.head_width),
    ):
        shape = shapes.get(f"model.{tensor}.weight", [])
        if len(shape) != 2 or shape[dimension] != size:
            raise UserError(
                f"{files[0]}: tensor '{tensor}.weight' is missing, unknown or of another shape than {path} says: "
                f"{key} asks for {size} {('rows', 'columns')[dimension]}"
            )
