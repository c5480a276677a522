"""Models of any format, read and written one tensor at a time.

GGUF file, llama2.c file, Hugging Face directory -> OpenModel -> directory, or a Transformer in memory
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from babyllm.errors import UserError
from babyllm.files import new_folder, write_json
from babyllm.integrity import INDEX
from babyllm.interop.hf_config import config_to_json
from babyllm.interop.huggingface import model_tensors, save_generation
from babyllm.interop.weights import WEIGHTS, Dtype, Source, hf_name, write_tensors
from babyllm.model.config import ModelConfig
from babyllm.model.transformer import EMBEDDING, OUTPUT, Transformer
from babyllm.tokenizer import Tokenizer

SHARD_BYTES = 4 << 30


@dataclass(frozen=True)
class OpenModel:
    """A model in a file or directory, of which no weight has been read yet.

    Attributes:
        where: path of the file or directory, for messages.
        config: shape of the model.
        read: function that returns the parameter of a `Transformer` with a name, in any float type on the CPU. It
            raises a `UserError` for one that is missing or of another shape.
        tokenizer: tokenizer of the model.
        chat_template: Jinja template, or None.
        end_ids: ids of the tokens that end an answer.
    """

    where: Path
    config: ModelConfig
    read: Callable[[str], Tensor]
    tokenizer: Tokenizer
    chat_template: str | None = None
    end_ids: tuple[int, ...] = ()


def shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """The shapes of the parameters of a `Transformer`, by name; without a tied output layer."""
    with torch.device("meta"):
        state = Transformer(config).state_dict()
    return {
        name: tuple(tensor.shape)
        for name, tensor in state.items()
        if not (config.tie_embeddings and name == f"{OUTPUT}.weight")
    }


def in_memory(
    model: Transformer, tokenizer: Tokenizer, chat_template: str | None = None, end_ids: Sequence[int] = ()
) -> OpenModel:
    """A model in memory as one to write; `model` is plain, without an adapter or quantised layers."""
    tensors = model_tensors(model)[WEIGHTS]
    where = Path(model.origin or "the model")
    return OpenModel(
        where, model.config, lambda name: tensors[hf_name(name)].cpu(), tokenizer, chat_template, tuple(end_ids)
    )


def load_open(opened: OpenModel) -> Transformer:
    """The model with its weights in float32 on the CPU, in evaluation mode.

    Raises:
        UserError: a tensor is missing, damaged or of another shape.
    """
    with torch.device("meta"):
        model = Transformer(opened.config)
    state = {name: opened.read(name).float() for name in shapes(opened.config)}
    if opened.config.tie_embeddings:
        state[f"{OUTPUT}.weight"] = state[f"{EMBEDDING}.weight"]
    model.load_state_dict(state, assign=True)
    if opened.config.tie_embeddings:
        model.lm_head.weight = model.embed_tokens.weight
    model.end_ids = frozenset({opened.tokenizer.eos_id, *opened.end_ids})
    model.origin = str(opened.where)
    return model.eval()


def write_directory(opened: OpenModel, target: Path, dtype: Dtype = "float32") -> None:
    """Write a model as a Hugging Face directory, whole or not at all; one tensor at a time is in memory.

    Args:
        opened: the model.
        target: directory to create, or an empty one.
        dtype: type of the weights in the directory.

    Raises:
        UserError: a tensor is missing, damaged or too large for `dtype`, the vocabulary has more tokens than the model
            has rows, or the directory exists or cannot be written.
    """
    with new_folder(target) as folder:
        fill_directory(opened, folder, dtype)


def fill_directory(opened: OpenModel, folder: Path, dtype: Dtype, shard_bytes: int = SHARD_BYTES) -> None:
    """Write the files of a Hugging Face directory into a folder; one tensor at a time is in memory.

    Args:
        opened: the model.
        folder: an existing folder.
        dtype: type of the weights.
        shard_bytes: bytes of weights that one file may hold; more make several files with an index.

    Raises:
        UserError: a tensor is missing, damaged or too large for `dtype`, or the vocabulary has more tokens than the
            model has rows.
        OSError: a file cannot be written.
    """
    config, tokenizer = opened.config, opened.tokenizer
    if tokenizer.vocab_size > config.vocab_size:
        raise UserError(
            f"{opened.where}: its tokenizer has {tokenizer.vocab_size} tokens, but the model has {config.vocab_size} "
            "rows; give the tokenizer that belongs to the model"
        )
    write_json(folder / "config.json", config_to_json(config, tokenizer) | {"torch_dtype": dtype})
    with torch.device("meta"):
        save_generation(folder, Transformer(config), tokenizer, opened.end_ids)
    tokenizer.save(folder, chat_template=opened.chat_template)
    shards = _shards(_sources(opened, dtype), shard_bytes)
    if len(shards) == 1:
        write_tensors(folder / WEIGHTS, shards[0])
        return
    places: dict[str, str] = {}
    for i, shard in enumerate(shards, 1):
        name = f"model-{i:05}-of-{len(shards):05}.safetensors"
        write_tensors(folder / name, shard)
        places |= {source.name: name for source in shard}
    total = sum(source.n_bytes for shard in shards for source in shard)
    write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": places})


def _shards(sources: Iterable[Source], shard_bytes: int) -> list[list[Source]]:
    """The tensors in their order, as files of at most `shard_bytes`; a larger tensor has a file of its own."""
    shards: list[list[Source]] = [[]]
    size = 0
    for source in sources:
        if shards[-1] and size + source.n_bytes > shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(source)
        size += source.n_bytes
    return shards


def _sources(opened: OpenModel, dtype: Dtype) -> Iterator[Source]:
    for name, shape in shapes(opened.config).items():
        yield Source(hf_name(name), shape, partial(opened.read, name), dtype)
