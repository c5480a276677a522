"""The config.json of Hugging Face directories, read and written.

ModelConfig <-> config.json of a Llama, Qwen2 (biases of queries, keys and values) or Qwen3 (norms of queries and keys);
Mistral is read and becomes a Llama

Other models are refused with the reason. transformers has its own defaults for keys that a file leaves out.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from babyllm.config.json_fields import Fields
from babyllm.config.values import MAX_WIDTH
from babyllm.errors import UserError
from babyllm.model.config import ModelConfig, RopeScaling
from babyllm.tokenizer import Tokenizer


class _Family(NamedTuple):
    """What one `model_type` means, and its defaults in transformers.

    Attributes:
        name: beginning of the names of its architectures.
        qk_norm: whether queries and keys are normed.
        qkv_bias: whether the projections of queries, keys and values have biases.
        n_kv_heads: key heads of a file that does not state them; None for as many as query heads.
        head_dim: head width of a file that does not state it; None for hidden_size over heads.
        max_seq_len: context of a file that does not state it.
    """

    name: str
    qk_norm: bool = False
    qkv_bias: bool = False
    n_kv_heads: int | None = None
    head_dim: int | None = None
    max_seq_len: int = 2048


_FAMILIES = {
    "llama": _Family("Llama"),
    "mistral": _Family("Mistral", n_kv_heads=8, max_seq_len=131_072),
    "qwen2": _Family("Qwen2", qkv_bias=True, n_kv_heads=32, max_seq_len=32_768),
    "qwen3": _Family("Qwen3", qk_norm=True, n_kv_heads=32, head_dim=128, max_seq_len=32_768),
}

_EXPERTS = "its layers choose among experts (MoE)"
_FUSED = "its files hold queries, keys and values as one tensor"
OTHERS = {
    "baichuan": f"{_FUSED}, and its 13B model has ALiBi positions",
    "bloom": "it has ALiBi positions and LayerNorm",
    "chatglm": f"{_FUSED}, and its rotary positions turn half of each head",
    "deepseek_v2": _EXPERTS,
    "deepseek_v3": _EXPERTS,
    "falcon": "it has LayerNorm and parallel layers",
    "gemma": "its norms, embeddings and activation differ",
    "gemma2": "its norms, embeddings and activation differ",
    "gemma3_text": "its norms, embeddings and activation differ",
    "gpt2": "it has learned positions and LayerNorm",
    "gpt_neox": "it has LayerNorm and parallel layers",
    "internlm": "all its projections have biases",
    "internlm2": _FUSED,
    "internlm3": "all its projections have biases",
    "minicpm": "its embeddings, residuals and outputs have factors",
    "mixtral": _EXPERTS,
    "opt": "it has learned positions and LayerNorm",
    "phi": "it has LayerNorm and parallel layers",
    "phi3": _FUSED,
    "qwen": f"{_FUSED}; Qwen2 and Qwen3 are read",
    "qwen2_moe": _EXPERTS,
    "qwen3_moe": _EXPERTS,
    "qwen3_next": _EXPERTS,
}
"""Why models of other types cannot be read, by `model_type`."""


def family_of(config: ModelConfig) -> str:
    """The `model_type` that a shape is written as: llama, qwen2 or qwen3."""
    return "qwen3" if config.qk_norm else "qwen2" if config.qkv_bias else "llama"


def classifier_of(config: ModelConfig) -> str:
    """The name of transformers' architecture for a reward model or classifier of a shape."""
    return f"{_FAMILIES[family_of(config)].name}ForSequenceClassification"


def is_classifier(raw: dict[str, Any]) -> bool:
    """Whether the content of a config.json describes a reward model or classifier."""
    names = raw.get("architectures")
    return isinstance(names, list) and any(str(name).endswith("ForSequenceClassification") for name in names)


