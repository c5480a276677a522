"""Print a model's parameters by part, its training FLOPs per token, and what other programs cannot do with it."""

from __future__ import annotations

from dataclasses import dataclass, field

from babyllm.config.values import Members
from babyllm.interop.compatibility import remarks
from babyllm.model.config import flops_per_token, parameter_counts
from babyllm.model.options import ModelOptions

ARGUMENTS = ""


@dataclass(frozen=True)
class Flags:
    """Flags of `babyllm plan`.

    Attributes:
        model: the model to plan.
        seq_len: tokens per sequence; null takes the model's max_seq_len.
    """

    model: ModelOptions = field(default_factory=ModelOptions)
    seq_len: Members | None = None


def run(flags: Flags) -> None:
    """Print a model's parameters by part, its training FLOPs per token, and what other programs cannot do with it."""
    config = flags.model.build(seq_len=flags.seq_len or 0)
    seq_len = flags.seq_len or config.max_seq_len
    counts = parameter_counts(config)
    for part, count in counts.items():
        note = "  (tied to the embedding)" if part == "output" and config.tie_embeddings else ""
        print(f"{part:<12}{count:>16,}{note}")
    print(f"{'total':<12}{sum(counts.values()):>16,}")
    print(f"training FLOPs per token at seq_len {seq_len}: {flops_per_token(config, seq_len):.4g}")
    for remark in remarks(config):
        print(remark)
