"""LoRA adapters in the format of the `peft` library, read and written.

model with LoRA <-> adapter_config.json, adapter_model.safetensors (A and B, token rows, a head, by peft's names)

Legend: R rank, I inputs, O outputs, N tokens whose rows are trained, V vocabulary, D model width.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from babyllm.config.json_fields import Fields, read_json
from babyllm.errors import UserError
from babyllm.files import write_json
from babyllm.integrity import check_model
from babyllm.interop.huggingface import ADAPTER_CONFIG
from babyllm.interop.weights import hf_name, read_tensors, save_tensors
from babyllm.model.adapt.lora import LoraConfig, add_lora, linear_layers, lora_layers
from babyllm.model.adapt.token_rows import token_rows, train_token_rows
from babyllm.model.heads import SCORE, WithHead
from babyllm.model.interface import Model
from babyllm.model.transformer import EMBEDDING, OUTPUT, Transformer
from babyllm.parallel.filling import Weights
from babyllm.parallel.tensors import local, part_of, place_of, whole_tensor

ADAPTER_WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_COPIED = (EMBEDDING, OUTPUT)

_TOKENS = "trainable_token_indices"
_ROWS = "token_adapter.trainable_tokens_delta"  # in spite of its name, peft stores whole rows here and not differences
_KINDS = {"rows": _ROWS, "weight": "weight"}

# The supported values of these settings.
_ONLY: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    "fan_in_fan_out": (False,),
    "lora_bias": (False,),
    "use_dora": (False,),
    "use_qalora": (False,),
    "init_lora_weights": (True, False, "gaussian", "orthogonal", "eva", "loftq"),  # others change the base as well
    "modules_to_save": (None, [], [SCORE]),
    "target_parameters": (None, []),
    **dict.fromkeys(("rank_pattern", "alpha_pattern"), (None, {})),
    **dict.fromkeys(("alora_invocation_tokens", "arrow_config", "kasa_config", "layer_replication"), (None,)),
    **dict.fromkeys(("monteclora_config", "use_bdlora", "velora_config"), (None, False)),
}


class Adapter(NamedTuple):
    """An adapter as it is stored.

    Attributes:
        config: LoRA settings; the targets are full layer names.
        tensors: float32 tensors by the names of `adapter_parameters`: A (R, I) and B (O, R) of each layer, the rows of
            tokens (N, D) and a head (labels, D).
        copies: copies (V, D) of the base's embedding and output layer, which `peft` stores when one of them is adapted.
        tokens: ids of the trained rows, ascending, by matrix: "embed_tokens", "lm_head".
    """

    config: LoraConfig
    tensors: dict[str, Tensor]
    copies: dict[str, Tensor]
    tokens: dict[str, list[int]]


def save_adapter(directory: Path, model: Model, base: str) -> None:
    """Write the adapter of `model` into `directory`, in float32, as `peft.PeftModel.from_pretrained` reads it.

    Args:
        directory: an existing directory.
        model: a model with LoRA.
        base: path of the base model's directory, as the adapter's config stores it.
    """
    describe_adapter(directory, model, base)
    for name, tensors in adapter_tensors(model).items():
        save_tensors(tensors, directory / name)


def adapter_tensors(model: Model) -> dict[str, dict[str, Tensor]]:
    """The tensors of the file with weights that `save_adapter` writes, by the file's name and theirs, not copied."""
    tensors = {_file_name(name): tensor.detach().float() for name, tensor in adapter_parameters(model).items()}
    return {ADAPTER_WEIGHTS: tensors}


def describe_adapter(directory: Path, model: Model, base: str) -> None:
    """Write what `save_adapter` writes, without the weights."""
    tokens = {name: matrix.token_ids.tolist() for name, matrix in token_rows(model).items()}
    layers = lora_layers(model)
    layer = next(iter(layers.values()))
    config = {
        "peft_type": "LORA",
        "task_type": "SEQ_CLS" if isinstance(model, WithHead) and not model.has_output else "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": layer.rank,
        "lora_alpha": int(layer.alpha) if float(layer.alpha).is_integer() else layer.alpha,
        "lora_dropout": layer.dropout,
        "use_rslora": layer.rslora,
        "target_modules": _target_modules(model),
        "bias": "none",
        "fan_in_fan_out": False,
        "modules_to_save": [SCORE] if isinstance(model, WithHead) else None,
        _TOKENS: tokens or None,
        "init_lora_weights": True,
        "inference_mode": True,
    }
    write_json(directory / ADAPTER_CONFIG, config)


def _file_name(name: str) -> str:
    module, _, kind = hf_name(name).rpartition(".")
    return f"{_PREFIX}{module}.{_KINDS.get(kind, f'{kind}.weight')}"


def _own_name(key: str) -> str:
    """The name in `adapter_parameters` of a tensor in a file; the name of a whole matrix, without "weight"."""
    name = key.removeprefix(_PREFIX).removeprefix("model.")
    if name.endswith(_ROWS):
        return name.removesuffix(_ROWS) + "rows"
    return name.removesuffix(".weight").removesuffix(".base_layer")


