"""Model shapes and tensor names in GGUF files, read and written.

ModelConfig <-> keys such as llama.block_count, of the architectures llama (also Mistral), qwen2 and qwen3
layers.0.self_attn.q_proj.weight <-> blk.0.attn_q.weight

The architecture llama rotates neighbours, (2i, 2i + 1), so the rows of its q and k stand in another order than here,
where the pairs are (i, i + D/2). Llama 3's stretching of positions is a tensor of divisors, not a key.
"""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any

import numpy as np

from babyllm.config.json_fields import Fields
from babyllm.config.values import MAX_WIDTH
from babyllm.errors import UserError
from babyllm.interop.gguf.blocks import Floats, Kind
from babyllm.interop.gguf.container import Header, read_tensor
from babyllm.interop.hf_config import OTHERS, family_of
from babyllm.model.config import ModelConfig, RopeScaling
from babyllm.model.rope import inverse_frequencies

ARCHITECTURES = ("llama", "qwen2", "qwen3")
ROPE_FACTORS = "rope_freqs.weight"
_LLAMA3 = "babyllm.rope.llama3"  # factor, low and high frequency factor, original length: only their effect is standard
_OTHER_NAMES = {
    **{"deepseek2": "deepseek_v2", "gemma3": "gemma3_text", "gptneox": "gpt_neox", "phi2": "phi"},
    **{"qwen2moe": "qwen2_moe", "qwen3moe": "qwen3_moe"},
}
_FILE_TYPES: dict[Kind, int] = {"F32": 0, "F16": 1, "Q8_0": 7}
_NAMES = {"embed_tokens": "token_embd", "norm": "output_norm", "lm_head": "output"}
_LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_YARN_BETAS = (32.0, 1.0)
_MOST_LAYERS = 10_000
_LAYER = re.compile(r"layers\.(\d+)\.(.+)")


def gguf_name(parameter: str) -> str:
    """The name in GGUF of a parameter of a `Transformer`."""
    module, _, kind = parameter.rpartition(".")
    layer = _LAYER.fullmatch(module)
    return f"blk.{layer[1]}.{_LAYER_NAMES[layer[2]]}.{kind}" if layer else f"{_NAMES[module]}.{kind}"


