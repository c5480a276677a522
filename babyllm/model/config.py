"""Model shapes as plain values: `ModelConfig`, the presets, and what a shape costs.

ModelConfig -> Transformer(config) -> config.json of a Hugging Face directory (see babyllm.interop.huggingface).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Annotated, Literal

from babyllm.config.values import Count, Limits, Positive, ShareBelow1, VocabularySize, Width, check
from babyllm.errors import UserError

RopeType = Literal["linear", "dynamic", "llama3", "yarn"]


@dataclass(frozen=True)
class RopeScaling:
    """How rotary positions are stretched beyond the length a model was trained with.

    Attributes:
        type: "linear" (Chen et al. 2023), "dynamic" (dynamic NTK), "llama3" (Llama 3.1) or "yarn" (Peng et al. 2023).
        factor: new context length over the original one.
        original_max_seq_len: tokens the model was first trained with; None takes `max_seq_len`, the only choice for
            "dynamic".
        low_freq_factor: "llama3" only: wavelengths above original / this are fully stretched.
        high_freq_factor: "llama3" only: wavelengths below original / this are left alone.
        beta_fast: "yarn" only: rotations over the original length above which a dimension is left alone.
        beta_slow: "yarn" only: rotations below which a dimension is fully stretched.
        attention_factor: "yarn" only: multiplies cos and sin; None takes 0.1 ln(factor) + 1.
    """

    type: RopeType
    factor: float
    original_max_seq_len: int | None = None
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a Llama-style transformer.

    Attributes:
        vocab_size: rows of the embedding.
        n_layers: transformer blocks.
        d_model: width of the residual stream.
        n_heads: query heads; divides `d_model`.
        n_kv_heads: key and value heads; divides `n_heads`. None takes `n_heads`.
        d_ff: width of the SwiGLU; None takes 8/3 `d_model` rounded up to a multiple of 32.
        max_seq_len: longest sequence in tokens.
        rope_theta: base of the rotary frequencies.
        rope_scaling: stretching of the rotary frequencies, or None.
        tie_embeddings: whether the output layer is the embedding.
        dropout: probability, on the embedding's and on every block's output into the residual stream.
        norm_eps: added to the mean square in RMSNorm.
        activation_checkpointing: recompute each block in the backward pass to save memory.
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
    norm_eps: float = 1e-5
    activation_checkpointing: bool = False

    def __post_init__(self) -> None:
        """Fill in what follows from the rest and refuse impossible shapes.

        Raises:
            UserError: names the field that cannot be.
        """
        if self.n_kv_heads is None:
            object.__setattr__(self, "n_kv_heads", self.n_heads)
        check(self, "model.")  # what was given, and nothing that follows from it
        if self.d_ff is None:
            object.__setattr__(self, "d_ff", -(-(8 * self.d_model) // (3 * 32)) * 32)
        if self.d_model % self.n_heads or self.head_dim % 2:
            raise UserError(
                f"model.n_heads={self.n_heads}: must divide model.d_model={self.d_model} into heads of an even width"
            )
        if self.n_heads % self.kv_heads:
            raise UserError(f"model.n_kv_heads={self.kv_heads}: must divide model.n_heads={self.n_heads}")
        self._check_scaling()

    def _check_scaling(self) -> None:
        """Refuse a stretching of the rotary frequencies that cannot be."""
        scaling = self.rope_scaling
        if scaling and scaling.type == "llama3" and scaling.high_freq_factor <= scaling.low_freq_factor:
            raise UserError("rope scaling llama3: high_freq_factor must be above low_freq_factor")
        if scaling and scaling.type == "dynamic" and self.head_dim < 4:
            raise UserError(f"rope scaling dynamic: needs heads wider than {self.head_dim}")
        if scaling and scaling.type == "dynamic" and scaling.original_max_seq_len not in (None, self.max_seq_len):
            raise UserError(
                f"model.rope_original_seq_len={scaling.original_max_seq_len}: dynamic scaling begins behind "
                f"model.max_seq_len={self.max_seq_len}; leave the option out"
            )

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.d_model // self.n_heads

    @property
    def kv_heads(self) -> int:
        """`n_kv_heads` as a number."""
        return self.n_kv_heads or self.n_heads

    @property
    def ff_width(self) -> int:
        """`d_ff` as a number."""
        return self.d_ff or 0


PRESETS: dict[str, ModelConfig] = {
    "nano": ModelConfig(
        vocab_size=4096, n_layers=4, d_model=128, n_heads=4, n_kv_heads=2, max_seq_len=256, tie_embeddings=True
    ),
    "tiny": ModelConfig(
        vocab_size=8192, n_layers=6, d_model=256, n_heads=4, n_kv_heads=2, max_seq_len=512, tie_embeddings=True
    ),
    "92m": ModelConfig(vocab_size=64794, n_layers=8, d_model=512, n_heads=8, d_ff=1376),
    "218m": ModelConfig(vocab_size=64794, n_layers=12, d_model=1024, n_heads=8, tie_embeddings=True),
    "160m": ModelConfig(vocab_size=32006, n_layers=24, d_model=512, n_heads=8, d_ff=2752),
    "1b": ModelConfig(
        vocab_size=32000, n_layers=22, d_model=2048, n_heads=32, n_kv_heads=4, d_ff=5632, max_seq_len=2048
    ),
}

CPU_PRESET, GPU_PRESET = "nano", "tiny"


def parameter_counts(config: ModelConfig) -> dict[str, int]:
    """Parameters by part: embedding, attention, mlp, norms, output; a tied output layer counts as 0."""
    d, layers = config.d_model, config.n_layers
    kv_width = config.kv_heads * config.head_dim
    embedding = config.vocab_size * d
    return {
        "embedding": embedding,
        "attention": layers * (2 * d * d + 2 * d * kv_width),
        "mlp": layers * 3 * d * config.ff_width,
        "norms": (2 * layers + 1) * d,
        "output": 0 if config.tie_embeddings else embedding,
    }


def flops_per_token(config: ModelConfig, seq_len: int) -> float:
    """Floating-point operations to train on one token: forward and backward, recomputation not counted.

    6 per weight that multiplies (Kaplan et al. 2020, section 2.1; the output layer counts, the embedding's look-up does
    not), and 6 * n_layers * d_model * seq_len for causal attention, which looks at half of the square.
    """
    counts = parameter_counts(config)
    matmul = counts["attention"] + counts["mlp"] + config.vocab_size * config.d_model
    return 6.0 * matmul + 6.0 * config.n_layers * config.d_model * seq_len


@dataclass(frozen=True)
class ModelOptions:
    """The section `model` of a configuration: a preset and what differs from it.

    Attributes:
        preset: nano, tiny, 92m, 218m, 160m or 1b; null takes nano on a CPU and tiny on a GPU.
        vocab_size: rows of the embedding; in training it follows the data unless given, and may exceed it.
        n_layers: transformer blocks.
        d_model: width of the residual stream.
        n_heads: query heads; divides d_model.
        n_kv_heads: key and value heads; divides n_heads.
        d_ff: width of the SwiGLU; follows d_model (8/3 of it, up to a multiple of 32) when only that is given.
        max_seq_len: longest sequence in tokens; in training at least data.seq_len.
        rope_theta: base of the rotary frequencies.
        rope_scaling: linear, dynamic, llama3 or yarn.
        rope_factor: new context length over the original one, for rope_scaling.
        rope_original_seq_len: tokens the model was first trained with, for rope_scaling.
        tie_embeddings: whether the output layer is the embedding.
        dropout: probability.
        activation_checkpointing: recompute each block in the backward pass to save memory.
    """

    preset: str | None = None
    vocab_size: VocabularySize | None = None
    n_layers: Annotated[int, Limits(1, 10_000)] | None = None
    d_model: Width | None = None
    n_heads: Width | None = None
    n_kv_heads: Width | None = None
    d_ff: Width | None = None
    max_seq_len: Width | None = None
    rope_theta: Positive | None = None
    rope_scaling: RopeType | None = None
    rope_factor: Positive = 1.0
    rope_original_seq_len: Count | None = None
    tie_embeddings: bool | None = None
    dropout: ShareBelow1 = 0.0
    activation_checkpointing: bool = False

    def build(self, vocab_size: int | None = None, seq_len: int = 0) -> ModelConfig:
        """The shape meant.

        Args:
            vocab_size: of the data; None takes the preset's.
            seq_len: of the data, in tokens.

        Raises:
            UserError: an unknown preset, an impossible shape, or a `vocab_size` smaller than the data's.
        """
        name = self.preset or CPU_PRESET
        if name not in PRESETS:
            raise UserError(f"model.preset={name}: unknown, choose one of {', '.join(PRESETS)}")
        if vocab_size and self.vocab_size and self.vocab_size < vocab_size:
            raise UserError(
                f"model.vocab_size={self.vocab_size}: the data's vocabulary has {vocab_size} ids; leave the option out"
            )
        if self.rope_scaling and self.rope_factor <= 1:
            raise UserError(f"model.rope_scaling={self.rope_scaling}: needs a model.rope_factor above 1")
        preset = PRESETS[name]
        given = {key: value for key, value in asdict(self).items() if value is not None and hasattr(preset, key)}
        if self.d_model and not self.d_ff:
            given["d_ff"] = None
        if self.n_heads and not self.n_kv_heads and self.n_heads % preset.kv_heads:
            given["n_kv_heads"] = None
        given["rope_scaling"] = self.rope_scaling and RopeScaling(
            self.rope_scaling, self.rope_factor, self.rope_original_seq_len
        )
        given["vocab_size"] = self.vocab_size or vocab_size or preset.vocab_size
        given["max_seq_len"] = max(self.max_seq_len or preset.max_seq_len, seq_len)
        return replace(preset, **given)
