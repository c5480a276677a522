"""The model that a later stage trains: its vocabulary grown for the template, with LoRA or frozen parts, and read.

init_from, or the newest step of the run -> starting_model -> StartingModel, without values
-> adapted: changed, divided among ranks, filled -> the model to train
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from babyllm.chat.load import ChatTemplate, stored_template
from babyllm.config.json_fields import read_json
from babyllm.errors import UserError
from babyllm.interop.held_base import BASE, hold_base
from babyllm.interop.hf_config import is_classifier
from babyllm.interop.huggingface import Unread, unread_with_head
from babyllm.interop.peft import Adapter, fill_adapter, read_adapter
from babyllm.loading import base_directory, grown_to, is_adapter, tokenizer_directory, unread, unread_base
from babyllm.model.adapt.freezing import FreezeConfig, freeze
from babyllm.model.adapt.lora import LoraConfig, add_lora, lora_layers
from babyllm.model.adapt.token_rows import matrices_of, train_token_rows
from babyllm.model.config import require_context
from babyllm.model.heads import SCORE
from babyllm.model.interface import Model
from babyllm.model.transformer import Transformer
from babyllm.parallel.distribute import prepare
from babyllm.parallel.filling import Weights, fill
from babyllm.runtime import Runtime, seed_all
from babyllm.tokenizer import Tokenizer
from babyllm.training.adapted_config import AdaptedRunConfig

Head = Callable[[Unread], tuple[Model, Callable[[torch.device], None]]]
"""Puts a model on "meta" into a larger one, and returns that with what fills its other parts on a device later."""


class StartingModel(NamedTuple):
    """A model before it is changed for training; its weights are not read yet.

    Attributes:
        directory: directory of the model or adapter.
        tokenizer: tokenizer of that directory.
        model: model without an adapter, on the device "meta".
        weights: its weights.
        adapter: adapter of `directory`, to train further; None for a new one, or without LoRA.
        tokens: ids of the tokens whose rows are trained in addition to LoRA, ascending.
        is_resumed: whether `directory` is a step of this run.
        source: origin of the weights, in words, for the headline.
        head: weight (labels, D) of the head of a reward model or classifier; None for other models.
    """

    directory: Path
    tokenizer: Tokenizer
    model: Transformer
    weights: Weights
    adapter: Adapter | None
    tokens: list[int]
    is_resumed: bool
    source: str
    head: Tensor | None = None


def starting_model(
    config: AdaptedRunConfig, directory: Path, tokenizer: Tokenizer, template: ChatTemplate, is_resumed: bool
) -> StartingModel:
    """The model of a directory, opened as the configuration says.

    Args:
        config: configuration of the stage.
        directory: directory of a model or adapter.
        tokenizer: tokenizer of that directory.
        template: chat template, whose tokens the model must learn.
        is_resumed: whether the directory is a step of this run.

    Raises:
        UserError: the configuration asks for another shape than that of the directory; or the model's context is
            shorter than the data's rows; or a file is missing or does not fit.
    """
    adapter, head, source = None, None, f"from {directory}"
    if config.lora.rank:
        model, weights = unread_base(directory, tokenizer, config.model)
        if is_adapter(directory):
            adapter, source = read_adapter(directory), f"going on with the adapter of {directory}"
    elif _has_head(directory):
        headed, of_both = unread_with_head(directory, config.model)
        model, weights, head = headed.model, of_both.below("model."), of_both.read(f"{SCORE}.weight")
    else:
        model, weights = unread(directory, config.model)
        if is_adapter(directory):
            source = f"from {directory} merged into its base {base_directory(directory)}, to be trained in full"
    require_context(model.config, config.data.longest_seq_len, directory)
    tokens = {i for ids in adapter.tokens.values() for i in ids} if adapter else set()
    if config.lora.rank and not is_resumed:
        tokens |= _unlearned(config, directory, tokenizer, template)
    return StartingModel(directory, tokenizer, model.eval(), weights, adapter, sorted(tokens), is_resumed, source, head)


def _has_head(directory: Path) -> bool:
    """Whether a directory holds a reward model or classifier."""
    file = directory / "config.json"
    return file.is_file() and is_classifier(read_json(file))


def _unlearned(config: AdaptedRunConfig, directory: Path, tokenizer: Tokenizer, template: ChatTemplate) -> set[int]:
    """The ids of the template's special tokens whose rows are trained in addition to LoRA."""
    written = set(template.special_ids())
    if config.lora.new_tokens != "auto":
        return written if config.lora.new_tokens else set()
    stored = stored_template(tokenizer_directory(directory)) or ""
    # A base has learned <bos> and <eos>, which delimit every text, and the tokens in its own template.
    learned = {tokenizer.bos_id, tokenizer.eos_id, *(i for name, i in tokenizer.special.items() if name in stored)}
    return written - learned


