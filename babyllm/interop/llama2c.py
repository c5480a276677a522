"""Models of llama2.c: `.bin` files of version 0 and their `tokenizer.bin`, read only.

model.bin: seven int32 (widths, layers, heads, rows of the vocabulary, context), then all weights in float32
tokenizer.bin: length of the longest token, then score, length and bytes of each token

A negative number of rows means that the output layer is not the embedding. Rotary pairs are neighbours, (2i, 2i + 1).
"""

from __future__ import annotations

import math
import struct
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from babyllm.errors import UserError
from babyllm.interop.gguf.model_keys import interchanged
from babyllm.interop.open_model import OpenModel, shapes
from babyllm.model.config import ModelConfig, parameter_counts
from babyllm.model.transformer import OUTPUT
from babyllm.tokenizer import Tokenizer
from babyllm.tokenizer.sentencepiece_json import CONTROL, SPACE
from babyllm.tokenizer.sentencepiece_pieces import Piece, guessed_type, sentencepiece_tokenizer

_HEADER = struct.Struct("<7i")
# In llama2.c <s> separates documents, begins a text and ends one; </s> is never used.
_ROLES = {"bos": 1, "eos": 1, "pad": None, "unk": 0}
_UNUSED_END = 2
# The order of the weights in the file: of each kind, all layers.
_ORDER = (
    *("embed_tokens", "input_layernorm", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    *("self_attn.o_proj", "post_attention_layernorm", "mlp.gate_proj", "mlp.down_proj", "mlp.up_proj", "norm"),
)


def open_llama2c(path: Path, tokenizer: Path | None = None) -> OpenModel:
    """The model in a llama2.c file, of which no weight is read yet.

    Args:
        path: file of the model.
        tokenizer: file of the tokenizer; None takes the `tokenizer.bin` beside the model.

    Raises:
        UserError: a file is missing, damaged or of another version.
    """
    tokenizer = tokenizer or path.with_name("tokenizer.bin")
    if not tokenizer.is_file():
        raise UserError(f"{tokenizer}: does not exist; name the file of the tokenizer with --tokenizer=FILE")
    try:
        with path.open("rb") as file:
            config = _config(file.read(_HEADER.size), path)
        # Before the output layer are two tables of rotary angles, which are computed here.
        n_angles = 0 if config.tie_embeddings else config.max_seq_len * config.head_width
        n_values = sum(parameter_counts(config).values()) + n_angles
        if path.stat().st_size < _HEADER.size + 4 * n_values:
            raise UserError(f"{path}: is cut short, or not a llama2.c file of version 0; download it again")
        vocabulary = read_tokenizer(tokenizer, config.vocab_size)
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be read ({error.strerror})") from error
    return OpenModel(path, config, partial(_parameter, path, config, _places(config)), vocabulary)


def _config(start: bytes, path: Path) -> ModelConfig:
    if len(start) < _HEADER.size:
        raise UserError(f"{path}: is too short for a llama2.c file")
    d_model, d_ff, n_layers, n_heads, n_kv_heads, vocab_size, max_seq_len = _HEADER.unpack(start)
    numbers = (d_model, d_ff, n_layers, n_heads, n_kv_heads, abs(vocab_size), max_seq_len)
    # A layer has more than d_model values, and a file at most 2^40.
    if min(numbers) < 1 or n_layers > 10_000 or max(d_model, d_ff, max_seq_len) > 1 << 20 or abs(vocab_size) > 1 << 24:
        raise UserError(f"{path}: is not a llama2.c file of version 0; files of later versions are not read")
    try:
        return ModelConfig(
            vocab_size=abs(vocab_size),
            n_layers=n_layers,
            d_model=d_model,
            n_heads=n_heads,
            n_kv_heads=n_kv_heads,
            d_ff=d_ff,
            max_seq_len=max_seq_len,
            tie_embeddings=vocab_size > 0,
        )
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _places(config: ModelConfig) -> dict[str, tuple[int, tuple[int, ...]]]:
    """The number of values before each parameter in the file, and its shape."""
    one_layer = shapes(replace(config, n_layers=1))
    places, at = {}, 0
    for module in _ORDER:
        is_shared = f"{module}.weight" in one_layer
        shape = one_layer[f"{module}.weight" if is_shared else f"layers.0.{module}.weight"]
        for name in [module] if is_shared else [f"layers.{i}.{module}" for i in range(config.n_layers)]:
            places[f"{name}.weight"] = (at, shape)
            at += math.prod(shape)
    places[f"{OUTPUT}.weight"] = (at + config.max_seq_len * config.head_width, (config.vocab_size, config.d_model))
    return places


def _parameter(path: Path, config: ModelConfig, places: dict[str, tuple[int, tuple[int, ...]]], name: str) -> Tensor:
    start, shape = places[name]
    try:
        values = np.fromfile(path, "<f4", math.prod(shape), offset=_HEADER.size + 4 * start).reshape(shape)
    except (OSError, ValueError) as error:  # the file has changed since its header was read
        raise UserError(f"{path}: cannot be read ({error})") from error
    if not (math.isfinite(values.min()) and math.isfinite(values.max())):
        raise UserError(f"{path}: parameter {name!r} holds NaN or infinity; it is not a llama2.c file of version 0")
    if name.endswith(("q_proj.weight", "k_proj.weight")):
        values = interchanged(values, (config.head_width // 2, 2))
    return torch.from_numpy(values)


def read_tokenizer(path: Path, vocab_size: int) -> Tokenizer:
    """The tokenizer in a llama2.c file `tokenizer.bin`.

    Args:
        path: file of the tokenizer.
        vocab_size: number of its tokens, which the file does not state.

    Raises:
        UserError: the file is damaged or holds another number of tokens.
        OSError: the file cannot be read.
    """
    content = path.read_bytes()
    pieces, at = [], 4
    for i in range(vocab_size):
        if at + 8 > len(content):
            break
        score, length = struct.unpack_from("<fi", content, at)
        at += 8 + length
        if length < 0 or at > len(content) or not math.isfinite(score):
            break
        try:
            text = content[at - length : at].decode()
        except UnicodeDecodeError:
            break
        # Where the roles are written with line breaks around them, they are only for display.
        text = text.strip("\n") if i <= _UNUSED_END else text.replace(" ", SPACE)
        kind = CONTROL if i == _UNUSED_END else guessed_type(i, text, _ROLES)
        pieces.append(Piece(text, score, kind))
    if len(pieces) != vocab_size or at != len(content):
        raise UserError(f"{path}: is damaged, or not a tokenizer of {vocab_size} tokens; give the one of the model")
    return sentencepiece_tokenizer(pieces, _ROLES, adds_space=True, where=str(path)).adding_bos(True)
