"""Trained models read from a directory, for notebooks, the command line and later stages.

run -> step -> config.json and model.safetensors, or adapter_config.json and its base -> model and tokenizer
"""

from __future__ import annotations

import copy
import os
import reprlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

import torch

from babyllm.config.json_fields import Fields, read_json
from babyllm.errors import UserError
from babyllm.interop.held_base import BASE
from babyllm.interop.hf_config import config_from_json
from babyllm.interop.huggingface import ADAPTER_CONFIG, Unread, filled, generation_ends, load_model, unread_model
from babyllm.interop.peft import load_adapter, merged
from babyllm.model.adapt.grow import grow_vocabulary, grown
from babyllm.model.adapt.lora import merge_lora, to_int8
from babyllm.model.linear import WeightStorage, joined_weight
from babyllm.model.options import ModelOptions
from babyllm.model.transformer import Block, Transformer
from babyllm.run_directory import meant_step
from babyllm.tokenizer import Tokenizer

if TYPE_CHECKING:
    from babyllm.chat.load import ChatTemplate


def model_directory(path: str | Path) -> Path:
    """The directory of the model or adapter at `path`: `path` itself, or the step that a run directory stands for.

    Raises:
        UserError: there is no model or saved step.
    """
    path = Path(os.path.expanduser(path))
    if not path.exists():
        raise UserError(f"{path}: does not exist; give the directory of a run or of a model")
    if any((path / name).is_file() for name in ("config.json", ADAPTER_CONFIG)):
        return path
    step = meant_step(path)
    if step is None:
        raise UserError(f"{path}: is neither a model directory (config.json) nor a run directory with a saved step")
    return step


def is_adapter(directory: Path) -> bool:
    """Whether a model directory holds an adapter rather than a whole model."""
    return (directory / ADAPTER_CONFIG).is_file()


def base_directory(directory: Path) -> Path:
    """The directory of the whole model: `directory` itself, or the base of the adapter in it.

    A base stored in the adapter's run is looked for in that run, any other at its recorded path. If it is not there,
    suffixes of the path, the longest first, are tried from the adapter's directory and each folder above it, so that a
    tree of runs can be moved as a whole.

    Raises:
        UserError: the base was not found.
    """
    if not is_adapter(directory):
        return directory
    config = directory / ADAPTER_CONFIG
    name = Fields(read_json(config), str(config)).text("base_model_name_or_path", "")
    for base in _candidates(Path(name), directory) if name else ():
        # os.path.isfile is False, not an error, for a name that no path can have.
        if os.path.isfile(base / "config.json") and not is_adapter(base):
            return base
    raise UserError(
        f"{config}: its base_model_name_or_path {reprlib.repr(name)} is not there; write the folder of the model the "
        "adapter was made for"
    )


def _candidates(base: Path, directory: Path) -> Iterator[Path]:
    """Paths where the base of the adapter in `directory` may be, the likeliest first."""
    adapter = directory.resolve()
    if base.name == BASE and adapter.name.startswith("step_"):
        yield directory.parent / BASE
    yield base
    parts = [part for part in base.parts if part != base.anchor]
    for start in range(len(parts)):
        yield from (folder.joinpath(*parts[start:]) for folder in (adapter, *adapter.parents))


def load_base(
    directory: Path, tokenizer: Tokenizer, options: ModelOptions | None = None, storage: WeightStorage = "float32"
) -> Transformer:
    """The model of a directory; for an adapter its base alone, with the vocabulary it had when the adapter was trained.

    Args:
        directory: directory of a model or adapter.
        tokenizer: tokenizer of that directory.
        options: what differs from the stored shape (`ModelOptions.applied`).
        storage: storage of the blocks' linear layers, as in `load_model`.

    Raises:
        UserError: names the file that is missing or does not fit.
    """
    return filled(unread_base(directory, tokenizer, options), storage)


