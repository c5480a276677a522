"""LoRA adapters in the format of the `peft` library, read and written.

model with LoRA <-> adapter_config.json, adapter_model.safetensors (A and B of each layer under peft's names)
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from babyllm.errors import UserError
from babyllm.files import write_json
from babyllm.interop.huggingface import ADAPTER_CONFIG, hf_name, read_json, save_tensors
from babyllm.model.lora import OUTPUT, LoraConfig, add_lora, linear_layers, lora_layers
from babyllm.model.transformer import Transformer

ADAPTER_WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_COPIED = ("embed_tokens", OUTPUT)

# What other values of these settings ask for does not exist here.
_ONLY: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    "fan_in_fan_out": (False,),
    "lora_bias": (False,),
    "use_dora": (False,),
    "use_qalora": (False,),
    "init_lora_weights": (True, False, "gaussian", "orthogonal", "eva", "loftq"),  # others change the base as well
    **dict.fromkeys(("modules_to_save", "target_parameters", "trainable_token_indices"), (None, [])),
    **dict.fromkeys(("rank_pattern", "alpha_pattern"), (None, {})),
    **dict.fromkeys(("alora_invocation_tokens", "arrow_config", "kasa_config", "layer_replication"), (None,)),
    **dict.fromkeys(("monteclora_config", "use_bdlora", "velora_config"), (None, False)),
}


def save_adapter(directory: Path, model: Transformer, base: str) -> None:
    """Write the adapter of `model` into `directory`, in float32, as `peft.PeftModel.from_pretrained` reads it.

    Args:
        directory: is there.
        model: with LoRA.
        base: the directory of the model it was added to, as others are to find it.
    """
    layers = lora_layers(model)
    layer = next(iter(layers.values()))
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": layer.rank,
        "lora_alpha": int(layer.alpha) if float(layer.alpha).is_integer() else layer.alpha,
        "lora_dropout": layer.dropout,
        "use_rslora": layer.rslora,
        "target_modules": _target_modules(model),
        "bias": "none",
        "fan_in_fan_out": False,
        "modules_to_save": None,
        "init_lora_weights": True,
        "inference_mode": True,
    }
    tensors = {
        f"{_PREFIX}{hf_name(name)}.weight": tensor.detach().to("cpu", torch.float32).contiguous()
        for name, tensor in adapter_parameters(model).items()
    }
    write_json(directory / ADAPTER_CONFIG, config)
    save_tensors(tensors, directory / ADAPTER_WEIGHTS)


def _target_modules(model: Transformer) -> list[str]:
    """The ends of the adapted layers' names where these mean no other layer, else whole names."""
    adapted = lora_layers(model)
    ends = {name.rpartition(".")[2] for name in adapted}
    if {name for name in linear_layers(model) if name.rpartition(".")[2] in ends} == set(adapted):
        return sorted(ends)
    return [hf_name(f"{name}.").removesuffix(".") for name in adapted]


def adapter_parameters(model: Transformer) -> dict[str, Tensor]:
    """A and B of every layer that has an update, by the model's own names; none if it has no adapter."""
    return {f"{name}.{key}": getattr(x, key) for name, x in lora_layers(model).items() for key in ("lora_A", "lora_B")}


def load_adapter(model: Transformer, directory: Path) -> Transformer:
    """The same model with the adapter of a directory, made here or by `peft`; only the adapter is trainable.

    Args:
        model: the base, changed in place.
        directory: holds adapter_config.json and adapter_model.safetensors.

    Raises:
        UserError: a file cannot be read, does not fit the model, or asks for what is not there.
    """
    config, tensors, copies = read_adapter(directory)
    unknown = [name for name in config.targets if name not in linear_layers(model)]
    if unknown:
        raise UserError(f"{directory / ADAPTER_WEIGHTS}: adapts {unknown[0]!r}, which the model does not have")
    if OUTPUT in config.targets and model.config.tie_embeddings:
        raise UserError(
            f"{directory / ADAPTER_WEIGHTS}: adapts {OUTPUT}, which is tied to the embedding: not supported"
        )
    for name, copy in copies.items():
        weight = model.get_parameter(name)
        if weight.shape != copy.shape or not torch.equal(weight.detach().to("cpu", copy.dtype), copy):
            raise UserError(f"{directory / ADAPTER_WEIGHTS}: its {name} is not the base's: not supported")
    fill_adapter(add_lora(model, config), tensors, directory)
    return model


def read_adapter(directory: Path) -> tuple[LoraConfig, dict[str, Tensor], dict[str, Tensor]]:
    """The configuration of an adapter, its targets as whole names, and A and B by the model's own names.

    The last of the three are the copies of the embedding and the output layer that `peft` adds when one is adapted.
    Which layers are adapted is read from the tensors, so that patterns need not be understood.

    Raises:
        UserError: a file cannot be read or asks for what is not there.
    """
    path, file = directory / ADAPTER_CONFIG, directory / ADAPTER_WEIGHTS
    raw = read_json(path)
    for key, values in _ONLY.items():
        if key in raw and raw[key] not in values:
            raise UserError(f"{path}: {key} {raw[key]!r} is not supported; export the merged model with peft instead")
    if not file.is_file():
        raise UserError(f"{directory}: holds no {ADAPTER_WEIGHTS}")
    try:
        stored = load_file(file)
    except Exception as e:  # safetensors raises its own type, not exported everywhere
        raise UserError(f"{file}: cannot be read ({e})") from e
    tensors: dict[str, Tensor] = {}
    copies: dict[str, Tensor] = {}
    for key, tensor in stored.items():
        name = key.removeprefix(_PREFIX).removeprefix("model.").removesuffix(".weight").removesuffix(".base_layer")
        if name in _COPIED:
            copies[f"{name}.weight"] = tensor
            continue
        if not name.endswith((".lora_A", ".lora_B")):
            raise UserError(f"{file}: tensor {key!r} is not supported, only lora_A and lora_B of linear layers")
        tensors[name] = tensor.float()
    targets = list(dict.fromkeys(name.rpartition(".")[0] for name in tensors))
    if not targets or len(tensors) != 2 * len(targets):
        raise UserError(f"{file}: does not hold both lora_A and lora_B of each layer")
    try:
        config = LoraConfig(
            rank=raw["r"],
            alpha=float(raw["lora_alpha"]),
            dropout=float(raw.get("lora_dropout", 0.0)),
            targets=targets,
            rslora=bool(raw.get("use_rslora", False)),
        )
    except KeyError as e:
        raise UserError(f"{path}: has no {e}") from e
    return config, tensors, copies


def fill_adapter(model: Transformer, tensors: dict[str, Tensor], directory: Path) -> None:
    """Copy A and B of an adapter that was read from `directory` into a model that has updates on the same layers.

    Raises:
        UserError: the layers or the shapes differ.
    """
    parameters = adapter_parameters(model)
    wrong = [name for name in tensors if name not in parameters or tensors[name].shape != parameters[name].shape]
    wrong += [name for name in parameters if name not in tensors]
    if wrong:
        raise UserError(
            f"{directory / ADAPTER_WEIGHTS}: tensor {wrong[0]!r} is missing, unknown or of another shape than here"
        )
    with torch.no_grad():
        for name, tensor in tensors.items():
            parameters[name].copy_(tensor)
