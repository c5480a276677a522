"""Hugging Face model directories: config.json and model.safetensors, read and written.

ModelConfig <-> config.json; Transformer <-> model.safetensors (fp32, the field's names); tokenizer files beside them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from babyllm.errors import UserError
from babyllm.files import write_json
from babyllm.model.config import ModelConfig, RopeScaling
from babyllm.model.linear import FrozenLinear
from babyllm.model.transformer import Transformer
from babyllm.tokenizer import Tokenizer

WEIGHTS = "model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
_PREFIX = "model."
_OUTPUT = "lm_head.weight"


def config_to_json(config: ModelConfig, tokenizer: Tokenizer | None) -> dict[str, Any]:
    """The content of `config.json`.

    `bos_token_id` is the <eos>: it stands between documents in training, so it is what begins a text.
    """
    eos = tokenizer.eos_id if tokenizer else None
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "intermediate_size": config.ff_width,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "max_position_embeddings": config.max_seq_len,
        "rope_theta": config.rope_theta,
        "rope_scaling": _scaling_to_json(config),
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tie_embeddings,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "torch_dtype": "float32",
        "bos_token_id": eos,
        "eos_token_id": eos,
        "pad_token_id": tokenizer.pad_id if tokenizer else None,
    }


def _scaling_to_json(config: ModelConfig) -> dict[str, Any] | None:
    scaling = config.rope_scaling
    if scaling is None:
        return None
    original = scaling.original_max_seq_len or config.max_seq_len
    out: dict[str, Any] = {"rope_type": scaling.type, "factor": scaling.factor}
    if scaling.type in ("llama3", "yarn"):
        out["original_max_position_embeddings"] = original
    if scaling.type == "llama3":
        out |= {"low_freq_factor": scaling.low_freq_factor, "high_freq_factor": scaling.high_freq_factor}
    if scaling.type == "yarn":
        out |= {"beta_fast": scaling.beta_fast, "beta_slow": scaling.beta_slow}
        if scaling.attention_factor is not None:
            out["attention_factor"] = scaling.attention_factor
    return out


def config_from_json(raw: dict[str, Any], name: str = "config.json") -> ModelConfig:
    """The shape a `config.json` describes.

    Args:
        raw: its content.
        name: of the file, for errors.

    Raises:
        UserError: it is not a Llama, or uses what this model does not have.
    """
    if raw.get("model_type") != "llama":
        raise UserError(f"{name}: model_type {raw.get('model_type')!r} is not supported, only 'llama'")
    for key in ("attention_bias", "mlp_bias"):
        if raw.get(key):
            raise UserError(f"{name}: {key} is not supported")
    if raw.get("hidden_act", "silu") != "silu":
        raise UserError(f"{name}: hidden_act {raw['hidden_act']!r} is not supported, only 'silu'")
    rope = (raw.get("rope_scaling") or {}) | (raw.get("rope_parameters") or {})
    try:
        head_dim = raw["hidden_size"] // raw["num_attention_heads"]
        if raw.get("head_dim") not in (None, head_dim):
            raise UserError(
                f"{name}: head_dim {raw['head_dim']} is not supported, only hidden_size over heads, {head_dim}"
            )
        return ModelConfig(
            vocab_size=raw["vocab_size"],
            n_layers=raw["num_hidden_layers"],
            d_model=raw["hidden_size"],
            n_heads=raw["num_attention_heads"],
            n_kv_heads=raw.get("num_key_value_heads"),
            d_ff=raw["intermediate_size"],
            max_seq_len=raw.get("max_position_embeddings", 2048),
            rope_theta=float(raw.get("rope_theta") or rope.get("rope_theta") or 10000.0),
            rope_scaling=_scaling_from_json(rope, name),
            tie_embeddings=bool(raw.get("tie_word_embeddings", False)),
            norm_eps=raw.get("rms_norm_eps", 1e-6),
        )
    except KeyError as e:
        raise UserError(f"{name}: has no {e}") from e


def _scaling_from_json(raw: dict[str, Any], name: str) -> RopeScaling | None:
    for key, plain in (("mscale", None), ("mscale_all_dim", None), ("truncate", True), ("partial_rotary_factor", 1.0)):
        if raw.get(key, plain) not in (None, plain):
            raise UserError(f"{name}: rope {key} {raw[key]} is not supported")
    kind = raw.get("rope_type", raw.get("type", "default"))
    if kind == "default":
        return None
    if kind not in ("linear", "dynamic", "llama3", "yarn"):
        raise UserError(f"{name}: rope scaling {kind!r} is not supported, only linear, dynamic, llama3 and yarn")
    names = ("low_freq_factor", "high_freq_factor", "beta_fast", "beta_slow", "attention_factor")
    extra = {key: raw[key] for key in names if raw.get(key) is not None}
    original = raw.get("original_max_position_embeddings") if kind in ("llama3", "yarn") else None
    return RopeScaling(kind, raw["factor"], original, **extra)


def save_model(
    directory: Path,
    model: Transformer,
    tokenizer: Tokenizer | None,
    *,
    chat_template: str | None = None,
    end_ids: Sequence[int] = (),
) -> None:
    """Write a whole Hugging Face directory: what `save_description` writes, and model.safetensors.

    Weights are written in float32; a tied output layer is written once, as the embedding.

    Args:
        directory: is there.
        model: without an adapter.
        tokenizer: its files are written too.
        chat_template: a Jinja template, stored with the tokenizer.
        end_ids: tokens that end an answer.

    Raises:
        UserError: it has weights that are held in fewer bits, or updates beside them.
    """
    if any(isinstance(layer, FrozenLinear) for layer in model.modules()):
        raise UserError("the model is adapted or held in fewer bits; babyllm.merge_lora makes it one that can be saved")
    save_description(directory, model, tokenizer, chat_template=chat_template, end_ids=end_ids)
    save_tensors(weights_to_hf(model.state_dict(), model.config), directory / WEIGHTS)


def save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Write a safetensors file with the rights of other files; the library alone leaves it to its owner."""
    path.touch()
    mode = path.stat().st_mode
    save_file(tensors, path, metadata={"format": "pt"})
    path.chmod(mode)


