"""The rows of a run, their order and how a step is split: the parts of the section `data` that stages share.

RowConfig, rows of each domain -> Shuffled, a Mixture (`order.mixing`) or a curriculum -> Share -> Loader
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal, cast

import numpy as np
from numpy.typing import NDArray

from babyllm.config.values import AnyCount, Count, Limits, Members, PathText, Seed, check, expand_paths
from babyllm.config.values import Share as Portion
from babyllm.errors import UserError
from babyllm.model.config import ModelConfig
from babyllm.runtime import Runtime, device_memory

CPU_MICRO_TOKENS = 4096


@dataclass(frozen=True)
class RowConfig:
    """The order of the rows, and the number of rows in a step.

    Without mix, interleave, concat and stages, every epoch reads all data in one shuffled order.

    Attributes:
        seq_len: tokens per sequence.
        global_batch: sequences per optimizer step, over all ranks. It is the same in every phase of data.stages, so
            twice the seq_len means twice the tokens per step.
        micro_batch: sequences per rank and forward pass; null chooses a number that fits the device.
        seed: seed of the order of the data.
        mix: weights of domains, such as {zh: 0.7, en: 0.3}; other domains are not read. An epoch of plan.epochs is the
            amount that these domains hold. For tasks such as reasoning/maths, the group reasoning may be named: its
            weight is divided among its tasks in proportion to their rows.
        interleave: end of the run: before any domain repeats (first), or once every domain has been read in full
            (last). Domains are mixed by data.mix, or equally without it. plan.epochs is ignored, plan.steps is not.
        concat: domains one after another, such as [en, zh], each shuffled; the run ends when all have been read once,
            unless plan.steps is given.
        stages: phases of the run, such as [{until: 0.9}, {until: 1.0, mix: {books: 0.8, web: 0.2}, seq_len: 512}]. A
            phase ends at until: a share of all steps or, without a decimal point, a step. Its mix defaults to data.mix,
            else to the proportions of the data; its seq_len defaults to data.seq_len. A domain continues where the
            phase before left it; at a new seq_len it starts over, in another order.
    """

    seq_len: Members = 128
    global_batch: Members = 8
    micro_batch: Members | None = None
    seed: Seed = 1
    mix: dict[str, float] | None = None
    interleave: Literal["first", "last"] | None = None
    concat: list[str] | None = None
    stages: list[dict[str, int | float | dict[str, float]]] | None = None

    @property
    def is_mixed(self) -> bool:
        """Whether each domain is a stream of its own, rather than all data one stream."""
        return (self.mix, self.interleave, self.concat, self.stages) != (None, None, None, None)

    @property
    def longest_seq_len(self) -> int:
        """Tokens per sequence in the phase with the longest sequences."""
        lengths = [stage.get("seq_len", self.seq_len) for stage in self.stages or [{}]]
        return max((length for length in lengths if isinstance(length, int) and length > 0), default=self.seq_len)


@dataclass(frozen=True)
class CompetenceConfig:
    """The order of easy and hard rows: each step draws from the easiest, up to a share of all that grows.

    That share is the competence (Platanios et al. 2019). Once it is 1, the order is that without a curriculum.

    Attributes:
        by: measure of difficulty: rarity of tokens, or of runs of two or three (unigram, bigram, trigram), number of
            different parts of speech (pos), length of the texts in tokens (length), place of the domain in sources,
            number in the file column, loss of the model itself (loss), or chance (random); null for no curriculum.
        pace: curve of the competence from begin to until, linear or root; step adds increment every interval steps.
        start: competence at first.
        begin: step, or share of all steps, at which the competence begins to grow; for loss at least renew.
        until: step, or share of all steps, from which the competence is 1; not used by the pace step.
        increment: growth of the competence at each step of the pace step.
        interval: number of optimizer steps between two increments of the pace step.
        renew: number of steps, or share of all steps, between two measurements of the loss. Before the first, all rows
            are read in the ordinary order.
        sources: domains from the easiest to the hardest.
        column: file of one number per row, greater for harder, in the order of the rows of the training data: .npy, or
            .parquet with one column, or with the column difficulty.
    """

    by: Literal["random", "length", "unigram", "bigram", "trigram", "pos", "column", "sources", "loss"] | None = None
    pace: Literal["linear", "root", "step"] = "linear"
    start: Portion = 0.1
    begin: AnyCount | Portion = 0
    until: AnyCount | Portion = 0.5
    increment: Annotated[float, Limits(0, 1, above=True)] = 4e-4
    interval: Count = 1
    renew: Count | Annotated[float, Limits(0, 1, above=True)] = 0.0625
    sources: list[str] = field(default_factory=list)
    column: PathText | None = None

    def __post_init__(self) -> None:
        """Expand `~` in paths."""
        expand_paths(self)


@dataclass(frozen=True)
class VocabularyConfig:
    """A vocabulary that grows: tokens not yet known are <unk> among the inputs, and are not trained on as targets.

    Special tokens and single bytes are always known. Evaluations always know all tokens.

    Attributes:
        by: order in which tokens become known: the most frequent ones first (rank), or by part of speech, nouns first
            (pos); null knows all from the start.
        pace: curve of the share of known tokens from begin to until.
        start: share of the tokens that are known at first.
        begin: step, or share of all steps, at which the share begins to grow.
        until: step, or share of all steps, from which all tokens are known.
    """

    by: Literal["rank", "pos"] | None = None
    pace: Literal["linear", "log"] = "linear"
    start: Portion = 0.2
    begin: AnyCount | Portion = 0.1
    until: AnyCount | Portion = 0.8


@dataclass(frozen=True)
class Share:
    """The split of a global batch: `global_batch` rows over `world_size` ranks, in micro-batches of `micro_batch` rows.

    An automatic micro-batch may be cut where it does not fit the device.

    Raises:
        UserError: the rows do not divide evenly over ranks or micro-batches.
    """

    global_batch: int
    micro_batch: int
    rank: int = 0
    world_size: int = 1
    is_automatic: bool = False

    def __post_init__(self) -> None:
        """Refuse numbers that do not divide evenly."""
        per_rank, rest = divmod(self.global_batch, self.world_size)
        if rest or per_rank < 1:
            low = max(per_rank, 1) * self.world_size
            raise UserError(
                f"data.global_batch={self.global_batch}: does not divide over {self.world_size} ranks; "
                f"{low} or {low + self.world_size} would"
            )
        if self.micro_batch < 1 or per_rank % self.micro_batch:
            fitting = max(d for d in range(1, per_rank + 1) if per_rank % d == 0 and d <= max(self.micro_batch, 1))
            raise UserError(
                f"data.micro_batch={self.micro_batch}: does not divide the {per_rank} sequences per rank of "
                f"data.global_batch={self.global_batch}; {fitting} would"
            )

    def micro_batches(self, first_row: int) -> list[NDArray[np.int64]]:
        """This rank's rows of the global batch that begins at `first_row`: (micro_batch,) int64 per forward pass."""
        per_rank = self.global_batch // self.world_size
        start = first_row + self.rank * per_rank
        return list(np.arange(start, start + per_rank, dtype=np.int64).reshape(-1, self.micro_batch))


