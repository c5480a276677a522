"""Model shapes as plain values: `ModelConfig`, and the parameters and FLOPs of a shape.

options (babyllm.model.options) -> ModelConfig -> Transformer(config) -> config.json (babyllm.interop.huggingface)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from babyllm.config.values import Count, Positive, ShareBelow1, VocabularySize, Width, check
from babyllm.errors import UserError

Checkpointing = bool | Count | Literal["selective"]
RopeType = Literal["linear", "dynamic", "llama3", "yarn"]


@dataclass(frozen=True)
class RopeScaling:
    """Stretching of rotary positions beyond the length a model was trained with.

    Attributes:
        type: "linear" (Chen et al. 2023), "dynamic" (dynamic NTK), "llama3" (Llama 3.1) or "yarn" (Peng et al. 2023).
        factor: new context length over the original one.
        original_max_seq_len: tokens the model was first trained with; None takes `max_seq_len`, the only choice for
            "dynamic".
        low_freq_factor: wavelengths above the original length / this are fully stretched; "llama3" only.
        high_freq_factor: wavelengths below the original length / this are not stretched; "llama3" only.
        beta_fast: rotations over the original length above which a dimension is not stretched; "yarn" only.
        beta_slow: rotations below which a dimension is fully stretched; "yarn" only.
        attention_factor: factor of cos and sin; None takes 0.1 ln(factor) + 1; "yarn" only.
    """

    type: RopeType
    factor: float
    original_max_seq_len: int | None = None
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None


class Shape:
    """The descriptions of the fields that `ModelConfig` and `ModelOptions` share.

    Attributes:
        vocab_size: rows of the embedding.
        n_layers: transformer blocks.
        d_model: width of the residual stream.
        n_heads: query heads; divides d_model unless head_dim is given.
        n_kv_heads: key and value heads; divides n_heads.
        head_dim: width of a head.
        d_ff: width of the SwiGLU.
        max_seq_len: longest sequence in tokens.
        rope_theta: base of the rotary frequencies.
        rope_scaling: stretching of the rotary frequencies.
        tie_embeddings: whether the output layer shares the embedding's weights.
        dropout: dropout probability, on the embedding's and on every block's output into the residual stream.
        norm_eps: term added to the mean square in RMSNorm.
        qk_norm: whether each query and key is normed before its rotation, as in Qwen3.
        qkv_bias: whether the projections of queries, keys and values have a bias, as in Qwen2.
        activation_checkpointing: what training computes again in the backward pass to save memory: selective the
            outputs of norms and SwiGLU, true each block, a number k the first of every k blocks, false nothing.
    """


@dataclass(frozen=True)
class ModelConfig(Shape):
    """The shape of a Llama-style transformer.

    Attributes:
        n_kv_heads: key and value heads; divides n_heads. None takes n_heads.
        head_dim: width of a head, where it is not d_model / n_heads; else None.
        d_ff: width of the SwiGLU; None takes 8/3 d_model rounded up to a multiple of 32.
        rope_scaling: stretching of the rotary frequencies, or None.
    """

    vocab_size: VocabularySize
    n_layers: Count
    d_model: Width
    n_heads: Width
    n_kv_heads: Width | None = None
    d_ff: Width | None = None
    max_seq_len: Width = 1024
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling | None = None
    tie_embeddings: bool = False
    dropout: ShareBelow1 = 0.0
    norm_eps: Positive = 1e-5
    activation_checkpointing: Checkpointing = False
    head_dim: Width | None = None
    qk_norm: bool = False
    qkv_bias: bool = False

    def __post_init__(self) -> None:
        """Fill in the fields that are None and refuse impossible shapes.

        Raises:
            UserError: a field is impossible; the message names it.
        """
        if self.n_kv_heads is None:
            object.__setattr__(self, "n_kv_heads", self.n_heads)
        check(self, "model.")  # the given values, before others are computed from them
        if self.d_ff is None:
            object.__setattr__(self, "d_ff", -(-(8 * self.d_model) // (3 * 32)) * 32)
        if self.head_dim and self.head_dim % 2:
            raise UserError(f"model.head_dim={self.head_dim}: must be even, because rotary positions turn pairs")
        if self.head_dim is None and (self.d_model % self.n_heads or self.head_width % 2):
            raise UserError(
                f"model.n_heads={self.n_heads}: must divide model.d_model={self.d_model} into heads of an even width; "
                "or give model.head_dim"
            )
        if self.head_dim and self.head_dim * self.n_heads == self.d_model:
            object.__setattr__(self, "head_dim", None)  # so that equal shapes are equal values
        if self.n_heads % self.kv_heads:
            raise UserError(f"model.n_kv_heads={self.kv_heads}: must divide model.n_heads={self.n_heads}")
        if self.qk_norm and self.qkv_bias:
            raise UserError(
                "model.qk_norm: cannot be combined with model.qkv_bias; no other program reads such a model"
            )
        self._check_scaling()

    def _check_scaling(self) -> None:
        """Refuse an impossible stretching of the rotary frequencies."""
        scaling = self.rope_scaling
        if scaling and scaling.type == "llama3" and scaling.high_freq_factor <= scaling.low_freq_factor:
            raise UserError("rope scaling llama3: high_freq_factor must be above low_freq_factor")
        if scaling and scaling.type == "dynamic" and self.head_width < 4:
            raise UserError(f"rope scaling dynamic: needs heads wider than {self.head_width}")
        if scaling and scaling.type == "dynamic" and scaling.original_max_seq_len not in (None, self.max_seq_len):
            raise UserError(
                f"model.rope_original_seq_len={scaling.original_max_seq_len}: dynamic scaling begins after "
                f"model.max_seq_len={self.max_seq_len}; leave the option out"
            )

    @property
    def head_width(self) -> int:
        """Width of one attention head, as a number."""
        return self.head_dim or self.d_model // self.n_heads

    @property
    def kv_heads(self) -> int:
        """`n_kv_heads` as a number."""
        return self.n_kv_heads or self.n_heads

    @property
    def recomputed_every(self) -> int:
        """The first of every so many blocks is computed again in the backward pass; 0 for none."""
        kind = self.activation_checkpointing
        return 0 if kind == "selective" else int(kind)

    @property
    def ff_width(self) -> int:
        """`d_ff` as a number."""
        return self.d_ff or 0


def require_context(config: ModelConfig, seq_len: int, where: object) -> None:
    """Check that a stored model can read rows of `seq_len` tokens.

    Args:
        config: shape of the model.
        seq_len: tokens of a row.
        where: directory of the model, for the message.

    Raises:
        UserError: the rows are longer than its context, and its rotary positions are not dynamic.
    """
    is_dynamic = config.rope_scaling is not None and config.rope_scaling.type == "dynamic"
    if seq_len > config.max_seq_len and not is_dynamic:
        raise UserError(
            f"data.seq_len={seq_len}: {where} was made for at most {config.max_seq_len} tokens; stretch its context "
            "with model.rope_scaling and model.rope_factor, or set model.max_seq_len"
        )


def parameter_counts(config: ModelConfig) -> dict[str, int]:
    """Numbers of parameters by part: embedding, attention, mlp, norms, output; a tied output layer counts as 0."""
    d, layers, width = config.d_model, config.n_layers, config.head_width
    biases = (config.n_heads + 2 * config.kv_heads) * width * config.qkv_bias
    embedding = config.vocab_size * d
    return {
        "embedding": embedding,
        "attention": layers * (2 * d * (config.n_heads + config.kv_heads) * width + biases),
        "mlp": layers * 3 * d * config.ff_width,
        "norms": (2 * layers + 1) * d + 2 * layers * width * config.qk_norm,
        "output": 0 if config.tie_embeddings else embedding,
    }


def flops_per_token(config: ModelConfig, seq_len: int) -> float:
    """Floating-point operations to train on one token: forward and backward, without recomputation.

    6 per weight of a matrix product (Kaplan et al. 2020, section 2.1; the output layer counts, the embedding's look-up
    does not), and 6 * n_layers * n_heads * head_dim * seq_len for causal attention, which computes half of the square.
    """
    counts = parameter_counts(replace(config, qkv_bias=False))
    matmul = counts["attention"] + counts["mlp"] + config.vocab_size * config.d_model
    return 6.0 * matmul + 6.0 * config.n_layers * config.n_heads * config.head_width * seq_len