def adapted(
    config: AdaptedRunConfig, start: StartingModel, template: ChatTemplate, runtime: Runtime, on: Head | None = None
) -> Model:
    """The model to train: with rows for the template's tokens, LoRA and frozen parts, divided and filled.

    Every rank must call it. On rank 0 it also stores the base in the run directory and prints remarks.

    Args:
        config: configuration of the stage.
        start: model that the run begins with, whose `model` is changed in place.
        template: chat template, whose tokens the model must learn.
        runtime: runtime of the run.
        on: function that puts the changed model into a larger one; None for the model itself.

    Raises:
        UserError: the model cannot be changed as the configuration says, or a weight is not finite.
    """
    if runtime.is_main:
        for line in _remarks(start, template):
            print(line)
    base = grown_to(template.tokenizer.vocab_size, Unread(start.model, start.weights))
    adapter = None if start.is_resumed else start.adapter
    _change(base.model, config.lora, config.freeze, start.tokens)
    if adapter:
        _require_same_shape(config.lora, base.model, adapter, start.directory)
    is_new = bool(config.lora.rank) and not start.is_resumed
    if is_new:
        base.model.origin = str((Path(config.run_dir) / BASE).absolute())
    model: Model = base.model
    fill_others: Callable[[torch.device], None] | None = None
    if on:
        model, fill_others = on(base)
    model = prepare(model, runtime, config.parallel)
    seed_all(config.plan.seed)
    fill(base.model, base.weights, runtime.device)
    if fill_others:
        fill_others(runtime.device)
    if is_new:
        with runtime.main_first():
            if runtime.is_main:
                hold_base(Path(config.run_dir), base_directory(start.directory), base, start.tokenizer)
    if adapter:
        fill_adapter(base.model, adapter, start.directory)
    return model


def _change(model: Transformer, lora: LoraConfig, frozen: FreezeConfig, tokens: list[int]) -> None:
    """Add LoRA and trained rows to the model, in place, and freeze the rest as configured."""
    add_lora(model, lora)
    train_token_rows(model, matrices_of(model, tokens))
    freeze(model, frozen)


def _require_same_shape(config: LoraConfig, model: Transformer, adapter: Adapter, directory: Path) -> None:
    """Refuse to train an adapter further with another rank, scale or set of layers."""
    theirs, mine = replace(adapter.config, targets=sorted(adapter.config.targets)), sorted(lora_layers(model))
    for key in ("rank", "alpha", "rslora", "targets"):
        before, now = getattr(theirs, key), mine if key == "targets" else getattr(config, key)
        if before != now:
            shown = f"{before[:3]} ..." if isinstance(before, list) and len(before) > 3 else before
            raise UserError(
                f"--init_from: {directory} is an adapter with other lora.{key}, {shown}; give the same to go on with "
                "it, or --lora.rank=0 to merge it into its base and train the whole model"
            )


def _remarks(start: StartingModel, template: ChatTemplate) -> Iterator[str]:
    """Remarks about the template's tokens, printed before training begins."""
    tokenizer, size = template.tokenizer, start.model.config.vocab_size
    if tokenizer.vocab_size > size:
        yield f"{start.directory}: the vocabulary grows from {size} to {tokenizer.vocab_size} tokens, for the template"
    if start.tokens and not start.is_resumed:
        names = ", ".join(name for name, i in tokenizer.special.items() if i in start.tokens)
        yield f"trained beside LoRA, because the base has not learned them: the rows of {names}"