def unread_base(directory: Path, tokenizer: Tokenizer, options: ModelOptions | None = None) -> Unread:
    """The model that `load_base` returns, without its values.

    Raises:
        UserError: names the file that is missing or does not fit.
    """
    return grown_to(_vocab_size(directory, tokenizer), unread_model(base_directory(directory), options))


def unread(directory: Path, options: ModelOptions | None = None) -> Unread:
    """The model of a directory to train as a whole, without its values; an adapter is merged into its base.

    Args:
        directory: directory of a model or adapter.
        options: what differs from the stored shape (`ModelOptions.applied`).

    Raises:
        UserError: names the file that is missing or does not fit.
    """
    tokenizer = Tokenizer.load(tokenizer_directory(directory))
    model, weights = unread_base(directory, tokenizer, options)
    if is_adapter(directory):
        weights = merged(model, weights, directory)
        model.origin = None
    model.end_ids = _end_ids(directory, tokenizer)
    return Unread(model.eval(), weights)


def _vocab_size(directory: Path, tokenizer: Tokenizer) -> int:
    """The vocabulary that an adapter's base had in training; 0 for a directory whose model has the right one."""
    config = directory / "config.json"
    if not is_adapter(directory):
        return 0
    if config.is_file():  # older adapters have one
        return config_from_json(read_json(config), str(config)).vocab_size
    return tokenizer.vocab_size if tokenizer_directory(directory) == directory else 0


def grown_to(vocab_size: int, unread: Unread) -> Unread:
    """The same model with rows for at least `vocab_size` tokens (`grow_vocabulary`), changed in place."""
    weights = unread.weights.changed(lambda name, weight: grown(name, weight, vocab_size))
    return Unread(grow_vocabulary(unread.model, vocab_size), weights)


def load(path: str | Path, *, int8: bool = False, options: ModelOptions | None = None) -> tuple[Transformer, Tokenizer]:
    """The model, in evaluation mode, and the tokenizer of a run, step, Hugging Face or adapter directory.

    The weights are float32. An adapter is added to its base, whose vocabulary grows to what it was in training.

    Args:
        path: path of the directory.
        int8: whether to hold all matrices in 8 bits (`to_int8`), in about a quarter of the memory; not for training.
        options: what differs from the stored shape (`ModelOptions.applied`), such as the dropout of training.

    Raises:
        UserError: names the file that is missing or does not fit.
    """
    directory = model_directory(path)
    tokenizer = Tokenizer.load(tokenizer_directory(directory))
    with torch.inference_mode(False):  # tensors made in inference mode cannot be trained
        # An adapter is added to its base before that is rounded.
        storage: WeightStorage = "int8" if int8 and not is_adapter(directory) else "float32"
        model = load_base(directory, tokenizer, options, storage)
        if is_adapter(directory):
            load_adapter(model, directory)
        if int8:
            to_int8(model)
    model.end_ids = _end_ids(directory, tokenizer)
    return model.eval(), tokenizer


def _end_ids(directory: Path, tokenizer: Tokenizer) -> frozenset[int]:
    """The ids of all tokens that end an answer: by the tokenizer, the generation configs and the stored template."""
    from babyllm.chat.load import load_template, stored_template  # not needed by a run that draws its model

    place = tokenizer_directory(directory)
    ends = {tokenizer.eos_id, *generation_ends(directory), *generation_ends(place)}
    if stored_template(place) is not None:
        with suppress(UserError):  # generation works without the template; chat reports the error
            ends.update(load_template(None, tokenizer, place).end_ids)
    return frozenset(ends)


def tokenizer_directory(directory: Path) -> Path:
    """The directory with a model's tokenizer: `directory` itself, or the adapter's base if it has no tokenizer.

    Raises:
        UserError: the base was not found.
    """
    has_tokenizer = any((directory / name).is_file() for name in ("tokenizer.json", "tokenizer.model"))
    return directory if has_tokenizer else base_directory(directory)


