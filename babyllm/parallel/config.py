"""The section `parallel` of a configuration; reading it loads no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from babyllm.config.values import Count

Shard = Literal["none", "zero2", "zero3", "hybrid"]
Offload = Literal["none", "optimizer", "all"]
Reading = Literal["auto", "layers", "whole"]


@dataclass(frozen=True)
class ParallelConfig:
    """How a model and its optimizer are divided among the processes of a run.

    Any of it may change when a run resumes, and so may the number of processes.

    Attributes:
        shard: parts that are divided among the processes (Rajbhandari et al. 2020): none, each has all of them; zero2,
            gradients and optimizer state, and the weights outside a step; zero3, the weights within a step too, layer
            by layer, which takes the least memory; hybrid, as zero3 among `shard_ranks` processes, with copies.
        shard_ranks: processes that share one copy under hybrid; default: those of a machine.
        offload: parts held in the memory of the CPU: optimizer, its state, which is also updated there; all, weights
            and gradients too, and only with a shard.
        tensor: processes among which each layer's matrices are split; they read the same rows.
        context: processes among which each row is split, for rows that are too long for one of them.
        reading: weights that a process holds while a divided model is evaluated or writes: layers, of one block at a
            time, gathered for each pass; whole, of the whole model, which writes faster; auto, whole in GRPO and PPO,
            whose models write most of the time, else layers.
    """

    shard: Shard = "none"
    shard_ranks: Count | None = None
    offload: Offload = "none"
    tensor: Count = 1
    context: Count = 1
    reading: Reading = "auto"