def share_of(config: RowConfig, model: ModelConfig, runtime: Runtime) -> Share:
    """This rank's share of a global batch, with a micro-batch that fits the device where none is configured.

    Raises:
        UserError: a setting is out of range, or `global_batch` or `micro_batch` does not divide evenly.
    """
    check(config, "data.")
    per_rank = config.global_batch // runtime.data_ranks
    micro = config.micro_batch
    if micro is None:
        micro = even(per_rank, _most_rows(config.longest_seq_len, max(1, per_rank), model, runtime))
    return Share(config.global_batch, micro, runtime.data_rank, runtime.data_ranks, config.micro_batch is None)


def even(per_rank: int, limit: int) -> int:
    """The largest micro-batch of at most `limit` rows that divides the rows of a rank; at least 1."""
    return max((d for d in range(1, per_rank + 1) if per_rank % d == 0 and d <= limit), default=1)


def _most_rows(seq_len: int, per_rank: int, model: ModelConfig, runtime: Runtime) -> int:
    """The most rows of a forward pass: those that fit an accelerator's memory, at least 1 (`babyllm.planning`).

    On a CPU it is a number beyond which larger passes are not faster.
    """
    memory = device_memory(runtime.device)
    if memory is None:
        return max(1, CPU_MICRO_TOKENS // seq_len)
    from babyllm.parallel.config import ParallelConfig
    from babyllm.planning import Job, largest_micro_batch
    from babyllm.planning.job import Kind, Number
    from babyllm.runtime.precision import dtype_name

    kind, dtype = cast(Kind, runtime.device.type), cast(Number, dtype_name(runtime.dtype))
    # With several passes a step, gradients are held all along.
    shared = ParallelConfig(context=runtime.context)
    job = Job(model, seq_len, passes=2, dtype=dtype, parallel=shared, ranks=runtime.world_size, device=kind)
    return max(1, largest_micro_batch(job, memory, per_rank))
