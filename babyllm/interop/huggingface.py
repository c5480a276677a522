"""Hugging Face model directories: config.json and model.safetensors, read and written.

ModelConfig <-> config.json (babyllm.interop.hf_config); Transformer <-> model.safetensors (float32, Hugging Face
names); tokenizer <-> its files. A reward model or classifier is transformers' LlamaForSequenceClassification. A policy
with a value head is a LlamaForCausalLM whose head is in a separate file, which transformers does not read. One with a
critic of its own is the actor's directory, with the critic's, a LlamaForSequenceClassification, in the folder critic.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from babyllm.config.json_fields import Fields, read_json
from babyllm.errors import UserError
from babyllm.files import write_json
from babyllm.integrity import AUXILIARY, check_held, check_model
from babyllm.interop.headers import require_fitting_header, tensor_shapes
from babyllm.interop.hf_config import classifier_of, config_from_json, config_to_json, is_classifier
from babyllm.interop.weights import (
    VALUE_HEAD,
    WEIGHTS,
    load_weights,
    save_tensors,
    weight_files,
    weights_to_hf,
)
from babyllm.model.adapt.lora import freeze_blocks
from babyllm.model.config import ModelConfig
from babyllm.model.heads import CRITIC, SCORE, ActorCritic, WithAuxiliary, WithHead
from babyllm.model.interface import Model
from babyllm.model.linear import FrozenLinear, WeightStorage
from babyllm.model.options import ModelOptions
from babyllm.model.transformer import Transformer
from babyllm.parallel.filling import Weights, fill
from babyllm.tokenizer import Tokenizer

ADAPTER_CONFIG = "adapter_config.json"


def save_model(
    directory: Path,
    model: Model,
    tokenizer: Tokenizer | None,
    *,
    chat_template: str | None = None,
    end_ids: Sequence[int] = (),
) -> None:
    """Write a whole Hugging Face directory: config.json, generation_config.json, weights and the tokenizer's files.

    Weights are written in float32; a tied output layer is written once, as the embedding.

    Args:
        directory: an existing directory.
        model: a `Transformer`, a `WithHead` or an `ActorCritic`, without an adapter.
        tokenizer: tokenizer whose files are written too; None writes none.
        chat_template: Jinja template, stored with the tokenizer.
        end_ids: tokens that end an answer.

    Raises:
        UserError: the model has quantised weights or an adapter.
    """
    files = model_tensors(model)
    describe_model(directory, model, tokenizer, chat_template=chat_template, end_ids=end_ids)
    for name, tensors in files.items():
        save_tensors(tensors, directory / name)


def model_tensors(model: Model) -> dict[str, dict[str, Tensor]]:
    """The tensors of each file that `save_model` writes, by the file's path in the directory and their names.

    They are the model's own, not copies.

    Raises:
        UserError: the model has quantised weights or an adapter.
    """
    if any(isinstance(layer, FrozenLinear) for layer in model.modules()):
        raise UserError("the model is adapted or held in fewer bits; babyllm.merge_lora makes it one that can be saved")
    if isinstance(model, ActorCritic):
        of_critic = model_tensors(model.critic)
        return {**model_tensors(model.actor), **{f"{CRITIC}/{name}": file for name, file in of_critic.items()}}
    tensors = weights_to_hf(model.state_dict(), model.config)
    if isinstance(model, WithHead) and model.has_output:
        file = AUXILIARY if isinstance(model, WithAuxiliary) else VALUE_HEAD
        return {file: {f"{SCORE}.weight": tensors.pop(f"{SCORE}.weight")}, WEIGHTS: tensors}
    return {WEIGHTS: tensors}


def describe_model(
    directory: Path,
    model: Model,
    tokenizer: Tokenizer | None,
    *,
    chat_template: str | None = None,
    end_ids: Sequence[int] = (),
) -> None:
    """Write what `save_model` writes, without the weights: no value of a tensor is read."""
    write_json(directory / "config.json", model_to_json(model, tokenizer))
    if isinstance(model, ActorCritic):
        (directory / CRITIC).mkdir(exist_ok=True)
        write_json(directory / CRITIC / "config.json", model_to_json(model.critic, tokenizer))
    save_generation(directory, model, tokenizer, end_ids)
    if tokenizer:
        tokenizer.save(directory, chat_template=chat_template)


def model_to_json(model: Model, tokenizer: Tokenizer | None) -> dict[str, Any]:
    """The content of config.json: that of `config_to_json`, and the labels of a head that is not auxiliary."""
    config = config_to_json(model.config, tokenizer)
    if isinstance(model, WithHead) and not isinstance(model, WithAuxiliary):
        return config | _head_to_json(model)
    return config


def _head_to_json(model: WithHead) -> dict[str, Any]:
    names = {
        "id2label": {str(i): label for i, label in enumerate(model.labels)},
        "label2id": {label: i for i, label in enumerate(model.labels)},
    }
    return names if model.has_output else {"architectures": [classifier_of(model.config)], **names}


def save_generation(directory: Path, model: Model, tokenizer: Tokenizer | None, end_ids: Sequence[int] = ()) -> None:
    """Write generation_config.json, in which generation ends at <eos> and at each token id of `end_ids`."""
    config = config_to_json(model.config, tokenizer)
    ids = {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    ends = list(dict.fromkeys(i for i in (ids["eos_token_id"], *end_ids) if i is not None))
    if len(ends) > 1:
        ids["eos_token_id"] = ends
    write_json(directory / "generation_config.json", {**ids, "do_sample": True, "temperature": 0.8, "top_k": 50})


def generation_ends(directory: Path) -> list[int]:
    """The ids of the tokens that end a generated text, from generation_config.json and config.json, without repetition.

    Raises:
        UserError: a file cannot be read, or its `eos_token_id` is not a token id or a list of token ids.
    """
    files = [file for name in ("generation_config.json", "config.json") if (file := directory / name).is_file()]
    found = (i for file in files for i in Fields(read_json(file), str(file)).integers("eos_token_id"))
    return list(dict.fromkeys(found))


class Unread(NamedTuple):
    """A model of which no weight has been read yet; `filling.fill` reads them.

    Attributes:
        model: model on the device "meta".
        weights: its weights, by the names of its parameters.
    """

    model: Transformer
    weights: Weights


def load_model(directory: Path, options: ModelOptions | None = None, storage: WeightStorage = "float32") -> Transformer:
    """The model of a Hugging Face directory, in float32 on the CPU.

    Args:
        directory: directory of a language model.
        options: what differs from the stored shape (`ModelOptions.applied`), such as the dropout of training, which
            files do not store.
        storage: storage of the blocks' linear layers. Other than float32 they are frozen (`FrozenLinear`). Each is
            made as it is read, so that the model is never in memory as a whole in float32.

    Raises:
        UserError: a file is missing, damaged or does not fit; the message names it.
    """
    return filled(unread_model(directory, options), storage)


def unread_model(directory: Path, options: ModelOptions | None = None) -> Unread:
    """The model of a Hugging Face directory, as `load_model` reads it, without its values.

    Raises:
        UserError: a file is missing, damaged or does not fit, or the directory holds an adapter, a reward model or a
            classifier.
    """
    with torch.device("meta"):
        model = Transformer(read_shape(directory, options))
    model.origin = str(directory)
    return Unread(model, load_weights(directory, model))


def filled(unread: Unread, storage: WeightStorage = "float32") -> Transformer:
    """The model with its weights, on the CPU; `storage` is that of `load_model`.

    Raises:
        UserError: a value is not finite.
    """
    freeze_blocks(unread.model, storage)
    fill(unread.model, unread.weights)
    return unread.model


def read_shape(directory: Path, options: ModelOptions | None = None) -> ModelConfig:
    """The shape of the language model in a directory, whose files are checked but for the values of its weights.

    Args:
        directory: directory of a language model.
        options: what differs from the stored shape (`ModelOptions.applied`).

    Raises:
        UserError: a file is missing, damaged or does not fit, or the directory holds an adapter, a reward model or a
            classifier.
    """
    raw, config = _described(directory, options)
    if is_classifier(raw):
        raise UserError(f"{directory}: holds a reward model or classifier; give the directory of a language model")
    return config


def load_with_head(directory: Path, options: ModelOptions | None = None) -> WithHead:
    """The model with a head in a Hugging Face directory, in float32 on the CPU; `load_model` loads one without a head.

    Args:
        directory: directory of a LlamaForSequenceClassification, or of a LlamaForCausalLM with a value head file.
        options: what differs from the stored shape (`ModelOptions.applied`), such as the dropout of training, which
            files do not store.

    Raises:
        UserError: the directory has no head, or a file is missing, damaged or does not fit.
    """
    model, weights = unread_with_head(directory, options)
    fill(model, weights)
    return model


def unread_with_head(directory: Path, options: ModelOptions | None = None) -> tuple[WithHead, Weights]:
    """The model with a head as `load_with_head` reads it, on the device "meta", and its weights, which are not read.

    Raises:
        UserError: the directory has no head, or a file is missing, damaged or does not fit.
    """
    raw, config = _described(directory, options)
    has_output = not is_classifier(raw)
    files = [directory / VALUE_HEAD] if has_output else weight_files(directory)
    if has_output and not files[0].is_file():
        raise UserError(f"{directory}: has neither the architecture {classifier_of(config)} nor a {VALUE_HEAD}")
    shape = tensor_shapes(files).get(f"{SCORE}.weight")
    if not shape:
        raise UserError(f"{directory}: its files hold no tensor '{SCORE}.weight'")
    labels = Fields(raw, str(directory / "config.json")).object("id2label")
    with torch.device("meta"):
        names = [labels.text(str(i), f"LABEL_{i}") for i in range(shape[0])]
        model = WithHead(Transformer(config), names, has_output=has_output)
    model.model.origin = str(directory)
    return model, load_weights(directory, model)


def _described(directory: Path, options: ModelOptions | None) -> tuple[dict[str, Any], ModelConfig]:
    """The content of a directory's config.json and its configuration, after a check that the weights' shapes fit it."""
    check_model(directory)
    check_held(directory)
    if not weight_files(directory) and (directory / ADAPTER_CONFIG).is_file():
        raise UserError(
            f"{directory}: holds an adapter, not a whole model; make one with babyllm merge-lora {directory} OUT"
        )
    path = directory / "config.json"
    raw = read_json(path)
    config = config_from_json(raw, str(path))
    require_fitting_header(weight_files(directory), config, path)
    return raw, (options or ModelOptions()).applied(config, directory)