def save_description(
    directory: Path,
    model: Transformer,
    tokenizer: Tokenizer | None,
    *,
    chat_template: str | None = None,
    end_ids: Sequence[int] = (),
) -> None:
    """Write config.json, generation_config.json and the tokenizer's files: all of `save_model` but the weights.

    Generation ends at the <eos> and at each of `end_ids`.
    """
    config = config_to_json(model.config, tokenizer)
    write_json(directory / "config.json", config)
    ids = {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    ends = list(dict.fromkeys(i for i in (ids["eos_token_id"], *end_ids) if i is not None))
    if len(ends) > 1:
        ids["eos_token_id"] = ends
    write_json(directory / "generation_config.json", {**ids, "do_sample": True, "temperature": 0.8, "top_k": 50})
    if tokenizer:
        tokenizer.save(directory, chat_template=chat_template)


def weights_to_hf(state: dict[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """A model's tensors under the names of Hugging Face files, float32, on the CPU."""
    return {
        hf_name(name): tensor.detach().to("cpu", torch.float32).contiguous()
        for name, tensor in state.items()
        if not (config.tie_embeddings and name == _OUTPUT)
    }


def hf_name(name: str) -> str:
    """The name in Hugging Face files of one of the model's parameters."""
    return name if name.startswith("lm_head.") else _PREFIX + name


def read_json(path: Path) -> dict[str, Any]:
    """The object a JSON file holds.

    Raises:
        UserError: there is no such file, or it is not a JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise UserError(f"{path}: cannot be read ({e.strerror})") from e
    except ValueError as e:
        raise UserError(f"{path}: is not JSON ({e})") from e
    if not isinstance(value, dict):
        raise UserError(f"{path}: is not a JSON object")
    return value


def load_model(directory: Path, *, dropout: float = 0.0, activation_checkpointing: bool = False) -> Transformer:
    """The model of a Hugging Face directory, in float32 on the CPU; how it trains is not in the files but given.

    Raises:
        UserError: names the file that is missing or does not fit.
    """
    path = directory / "config.json"
    config = replace(
        config_from_json(read_json(path), str(path)),
        dropout=dropout,
        activation_checkpointing=activation_checkpointing,
    )
    with torch.device("meta"):
        model = Transformer(config)
    model.load_state_dict(load_weights(directory, config), assign=True)
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    if config.tie_embeddings:
        model.lm_head.weight = model.embed_tokens.weight
    model.origin = str(directory)
    return model


def weight_files(directory: Path) -> list[Path]:
    """The files with the weights of a directory: one, or several parts; none if there are none."""
    one = directory / WEIGHTS
    return [one] if one.is_file() else sorted(directory.glob("model-*.safetensors"))


def load_weights(directory: Path, config: ModelConfig) -> dict[str, Tensor]:
    """The tensors of a directory under the model's own names, in float32, from one file or several.

    Raises:
        UserError: a file cannot be read, or tensors are missing, unknown or of another shape.
    """
    files = weight_files(directory)
    if not files and (directory / ADAPTER_CONFIG).is_file():
        raise UserError(
            f"{directory}: holds an adapter, not a whole model; make one with babyllm merge-lora {directory} OUT"
        )
    if not files:
        raise UserError(f"{directory}: holds no {WEIGHTS}")
    state: dict[str, Tensor] = {}
    for file in files:
        try:
            tensors = load_file(file)
        except Exception as e:  # safetensors raises its own type, not exported everywhere
            raise UserError(f"{file}: cannot be read ({e})") from e
        state |= {name.removeprefix(_PREFIX): t.float() for name, t in tensors.items() if "rotary_emb" not in name}
    if config.tie_embeddings:
        state[_OUTPUT] = state.get("embed_tokens.weight", torch.empty(0))
    with torch.device("meta"):
        expected = Transformer(config).state_dict()
    wrong = [n for n in expected if n not in state or state[n].shape != expected[n].shape]
    wrong += [n for n in state if n not in expected]
    if wrong:
        raise UserError(
            f"{files[0]}: tensor {wrong[0]!r} is missing, unknown or of another shape than config.json says"
        )
    return state
