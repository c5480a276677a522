"""LoRA adapters in the format of the `peft` library, read and written.

model with LoRA <-> adapter_config.json, adapter_model.safetensors (A and B, rows of tokens, a head, by peft's names)
"""

from __future__ import annotations

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

ADAPTER_WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_COPIED = (EMBEDDING, OUTPUT)

_TOKENS = "trainable_token_indices"
_ROWS = "token_adapter.trainable_tokens_delta"  # peft's name for whole rows, not for what is added to them
_KINDS = {"rows": _ROWS, "weight": "weight"}

# What other values of these settings ask for does not exist here.
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
        config: settings, whose targets are whole names.
        tensors: A (R, I) and B (O, R) of each layer, the rows of tokens (N, D) and a head (labels, D), by the names of
            `adapter_parameters`.
        copies: copies of the embedding and the output layer (V, D), which `peft` adds when one is adapted.
        tokens: ids of its rows, ascending, by the matrix: "embed_tokens", "lm_head".
    """

    config: LoraConfig
    tensors: dict[str, Tensor]
    copies: dict[str, Tensor]
    tokens: dict[str, list[int]]


def save_adapter(directory: Path, model: Model, base: str) -> None:
    """Write the adapter of `model` into `directory`, in float32, as `peft.PeftModel.from_pretrained` reads it.

    Args:
        directory: an existing one.
        model: a model with LoRA.
        base: the directory of the model it was added to, as it is to be found later.
    """
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
    tensors = {
        _file_name(name): tensor.detach().to("cpu", torch.float32).contiguous()
        for name, tensor in adapter_parameters(model).items()
    }
    write_json(directory / ADAPTER_CONFIG, config)
    save_tensors(tensors, directory / ADAPTER_WEIGHTS)


def _file_name(name: str) -> str:
    module, _, kind = hf_name(name).rpartition(".")
    return f"{_PREFIX}{module}.{_KINDS.get(kind, f'{kind}.weight')}"


def _own_name(key: str) -> str:
    """The name in `adapter_parameters` of a tensor in a file; a whole matrix has its name without "weight"."""
    name = key.removeprefix(_PREFIX).removeprefix("model.")
    if name.endswith(_ROWS):
        return name.removesuffix(_ROWS) + "rows"
    return name.removesuffix(".weight").removesuffix(".base_layer")


def _target_modules(model: Model) -> list[str]:
    """The ends of the adapted layers' names where these mean no other layer, else whole names."""
    adapted = lora_layers(model)
    ends = {name.rpartition(".")[2] for name in adapted}
    if {name for name in linear_layers(model) if name.rpartition(".")[2] in ends} == set(adapted):
        return sorted(ends)
    return [hf_name(f"{name}.").removesuffix(".") for name in adapted]


def adapter_parameters(model: Model) -> dict[str, Tensor]:
    """The parameters of a model's adapter, by the transformer's own names; empty if it has no adapter.

    Returns:
        A (R, I) and B (O, R) of every layer that has an update, rows (N, D) of the embedding and the output layer, and
        the weight (labels, D) of a head, which is trained beside an adapter.
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
    """The same model with the adapter of a directory, made here or by `peft`; only the adapter is trainable.

    Args:
        model: the base, changed in place.
        directory: holds adapter_config.json and adapter_model.safetensors.

    Raises:
        UserError: a file cannot be read, is damaged, does not fit the model, or uses an unsupported feature.
    """
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
    for name, copy in adapter.copies.items():
        weight = model.get_parameter(name)
        if weight.shape != copy.shape or not torch.equal(weight.detach().to("cpu", copy.dtype), copy):
            raise UserError(f"{directory / ADAPTER_WEIGHTS}: its {name} is not the base's: not supported")
    require_known_tokens(adapter, model, directory)
    fill_adapter(train_token_rows(add_lora(model, adapter.config), adapter.tokens), adapter, directory)
    return model


def require_known_tokens(adapter: Adapter, model: Transformer, directory: Path) -> None:
    """Reject rows of tokens that a model does not have or cannot hold.

    Raises:
        UserError: names the adapter's file.
    """
    path = directory / ADAPTER_CONFIG
    highest = max((ids[-1] for ids in adapter.tokens.values() if ids), default=-1)
    if highest >= model.config.vocab_size:
        raise UserError(f"{path}: {_TOKENS} has {highest}, but the base has {model.config.vocab_size} tokens")
    tokens = adapter.tokens
    if model.config.tie_embeddings and tokens.get(OUTPUT, tokens.get(EMBEDDING)) != tokens.get(EMBEDDING):
        raise UserError(f"{path}: {_TOKENS} of {OUTPUT} alone, which is tied to the embedding, are not supported")


def read_adapter(directory: Path) -> Adapter:
    """The adapter of a directory.

    The adapted layers are known by the tensors, so patterns in the file need not be understood.

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
    """Ids whose rows are trained, in the order of the rows, by matrix."""
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
    """The adapter's tensors by the model's own names, rows in the order of their ids; and copies of the base's."""
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
    """Copy an adapter that was read from `directory` into a model with updates and rows of the same names.

    Rows of tokens that the adapter lacks are left unchanged.

    Raises:
        UserError: the layers or the shapes differ.
    """
    parameters, matrices = adapter_parameters(model), token_rows(model)
    places: dict[str, Tensor] = {
        f"{name}.rows": torch.searchsorted(matrices[name].token_ids.cpu(), torch.tensor(ids))
        for name, ids in adapter.tokens.items()
        if name in matrices and set(ids) <= set(matrices[name].token_ids.tolist())
    }
    mine = {name: parameter[places[name]] if name in places else parameter for name, parameter in parameters.items()}
    wrong = [name for name, tensor in adapter.tensors.items() if name not in mine or tensor.shape != mine[name].shape]
    stored = {*adapter.tensors, *(f"{name}.rows" for name in matrices if name not in adapter.tokens)}
    wrong += [name for name in mine if name not in stored]
    if wrong:
        raise UserError(
            f"{directory / ADAPTER_WEIGHTS}: tensor {wrong[0]!r} is missing, unknown or of another shape than here"
        )
    with torch.no_grad():
        for name, tensor in adapter.tensors.items():
            parameters[name][places.get(name, slice(None))] = tensor.to(parameters[name].device)