def _target_modules(model: Model) -> list[str]:
    """The last parts of the adapted layers' names if no other layer shares them, else full names."""
    adapted = lora_layers(model)
    ends = {name.rpartition(".")[2] for name in adapted}
    if {name for name in linear_layers(model) if name.rpartition(".")[2] in ends} == set(adapted):
        return sorted(ends)
    return [hf_name(f"{name}.").removesuffix(".") for name in adapted]


def adapter_parameters(model: Model) -> dict[str, Tensor]:
    """The parameters of a model's adapter, by the transformer's own names; empty if it has no adapter.

    Returns:
        A (R, I) and B (O, R) of every adapted layer, trained rows (N, D) of the embedding and the output layer, and the
        weight (labels, D) of a head, which is trained together with an adapter.
    """
    found: dict[str, Tensor] = {
        f"{name.removeprefix('model.')}.{key}": getattr(layer, key)
        for name, layer in lora_layers(model).items()
        for key in ("lora_A", "lora_B")
    }
    found |= {f"{name}.rows": matrix.rows for name, matrix in token_rows(model).items()}
    if found and isinstance(model, WithHead):
        found[f"{SCORE}.weight"] = model.score.weight
    return found


def load_adapter(model: Transformer, directory: Path) -> Transformer:
    """The same model with an adapter from a directory, written by babyllm or `peft`; only the adapter is trainable.

    Args:
        model: the base model, changed in place.
        directory: directory with adapter_config.json and adapter_model.safetensors.

    Raises:
        UserError: a file cannot be read, is damaged, does not fit the model, or uses an unsupported feature.
    """
    _take(model, model.get_parameter, directory)
    return model


def merged(model: Transformer, weights: Weights, directory: Path) -> Weights:
    """The weights of a base with those of an adapter added, as `merge_lora` adds them.

    Args:
        model: the base, on the device "meta"; not changed.
        weights: weights of the base.
        directory: directory with adapter_config.json and adapter_model.safetensors.

    Raises:
        UserError: as `load_adapter`.
    """
    adapter = _take(copy.deepcopy(model), weights.read, directory)
    scale, tensors = adapter.config.scale, adapter.tensors

    def added(name: str, weight: Tensor) -> Tensor:
        layer = name.removesuffix(".weight")
        if f"{layer}.lora_A" in tensors:
            weight = weight.float() + scale * (tensors[f"{layer}.lora_B"] @ tensors[f"{layer}.lora_A"])
        if f"{layer}.rows" in tensors:
            weight = weight.float().index_copy(0, torch.tensor(adapter.tokens[layer]), tensors[f"{layer}.rows"])
        return weight

    return weights.changed(added)


def _take(model: Transformer, read: Callable[[str], Tensor], directory: Path) -> Adapter:
    """Give a base, whose weights `read` returns by name, the adapter of a directory, in place."""
    check_model(directory)
    adapter = read_adapter(directory)
    targets = adapter.config.targets
    unknown = [name for name in targets if name not in linear_layers(model)]
    if unknown:
        raise UserError(f"{directory / ADAPTER_WEIGHTS}: adapts {unknown[0]!r}, which the model does not have")
    if OUTPUT in targets and model.config.tie_embeddings:
        raise UserError(
            f"{directory / ADAPTER_WEIGHTS}: adapts {OUTPUT}, which is tied to the embedding: not supported"
        )
    for name, theirs in adapter.copies.items():
        weight = read(name)
        if weight.shape != theirs.shape or not torch.equal(weight.detach().to("cpu", theirs.dtype), theirs):
            raise UserError(f"{directory / ADAPTER_WEIGHTS}: its {name} is not the base's: not supported")
    require_known_tokens(adapter, model, directory)
    fill_adapter(train_token_rows(add_lora(model, adapter.config), adapter.tokens), adapter, directory)
    return adapter


def require_known_tokens(adapter: Adapter, model: Transformer, directory: Path) -> None:
    """Check that a model can hold the token rows of an adapter.

    Raises:
        UserError: an id is outside of the vocabulary, or the output layer has rows of its own but is tied to the
            embedding; the message names the adapter's file.
    """
    path = directory / ADAPTER_CONFIG
    highest = max((ids[-1] for ids in adapter.tokens.values() if ids), default=-1)
    if highest >= model.config.vocab_size:
        raise UserError(f"{path}: {_TOKENS} has {highest}, but the base has {model.config.vocab_size} tokens")
    tokens = adapter.tokens
    if model.config.tie_embeddings and tokens.get(OUTPUT, tokens.get(EMBEDDING)) != tokens.get(EMBEDDING):
        raise UserError(f"{path}: {_TOKENS} of {OUTPUT} alone, which is tied to the embedding, are not supported")