def config_to_json(config: ModelConfig, tokenizer: Tokenizer | None) -> dict[str, Any]:
    """The content of `config.json`.

    `bos_token_id` is the id that begins texts: of vocabularies trained here it is that of <eos>, which separates
    documents in training.
    """
    eos, family = tokenizer.eos_id if tokenizer else None, family_of(config)
    return {
        "architectures": [f"{_FAMILIES[family].name}ForCausalLM"],
        "model_type": family,
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "intermediate_size": config.ff_width,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_width,
        "max_position_embeddings": config.max_seq_len,
        "rope_theta": config.rope_theta,
        "rope_scaling": _scaling_to_json(config),
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tie_embeddings,
        "hidden_act": "silu",
        **({"attention_bias": False, "mlp_bias": False} if family == "llama" else {"use_sliding_window": False}),
        "torch_dtype": "float32",
        "bos_token_id": tokenizer.begin_id if tokenizer else None,
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
    """The model configuration that a `config.json` describes.

    Args:
        raw: content of the file.
        name: name of the file, for messages.

    Raises:
        UserError: the file does not describe a model of a family that is read, uses an unsupported feature, or has a
            value of a wrong type or range.
    """
    fields = Fields(raw, name)
    family = _family(fields)
    _refuse_features(fields)
    n_heads, d_model = (fields.integer(key, high=MAX_WIDTH) for key in ("num_attention_heads", "hidden_size"))
    # Newer files put all settings of RoPE into rope_parameters.
    rope = fields.object("rope_parameters" if fields.has("rope_parameters") else "rope_scaling")
    max_seq_len = fields.integer("max_position_embeddings", family.max_seq_len, high=MAX_WIDTH)
    _refuse_window(fields, max_seq_len)
    try:
        return ModelConfig(
            vocab_size=fields.integer("vocab_size"),
            n_layers=fields.integer("num_hidden_layers"),
            d_model=d_model,
            n_heads=n_heads,
            n_kv_heads=fields.integer("num_key_value_heads", family.n_kv_heads, high=MAX_WIDTH),
            head_dim=fields.integer("head_dim", family.head_dim, high=MAX_WIDTH),
            d_ff=fields.integer("intermediate_size", high=MAX_WIDTH),
            max_seq_len=max_seq_len,
            rope_theta=fields.number("rope_theta", rope.number("rope_theta", 10000.0, low=1.5), low=1.5),
            rope_scaling=_scaling_from_json(rope),
            tie_embeddings=fields.boolean("tie_word_embeddings", False),
            norm_eps=fields.number("rms_norm_eps", 1e-6, low=1e-12, high=1.0),
            qk_norm=family.qk_norm,
            qkv_bias=family.qkv_bias,
        )
    except UserError as e:
        raise e if str(e).startswith(name) else UserError(f"{name}: {e}") from None


def _family(fields: Fields) -> _Family:
    kind = fields.text("model_type")
    if kind not in _FAMILIES:
        reason = f": {OTHERS[kind]}" if kind in OTHERS else ""
        raise UserError(
            f"{fields.where}: model_type {kind[:40]!r} is not supported{reason}; {', '.join(_FAMILIES)} are read"
        )
    return _FAMILIES[kind]


def _refuse_features(fields: Fields) -> None:
    """Refuse what some models of the families have and this one has not."""
    for key in ("attention_bias", "mlp_bias", "use_sliding_window"):
        if fields.boolean(key, False):
            raise UserError(f"{fields.where}: {key} is not supported")
    fields.only("hidden_act", ("silu", None), ", only 'silu'")
    if fields.has("quantization_config"):
        raise UserError(
            f"{fields.where}: quantization_config: quantised weights are not read; take the model's files in bf16 or "
            "fp16, and choose lora.base=nf4 or int8 here"
        )


def _refuse_window(fields: Fields, max_seq_len: int) -> None:
    """Refuse sliding windows; those of Qwen count only with use_sliding_window."""
    window = fields.integer("sliding_window", max_seq_len)
    if window < max_seq_len and not fields.has("use_sliding_window"):
        raise UserError(
            f"{fields.where}: sliding_window {window} is not supported; set it to null and max_position_embeddings to "
            f"{window}, within which the model is the same"
        )


def _scaling_from_json(rope: Fields) -> RopeScaling | None:
    for key, plain in (("mscale", None), ("mscale_all_dim", None), ("truncate", True), ("partial_rotary_factor", 1.0)):
        rope.only(key, (None, plain))
    kind = rope.text("rope_type", rope.text("type", "default"))
    if kind == "default":
        return None
    if kind not in ("linear", "dynamic", "llama3", "yarn"):
        raise UserError(
            f"{rope.where}: rope scaling {kind[:40]!r} is not supported, only linear, dynamic, llama3 and yarn"
        )
    names = ("low_freq_factor", "high_freq_factor", "beta_fast", "beta_slow", "attention_factor")
    extra = {key: rope.number(key, low=1e-6, high=1e6) for key in names if rope.has(key)}
    has_original = kind in ("llama3", "yarn") and rope.has("original_max_position_embeddings")
    original = rope.integer("original_max_position_embeddings", high=MAX_WIDTH) if has_original else None
    return RopeScaling(kind, rope.number("factor", low=1e-6, high=1e6), original, **extra)
