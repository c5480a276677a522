"""Which rows a run reads and how a step is cut: the part of the section `data` that all training stages share.

RowConfig, rows of each domain -> Shuffled, or a Mixture as mix, interleave, concat or stages say -> Share -> Loader
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from babyllm.config.values import Members, Seed, check
from babyllm.data.loader import Share
from babyllm.data.order.mixing import (
    Mixture,
    concatenated,
    place_phases,
    read_phases,
    require_domains,
    rows_until_exhausted,
)
from babyllm.data.order.shuffle import Rows
from babyllm.errors import UserError
from babyllm.model.config import ModelConfig
from babyllm.runtime import Runtime, device_memory
from babyllm.schedule import Plan

CPU_MICRO_TOKENS = 4096


@dataclass(frozen=True)
class RowConfig:
    """The order of the rows, and how many make a step.

    Without mix, interleave, concat and stages, every epoch is all of the data in one shuffled order.

    Attributes:
        seq_len: tokens per sequence.
        global_batch: sequences per optimizer step, over all ranks; also where stages have other seq_lens, so that
            twice the length is twice the tokens per step.
        micro_batch: sequences per rank and forward pass; null chooses one that fits the device.
        seed: of the order of the data.
        mix: weights of domains, such as {zh: 0.7, en: 0.3}; others are not read. An epoch of plan.epochs is as much as
            these domains hold.
        interleave: the run ends before the first domain repeats (first) or when the last one has been gone through
            (last), mixed by data.mix or all alike; plan.epochs does not count then, plan.steps still does.
        concat: domains one behind the other, such as [en, zh], each shuffled; the run ends when all have been gone
            through, unless plan.steps is given.
        stages: parts of the run, such as [{until: 0.9}, {until: 1.0, mix: {books: 0.8, web: 0.2}, seq_len: 512}], each
            with the share of all steps (or, without a decimal point, the step) it ends at. Without a mix it has
            data.mix or, without that too, the data's own proportions; without a seq_len it has data.seq_len. A domain
            goes on where the stage before left it, and begins anew, in another order, at a new seq_len.
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
        """Whether domains are read one by one and not as one stream."""
        return (self.mix, self.interleave, self.concat, self.stages) != (None, None, None, None)

    @property
    def longest_seq_len(self) -> int:
        """Tokens per sequence in the stage that has most."""
        lengths = [stage.get("seq_len", self.seq_len) for stage in self.stages or [{}]]
        return max((length for length in lengths if isinstance(length, int) and length > 0), default=self.seq_len)


def share_of(config: RowConfig, model: ModelConfig, runtime: Runtime) -> Share:
    """How a global batch is cut over ranks and micro-batches.

    Raises:
        UserError: a number is beyond its limits, or `global_batch` or `micro_batch` does not divide.
    """
    check(config, "data.")
    per_rank = config.global_batch // runtime.world_size
    micro = config.micro_batch
    if micro is None:
        limit = max(1, micro_tokens(model, runtime) // config.longest_seq_len)
        micro = max((d for d in range(1, per_rank + 1) if per_rank % d == 0 and d <= limit), default=1)
    return Share(config.global_batch, micro, runtime.rank, runtime.world_size)


def mixture(
    config: RowConfig, amounts: Mapping[str, int], open_rows: Callable[[int, str], Rows], plan: Plan
) -> tuple[Mixture, Plan]:
    """The rows of the run as mix, interleave, concat or stages say, and the plan with its number of steps.

    Args:
        config: that asks for one of them.
        amounts: how much there is of each domain, which is its weight where no mix is given.
        open_rows: gives the rows of a `seq_len` and a domain.
        plan: of the run.

    Raises:
        UserError: the data cannot be mixed like this, or the plan cannot be followed.
    """
    asked = [name for name in ("mix", "interleave", "stages", "concat") if getattr(config, name) is not None]
    if len(asked) > 1 and asked not in (["mix", "interleave"], ["mix", "stages"]):
        raise UserError(f"data.{asked[-1]}: cannot be combined with data.{asked[-2]}; leave one of them out")
    seq_len, global_batch = config.seq_len, config.global_batch
    if config.concat is not None:
        if not config.concat:
            raise UserError("data.concat: is empty; name the domains in their order, or leave it out")
        require_domains(config.concat, amounts, "data.concat")
        sizes = {domain: len(open_rows(seq_len, domain)) for domain in config.concat}
        n_rows = sum(sizes[domain] for domain in config.concat)
        plan = _lasting(plan, math.ceil(n_rows / global_batch)).with_steps(n_rows, global_batch)
        stages = concatenated(config.concat, sizes, seq_len, plan.n_steps * global_batch)
        return Mixture(stages, open_rows, config.seed, global_batch), plan
    mix: Mapping[str, float] = dict.fromkeys(amounts, 1.0) if config.interleave else amounts
    if config.mix is not None:
        mix = config.mix
    phases = read_phases([{"until": 1.0}] if config.stages is None else config.stages, mix, seq_len, amounts)
    if plan.steps is None and len({phase.seq_len for phase in phases}) > 1:
        raise UserError("plan.steps: data.stages of different seq_len need the number of steps; give it")
    sizes = {domain: len(open_rows(phase.seq_len, domain)) for phase in phases for domain in phase.weights}
    if config.interleave:
        n_rows = rows_until_exhausted(phases[0].weights, sizes, config.interleave)
        plan = _lasting(plan, n_rows // global_batch if config.interleave == "first" else -(-n_rows // global_batch))
    plan = plan.with_steps(sum(sizes.values()), global_batch)
    stages = place_phases(phases, plan.n_steps, global_batch)
    return Mixture(stages, open_rows, config.seed, global_batch), plan


def _lasting(plan: Plan, n_steps: int) -> Plan:
    return plan if plan.steps is not None else replace(plan, steps=max(1, n_steps))


def micro_tokens(model: ModelConfig, runtime: Runtime) -> int:
    """Tokens of a forward pass that fit the device, beside weights, gradients and optimizer.

    On a GPU by the count of Korthikanti et al. 2022 (section 4.1, without the part attention does not store): 34 bytes
    per token, layer and unit of width at 16 bits, taken twice to be on the safe side; with checkpointing 2 bytes. On a
    CPU a number beyond which larger passes gain nothing.
    """
    memory = device_memory(runtime.device)
    if memory is None:
        return CPU_MICRO_TOKENS
    from babyllm.model.config import parameter_counts

    free = 0.8 * memory - 16.0 * sum(parameter_counts(model).values()) - (1 << 30)
    bytes_per_unit = 2 if model.activation_checkpointing else 34
    per_token = model.n_layers * model.d_model * bytes_per_unit * 2
    return max(1, int(free / per_token))