def to_gguf_rows(values: Floats, parameter: str, config: ModelConfig) -> Floats:
    """A parameter with its rows in the order of GGUF: other than here only for q and k of the architecture llama."""
    return _reordered(values, parameter, config, (2, config.head_width // 2))


def from_gguf_rows(values: Floats, parameter: str, config: ModelConfig) -> Floats:
    """The inverse of `to_gguf_rows`."""
    return _reordered(values, parameter, config, (config.head_width // 2, 2))


def _reordered(values: Floats, parameter: str, config: ModelConfig, halves: tuple[int, int]) -> Floats:
    if family_of(config) != "llama" or not parameter.endswith(("q_proj.weight", "k_proj.weight")):
        return values
    return interchanged(values, halves)


def interchanged(values: Floats, halves: tuple[int, int]) -> Floats:
    """Rows of q or k in the order of the other layout of rotary pairs.

    Args:
        values: (H * D, d_model) values.
        halves: (2, D / 2) from pairs (i, i + D/2) to pairs (2i, 2i + 1), (D / 2, 2) the other way round.
    """
    rows: Floats = values.reshape(-1, *halves, values.shape[-1]).swapaxes(1, 2).reshape(values.shape)
    return rows


def model_metadata(config: ModelConfig, name: str, kind: Kind) -> dict[str, Any]:
    """The keys that describe a shape, in the order in which llama.cpp writes them.

    Args:
        config: shape of the model.
        name: name of the model that other programs show.
        kind: format of the matrices.

    Raises:
        UserError: the positions are stretched in a way that the format cannot express.
    """
    family, width = family_of(config), config.head_width
    keys = {
        "vocab_size": config.vocab_size,
        "context_length": config.max_seq_len,
        "embedding_length": config.d_model,
        "block_count": config.n_layers,
        "feed_forward_length": config.ff_width,
        "attention.head_count": config.n_heads,
        "attention.head_count_kv": config.kv_heads,
        "attention.key_length": width,
        "attention.value_length": width,
        "attention.layer_norm_rms_epsilon": float(config.norm_eps),
        "rope.dimension_count": width,
        "rope.freq_base": float(config.rope_theta),
        **_scaling_keys(config),
    }
    return {
        "general.architecture": family,
        "general.type": "model",
        "general.name": name,
        "general.file_type": _FILE_TYPES[kind],
        "general.quantization_version": 2,
        **{f"{family}.{key}": value for key, value in keys.items()},
        **_llama3_key(config),
    }


def _scaling_keys(config: ModelConfig) -> dict[str, Any]:
    scaling = config.rope_scaling
    if scaling is None or scaling.type == "llama3":
        return {}
    if scaling.type == "dynamic":
        raise UserError("rope scaling dynamic cannot be written as GGUF; use yarn, or the Hugging Face directory")
    keys: dict[str, Any] = {"type": scaling.type, "factor": float(scaling.factor)}
    if scaling.type == "yarn":
        keys |= {"original_context_length": scaling.original_max_seq_len or config.max_seq_len}
        if (scaling.beta_fast, scaling.beta_slow) != _YARN_BETAS:  # llama.cpp does not read the keys for them
            raise UserError("rope scaling yarn can be written as GGUF with beta_fast 32 and beta_slow 1 alone")
        if scaling.attention_factor is not None:
            keys["attn_factor"] = scaling.attention_factor / _usual_attention_factor(scaling.factor)
    return {f"rope.scaling.{key}": value for key, value in keys.items()}


def _usual_attention_factor(factor: float) -> float:
    """YaRN's factor of cos and sin, by which llama.cpp multiplies the key `attn_factor`."""
    return 0.1 * math.log(factor) + 1.0 if factor > 1 else 1.0


def _llama3_key(config: ModelConfig) -> dict[str, Any]:
    scaling = config.rope_scaling
    if scaling is None or scaling.type != "llama3":
        return {}
    if family_of(config) != "llama":
        raise UserError("rope scaling llama3 can be written as GGUF for the architecture llama alone; use yarn")
    original = scaling.original_max_seq_len or config.max_seq_len
    values = (scaling.factor, scaling.low_freq_factor, scaling.high_freq_factor, original)
    return {_LLAMA3: np.array(values, np.float64)}


def rope_factors(config: ModelConfig) -> Floats | None:
    """(D/2,) divisors of the rotary frequencies that stand for Llama 3's stretching; None for other shapes."""
    if config.rope_scaling is None or config.rope_scaling.type != "llama3":
        return None
    plain, _ = inverse_frequencies(replace(config, rope_scaling=None), config.max_seq_len)
    stretched, _ = inverse_frequencies(config, config.max_seq_len)
    factors: Floats = (plain.double() / stretched.double()).float().numpy()
    return factors


def read_config(header: Header) -> ModelConfig:
    """The shape of the model in a file.

    Raises:
        UserError: the architecture is not supported or uses an unsupported feature, or a value has a wrong type or
            range.
    """
    where = str(header.path)
    fields = Fields(header.metadata, where)
    family = _architecture(fields)
    embedding = header.tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise UserError(f"{where}: lacks the tensor 'token_embd.weight'; download it again")
    key = f"{family}.{{}}".format
    n_heads, d_model = (fields.integer(key(k), high=MAX_WIDTH) for k in ("attention.head_count", "embedding_length"))
    width = fields.integer(key("attention.key_length"), max(d_model // n_heads, 1), high=MAX_WIDTH)
    max_seq_len = fields.integer(key("context_length"), high=MAX_WIDTH)
    _refuse_features(fields, family, width, max_seq_len)
    try:
        config = ModelConfig(
            vocab_size=embedding.shape[0],
            n_layers=fields.integer(key("block_count"), high=_MOST_LAYERS),
            d_model=d_model,
            n_heads=n_heads,
            n_kv_heads=fields.integer(key("attention.head_count_kv"), n_heads, high=MAX_WIDTH),
            head_dim=width,
            d_ff=fields.integer(key("feed_forward_length"), high=MAX_WIDTH),
            max_seq_len=max_seq_len,
            rope_theta=fields.number(key("rope.freq_base"), 10000.0, low=1.5),
            rope_scaling=_read_scaling(fields, family),
            tie_embeddings="output.weight" not in header.tensors,
            norm_eps=fields.number(key("attention.layer_norm_rms_epsilon"), low=1e-12, high=1.0),
            qk_norm=family == "qwen3",
            qkv_bias=family == "qwen2",
        )
        return _with_llama3(config, header)
    except UserError as e:
        raise e if str(e).startswith(where) else UserError(f"{where}: {e}") from None


def _architecture(fields: Fields) -> str:
    family: str = fields.text("general.architecture")
    if family not in ARCHITECTURES:
        reason = OTHERS.get(_OTHER_NAMES.get(family, family))
        raise UserError(
            f"{fields.where}: the architecture {family[:40]!r} is not supported{f': {reason}' if reason else ''}; "
            f"{', '.join(ARCHITECTURES)} are read"
        )
    return family


def _refuse_features(fields: Fields, family: str, width: int, max_seq_len: int) -> None:
    """Refuse what some files of the architectures have and the models here have not."""
    experts = fields.integer(f"{family}.expert_count", 0, low=0)
    if experts:
        raise UserError(f"{fields.where}: its layers choose among {experts} experts (MoE), which is not supported")
    for name in ("attention.value_length", "rope.dimension_count"):
        if fields.integer(f"{family}.{name}", width) != width:
            raise UserError(f"{fields.where}: {family}.{name} is not the width of a head, {width}; not supported")
    window = fields.integer(f"{family}.attention.sliding_window", 0, low=0)
    if 0 < window < max_seq_len:
        raise UserError(f"{fields.where}: a sliding window of {window} tokens is not supported; take another model")


def _read_scaling(fields: Fields, family: str) -> RopeScaling | None:
    key = f"{family}.rope.scaling.{{}}".format
    old = fields.number(f"{family}.rope.scale_linear", 0.0)
    factor = fields.number(key("factor"), old, high=1e6) or 1.0
    kind = fields.text(key("type"), "linear")
    if kind == "none" or (kind == "linear" and factor == 1.0):
        return None
    if kind == "linear":
        return RopeScaling("linear", factor)
    if kind != "yarn" or fields.number(key("yarn_ext_factor"), 1.0, low=-1.0) not in (1.0, -1.0):
        raise UserError(f"{fields.where}: rope scaling {kind[:40]!r} is not supported, only none, linear and yarn")
    attention = fields.number(key("attn_factor"), None, low=1e-6, high=1e6)
    if attention is not None:
        attention *= _usual_attention_factor(factor)
    return RopeScaling(
        "yarn",
        factor,
        fields.integer(key("original_context_length"), None, high=MAX_WIDTH),
        beta_fast=fields.number(key("yarn_beta_fast"), _YARN_BETAS[0], low=1e-6, high=1e6),
        beta_slow=fields.number(key("yarn_beta_slow"), _YARN_BETAS[1], low=1e-6, high=1e6),
        attention_factor=attention,
    )


def _with_llama3(config: ModelConfig, header: Header) -> ModelConfig:
    """The shape with Llama 3's stretching, if the file has its divisors."""
    if ROPE_FACTORS not in header.tensors:
        return config
    wanted = read_tensor(header, ROPE_FACTORS).reshape(-1)
    if config.rope_scaling is not None or wanted.shape != (config.head_width // 2,) or wanted.min() <= 0:
        raise UserError(f"{header.path}: {ROPE_FACTORS} does not fit the other keys; download it again")
    for scaling in _candidates(wanted, config, header.metadata.get(_LLAMA3)):
        found = replace(config, rope_scaling=scaling)
        factors = rope_factors(found)
        if factors is not None and np.allclose(factors, wanted, rtol=1e-5):
            return found
    raise UserError(f"{header.path}: the factors in {ROPE_FACTORS} are not those of Llama 3, so they are not supported")


def _candidates(wanted: Floats, config: ModelConfig, stated: Any) -> list[RopeScaling]:
    """Parameters that may have made the divisors: those stated, those of Llama 3.1 and 3.2, those that fit best."""
    found = []
    if isinstance(stated, np.ndarray) and stated.shape == (4,) and (stated >= 1e-3).all() and (stated < 1e9).all():
        found.append((float(stated[0]), int(stated[3]), float(stated[1]), float(stated[2])))
    factor = float(wanted.max())
    found.append((factor, 8192, 1.0, 4.0))
    plain, _ = inverse_frequencies(config, config.max_seq_len)
    blended = (wanted > 1) & (wanted < factor)
    if blended.sum() >= 2:
        # kept = (original f / 2 pi - low) / (high - low) is a line over f; only ratios are determined, so low is 1.
        kept = (1 / wanted[blended].astype(np.float64) - 1 / factor) / (1 - 1 / factor)
        turns = plain.double().numpy()[blended] / (2 * math.pi)
        slope = np.sum((turns - turns.mean()) * (kept - kept.mean())) / np.sum((turns - turns.mean()) ** 2)
        start = kept.mean() - slope * turns.mean()
        if slope > 0 > start:
            found.append((factor, max(round(-slope / start), 1), 1.0, 1 - 1 / float(start)))
    return [
        RopeScaling("llama3", factor, original, low_freq_factor=low, high_freq_factor=high)
        for factor, original, low, high in found
        if high > low
    ]