def read_adapter(directory: Path) -> Adapter:
    """The adapter in a directory.

    The names of the tensors say which layers are adapted, so patterns in `target_modules` are not parsed.

    Raises:
        UserError: a file cannot be read, uses an unsupported feature, or holds NaN or infinity.
    """
    path, file = directory / ADAPTER_CONFIG, directory / ADAPTER_WEIGHTS
    fields = Fields(read_json(path), str(path))
    for key, values in _ONLY.items():
        fields.only(key, values, "; export the merged model with peft instead")
    tokens = _tokens(fields)
    tensors, copies = _read_tensors(directory, tokens)
    updates = [name for name in tensors if name.endswith((".lora_A", ".lora_B"))]
    targets = list(dict.fromkeys(name.rpartition(".")[0] for name in updates))
    if not targets or any(f"{name}.{key}" not in tensors for name in targets for key in ("lora_A", "lora_B")):
        raise UserError(f"{file}: does not hold both lora_A and lora_B of each layer")
    rank = fields.integer("r")
    for name, tensor in tensors.items():
        if tensor.dim() != 2 or (name.endswith("lora_A") and len(tensor) != rank):
            raise UserError(f"{path}: r is {rank}, but {file} has {name} of the shape {list(tensor.shape)}")
    config = LoraConfig(
        rank=rank,
        alpha=fields.number("lora_alpha", low=1e-6),
        dropout=fields.number("lora_dropout", 0.0, high=0.999),
        targets=targets,
        rslora=fields.boolean("use_rslora", False),
    )
    return Adapter(config, tensors, copies, {name: sorted(ids) for name, ids in tokens.items()})


def _tokens(fields: Fields) -> dict[str, list[int]]:
    """The ids whose rows are trained, by matrix, in the order of the rows."""
    if fields.is_list(_TOKENS):
        found = {EMBEDDING: fields.integers(_TOKENS)}
    else:
        inner = fields.object(_TOKENS)
        found = {name.rpartition(".")[2]: inner.integers(name) for name in inner.keys()}  # noqa: SIM118
    for name, ids in found.items():
        if name not in _COPIED or len(set(ids)) < len(ids):
            raise UserError(f"{fields.where}: {_TOKENS} must be different ids by {' or '.join(_COPIED)}")
    return {name: ids for name, ids in found.items() if ids}


def _read_tensors(directory: Path, tokens: dict[str, list[int]]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The adapter's tensors by the model's names, rows in the order of their ids, and its copies of base tensors."""
    file = directory / ADAPTER_WEIGHTS
    if not file.is_file():
        raise UserError(f"{directory}: holds no {ADAPTER_WEIGHTS}")
    tensors: dict[str, Tensor] = {}
    copies: dict[str, Tensor] = {}
    for key, tensor in read_tensors(file).items():
        name = _own_name(key)
        if name in _COPIED:
            copies[f"{name}.weight"] = tensor
        elif name.endswith(".rows"):
            ids = tokens.get(name.removesuffix(".rows"), [])
            if len(ids) != len(tensor):
                raise UserError(f"{file}: tensor {key!r} has {len(tensor)} rows, but {_TOKENS} names {len(ids)} ids")
            tensors[name] = tensor.float()[torch.tensor(ids).argsort()]
        elif name.endswith((".lora_A", ".lora_B")):
            tensors[name] = tensor.float()
        elif name == SCORE:
            tensors[f"{SCORE}.weight"] = tensor.float()
        else:
            raise UserError(f"{file}: tensor {key!r} is not supported, only lora_A and lora_B of linear layers")
    return tensors, copies


def fill_adapter(model: Model, adapter: Adapter, directory: Path) -> None:
    """Copy an adapter into the adapter parameters of a model; token rows that the adapter lacks stay unchanged.

    Args:
        model: a model that already has LoRA on the same layers.
        adapter: an adapter from `read_adapter`.
        directory: directory the adapter was read from, for messages.

    Raises:
        UserError: the layers or the shapes differ.
    """
    parameters, matrices = adapter_parameters(model), token_rows(model)
    places: dict[str, Tensor] = {
        f"{name}.rows": torch.searchsorted(matrices[name].token_ids.cpu(), torch.tensor(ids))
        for name, ids in adapter.tokens.items()
        if name in matrices and set(ids) <= set(matrices[name].token_ids.tolist())
    }
    mine = {name: (len(places.get(name, p)), *p.shape[1:]) for name, p in parameters.items()}
    wrong = [name for name, tensor in adapter.tensors.items() if mine.get(name) != tuple(tensor.shape)]
    stored = {*adapter.tensors, *(f"{name}.rows" for name in matrices if name not in adapter.tokens)}
    wrong += [name for name in mine if name not in stored]
    if wrong:
        raise UserError(
            f"{directory / ADAPTER_WEIGHTS}: tensor {wrong[0]!r} is missing, unknown or of another shape than here"
        )
    with torch.no_grad():
        for name, tensor in adapter.tensors.items():
            parameter = parameters[name]
            if len(tensor) < len(parameter):
                tensor = whole_tensor(parameter.detach()).cpu().index_copy(0, places[name], tensor)
            local(parameter).copy_(part_of(tensor, place_of(parameter)))