class ChatModel(NamedTuple):
    """A model to chat with.

    Attributes:
        model: model in evaluation mode; plain, unless it shares its weights with a base.
        tokenizer: tokenizer of the model.
        template: chat template stored with the model, else ChatML.
        missing: special tokens of the template that the vocabulary lacks; without them the model cannot chat.
        has_learned: whether a template was stored with the model; if not, it is a base model, not trained to answer.
    """

    model: Transformer
    tokenizer: Tokenizer
    template: ChatTemplate
    missing: tuple[str, ...]
    has_learned: bool

    def require_template_tokens(self, path: str | Path) -> None:
        """Refuse a model that cannot chat.

        Args:
            path: directory of the model, for the message.

        Raises:
            UserError: the vocabulary lacks tokens of the template.
        """
        if self.missing:
            lacking = ", ".join(self.missing)
            raise UserError(f"{path}: its vocabulary lacks {lacking}; fine-tune it with train_sft.py first")


def load_chat_model(path: str | Path, *, int8: bool = False) -> ChatModel:
    """The model and tokenizer that `load` returns, for reading only, with the chat template.

    Args:
        path: path of the directory.
        int8: whether to hold all matrices in 8 bits, as in `load`.

    Raises:
        UserError: names the file that is missing or does not fit.
    """
    model, tokenizer = load(path, int8=int8)
    return _with_template(model if int8 else merge_lora(model), tokenizer, model_directory(path))


def load_chat_adapter(path: str | Path, base: Transformer, base_path: str | Path) -> ChatModel:
    """The model of an adapter directory on a base that is in memory, for reading only, with the chat template.

    The two share all weights; the adapter's updates are kept beside them. The base stays as it is.

    Args:
        path: path of the adapter's run or directory.
        base: a plain model in float32.
        base_path: path of the directory it was loaded from.

    Raises:
        UserError: the directory holds no adapter, or the adapter was trained on another model; or as for `load`.
    """
    directory = model_directory(path)
    if not is_adapter(directory):
        raise UserError(f"{path}: holds a whole model and no adapter")
    tokenizer = Tokenizer.load(tokenizer_directory(directory))
    if (own := base_directory(directory)).resolve() != model_directory(base_path).resolve():
        _require_equal(load_model(own), base, f"{path}: was trained on {own}, not on {base_path}")
    with torch.inference_mode(False):
        _join(base)
        memo: dict[int, object] = {id(weight): weight for weight in base.parameters()}
        model = grow_vocabulary(copy.deepcopy(base, memo), _vocab_size(directory, tokenizer))
        load_adapter(model, directory)
    model.end_ids = _end_ids(directory, tokenizer)
    return _with_template(model.requires_grad_(False).eval(), tokenizer, directory)


def _join(model: Transformer) -> None:
    """Store weights as generation does, so that a model that shares them later keeps no others in memory."""
    for block in cast("Iterable[Block]", model.layers):
        attention, mlp = block.self_attn, block.mlp
        for layers in ((attention.q_proj, attention.k_proj, attention.v_proj), (mlp.gate_proj, mlp.up_proj)):
            joined_weight(layers, torch.float32)


def _require_equal(own: Transformer, base: Transformer, message: str) -> None:
    """Refuse a base with other weights than those that an adapter was trained on."""
    weights = dict(base.named_parameters())
    for name, weight in own.named_parameters():
        other = weights.get(name)
        if other is None or other.shape != weight.shape or not torch.equal(weight.detach(), other.detach().cpu()):
            raise UserError(message)


def _with_template(model: Transformer, tokenizer: Tokenizer, directory: Path) -> ChatModel:
    """A model that is read only, with the chat template of its directory."""
    from babyllm.chat.load import load_template, stored_template

    place = tokenizer_directory(directory)
    template = load_template(None, tokenizer, place)
    missing = tuple(name for name in template.tokenizer.special if name not in tokenizer.special)
    return ChatModel(model, tokenizer, template, missing, stored_template(place) is not None)
