"""The section `model` of a configuration: named presets, and what may differ from them.

preset, options, the data's vocabulary and row length -> ModelConfig of a new model
shape of a stored model, options -> ModelConfig with what can change without new weights
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Annotated

from babyllm.config.values import Count, Limits, Positive, ShareBelow1, VocabularySize, Width
from babyllm.errors import UserError
from babyllm.model.config import Checkpointing, ModelConfig, RopeScaling, RopeType, Shape

PRESETS: dict[str, ModelConfig] = {
    "nano": ModelConfig(
        vocab_size=4096, n_layers=4, d_model=128, n_heads=4, n_kv_heads=2, max_seq_len=256, tie_embeddings=True
    ),
    "tiny": ModelConfig(
        vocab_size=8192, n_layers=6, d_model=256, n_heads=4, n_kv_heads=2, max_seq_len=512, tie_embeddings=True
    ),
    "92m": ModelConfig(vocab_size=64794, n_layers=8, d_model=512, n_heads=8, d_ff=1376),
    "218m": ModelConfig(vocab_size=64794, n_layers=12, d_model=1024, n_heads=8, tie_embeddings=True),
    "160m": ModelConfig(
        vocab_size=32006, n_layers=24, d_model=512, n_heads=16, d_ff=2752, rope_theta=1e6, norm_eps=1e-6
    ),
    "1b": ModelConfig(
        vocab_size=32000, n_layers=22, d_model=2048, n_heads=32, n_kv_heads=4, d_ff=5632, max_seq_len=2048
    ),
}

# Fields that may differ from those of a stored model: its weights fit all their values, though not equally well.
CHANGEABLE = ("n_layers", "max_seq_len", "rope_theta", "norm_eps", "dropout", "activation_checkpointing")

CPU_PRESET, GPU_PRESET = "nano", "tiny"


@dataclass(frozen=True)
class ModelOptions(Shape):
    """The section `model` of a configuration: a preset and what differs from it.

    Fields are those of `ModelConfig`; null takes the preset's value.

    Attributes:
        preset: name of a shape: nano, tiny, 92m, 218m, 160m or 1b; null takes nano on a CPU and tiny on a GPU.
        vocab_size: rows of the embedding; in training it follows the data unless given, and may exceed it.
        head_dim: width of a head; null takes d_model / n_heads.
        d_ff: width of the SwiGLU; follows d_model (8/3 of it, up to a multiple of 32) when only that is given.
        max_seq_len: longest sequence in tokens; in training at least data.seq_len.
        rope_scaling: method to stretch the rotary frequencies: linear, dynamic, llama3 or yarn; null does not.
        rope_factor: new context length over the original one, for rope_scaling.
        rope_original_seq_len: context length in tokens of the original training, for rope_scaling.
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
    norm_eps: Positive | None = None
    activation_checkpointing: Checkpointing = False
    head_dim: Width | None = None
    qk_norm: bool = False
    qkv_bias: bool = False

    def build(self, vocab_size: int | None = None, seq_len: int = 0) -> ModelConfig:
        """The shape that the preset and the options make.

        Args:
            vocab_size: ids of the data's vocabulary; None takes the preset's.
            seq_len: row length of the data, in tokens.

        Raises:
            UserError: the preset is unknown, the shape is impossible, or its `vocab_size` is smaller than the data's.
        """
        name = self.preset or CPU_PRESET
        if name not in PRESETS:
            raise UserError(f"model.preset={name}: unknown, choose one of {', '.join(PRESETS)}")
        if vocab_size and self.vocab_size and self.vocab_size < vocab_size:
            raise UserError(
                f"model.vocab_size={self.vocab_size}: the data's vocabulary has {vocab_size} ids; leave the option out"
            )
        self._require_factor()
        preset = PRESETS[name]
        names = {field.name for field in fields(ModelConfig)}
        given = {key: value for key, value in asdict(self).items() if value is not None and key in names}
        if self.d_model and not self.d_ff:
            given["d_ff"] = None
        if self.n_heads and not self.n_kv_heads and self.n_heads % preset.kv_heads:
            given["n_kv_heads"] = None
        given["head_dim"] = self.head_dim
        given["rope_scaling"] = self.rope_scaling and RopeScaling(
            self.rope_scaling, self.rope_factor, self.rope_original_seq_len
        )
        given["vocab_size"] = self.vocab_size or vocab_size or preset.vocab_size
        given["max_seq_len"] = max(self.max_seq_len or preset.max_seq_len, seq_len)
        return replace(preset, **given)

    def applied(self, stored: ModelConfig, where: object) -> ModelConfig:
        """The shape of a stored model with the options that need no new weights.

        The first `n_layers` layers are kept. With `rope_scaling` the context becomes `rope_factor` times the original
        one, unless `max_seq_len` says otherwise. Applied to its own result, it changes nothing.

        Args:
            stored: shape of the stored model.
            where: directory of the model, for messages.

        Raises:
            UserError: an option asks for another shape, for more layers than there are, or for an impossible scaling.
        """
        self._require_shape_of(stored, where)
        kept = {key: value for key in CHANGEABLE if (value := getattr(self, key)) is not None}
        self._require_factor()
        if not self.rope_scaling:
            return replace(stored, **kept)
        original = self.rope_original_seq_len or _original_seq_len(stored)
        if self.rope_scaling != "dynamic":  # it begins after the context and has no end
            kept = {"max_seq_len": int(original * self.rope_factor), **kept}
        has_original = self.rope_scaling in ("llama3", "yarn")
        scaling = RopeScaling(self.rope_scaling, self.rope_factor, original if has_original else None)
        return replace(stored, **kept, rope_scaling=scaling)

    def _require_shape_of(self, stored: ModelConfig, where: object) -> None:
        """Refuse options that ask for other weights than the stored ones."""
        if self.n_layers and self.n_layers > stored.n_layers:
            raise UserError(
                f"model.n_layers={self.n_layers}: {where} has {stored.n_layers} layers, of which the first can be kept"
            )
        others = {field.name for field in fields(ModelConfig)} - {*CHANGEABLE, "rope_scaling"}
        given = [field.name for field in fields(self) if getattr(self, field.name) != field.default]
        for key in given:
            if key == "preset" or (key in others and getattr(self, key) != getattr(stored, key)):
                raise UserError(f"model.{key}: the shape is that of {where}; leave the option out")

    def _require_factor(self) -> None:
        if self.rope_factor != 1 and not self.rope_scaling:
            raise UserError(f"model.rope_factor={self.rope_factor}: needs a model.rope_scaling")
        if self.rope_scaling and self.rope_factor <= 1:
            raise UserError(f"model.rope_scaling={self.rope_scaling}: needs a model.rope_factor above 1")


def _original_seq_len(stored: ModelConfig) -> int:
    """The context in tokens of a stored model before its rotary frequencies were stretched."""
    scaling = stored.rope_scaling
    if scaling and scaling.type == "linear":
        return round(stored.max_seq_len / scaling.factor)
    return (scaling and scaling.original_max_seq_len) or stored.max_seq_len
