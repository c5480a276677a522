"""Mixing: row r of a run -> its phase -> its domain and the row's index within that domain -> window.

mix, stages -> Phase (as configured) -> Stage (the phase at its rows of the run) -> Mixture
row r -> stage -> share_out(r), share_out(r + 1) -> domain d, its row k -> Shuffled by (seed, d) -> window

The order is a pure function of (seed, r), computed as fast at row 150,000,000 as at row 0. The rows of a phase have one
length, so weights in tokens are weights in rows, except for the shorter last row of a domain. A domain continues across
the border of two phases: all of its rows come before any repeats. At another row length it starts over, in another
order.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from babyllm.config import nearest
from babyllm.data.order.shuffle import Rows, Shuffled, hash_ints
from babyllm.data.row_config import RowConfig
from babyllm.data.rows.arrays import RowArrays, placed
from babyllm.errors import UserError
from babyllm.schedule import Plan

# Weights are whole numbers up to PARTS: 64 bits hold twice their product with any row below MAX_ROWS.
PARTS, MAX_ROWS = 10**9, 2**32
STAGE_KEYS = ("until", "mix", "seq_len")


def share_out(rows: NDArray[np.int64], weights: Sequence[int]) -> NDArray[np.int64]:
    """The number of a phase's first `rows` rows that belong to each weight.

    The weights are split into two parts that are as equal as possible, recursively, and each part takes its share
    rounded to whole rows. From one row to the next exactly one count grows, by one. Counts are at most one row from
    their exact share for up to three weights, and less than two rows for any number of weights. Each rounding moves a
    count by at most half a row, and a part that is split further passes on at most two thirds of that.

    Args:
        rows: numbers of rows, (R,) int64, each below MAX_ROWS.
        weights: whole weights, from the largest to the smallest.

    Returns:
        (R, len(weights)) int64; each line adds up to its entry of `rows`.
    """
    if len(weights) == 1:
        return rows[:, None]
    sums = np.cumsum(weights)
    total = sums[-1]
    cut = 1 + int(np.abs(2 * sums[:-1] - total).argmin())
    left = (2 * rows * sums[cut - 1] + total) // (2 * total)
    return np.concatenate([share_out(left, weights[:cut]), share_out(rows - left, weights[cut:])], axis=1)


@dataclass(frozen=True)
class Stage:
    """A phase of a run with one row length and one set of weights; it ends where the next begins.

    Attributes:
        first_row: number of its first row, counted from the start of the run.
        seq_len: tokens per row.
        weights: whole weights by domain, from the largest to the smallest.
    """

    first_row: int
    seq_len: int
    weights: dict[str, int]

    @property
    def sources(self) -> list[tuple[int, str]]:
        """(seq_len, domain) of each weight."""
        return [(self.seq_len, domain) for domain in self.weights]

    def counts(self, rows: int) -> dict[tuple[int, str], int]:
        """The number of the phase's first `rows` rows that belong to each (seq_len, domain)."""
        shared = share_out(np.array([rows]), list(self.weights.values()))
        return dict(zip(self.sources, shared[0].tolist(), strict=True))


class Mixture:
    """An endless sequence of rows from several domains, mixed by the weights of each phase; the last phase never ends.

    Args:
        stages: phases in order; the first begins at row 0.
        open_rows: function that returns the rows of a `seq_len` and a domain.
        seed: seed of the domains' orders.
        global_batch: rows per step; phases begin at multiples of it.
    """

    def __init__(
        self, stages: Sequence[Stage], open_rows: Callable[[int, str], Rows], seed: int, global_batch: int
    ) -> None:
        self._stages, self._global_batch = stages, global_batch
        self._first_rows = [stage.first_row for stage in stages]
        sources = dict.fromkeys(source for stage in stages for source in stage.sources)
        self._rows = {s: Shuffled(open_rows(*s), hash_ints(seed, *s[1].encode())) for s in sources}
        self._before: list[Counter[tuple[int, str]]] = [Counter()]
        for stage, end in zip(stages, self._first_rows[1:], strict=False):
            self._before.append(self._before[-1] + Counter(stage.counts(end - stage.first_row)))

    def rows(self, numbers: NDArray[np.int64]) -> RowArrays:
        """The rows of the run with these (n,) int64 numbers; all must have the same seq_len."""
        return placed(len(numbers), [(places, rows.rows(theirs)) for places, rows, theirs in self._sources(numbers)])

    def lengths(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """(n,) int64, the inputs of each row that are not padding, for (n,) numbers."""
        lengths = np.empty(len(numbers), np.int64)
        for places, rows, theirs in self._sources(numbers):
            lengths[places] = rows.lengths(theirs)
        return lengths

    def _sources(self, numbers: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], Shuffled, NDArray[np.int64]]]:
        """For each domain: the indices of its entries in `numbers`, its shuffled rows, and their numbers in these."""
        at = np.searchsorted(self._first_rows, numbers, side="right") - 1
        for i in np.unique(at):
            stage, places = self._stages[i], np.flatnonzero(at == i)
            rows, weights = numbers[places] - stage.first_row, list(stage.weights.values())
            before = share_out(rows, weights)
            domain = (share_out(rows + 1, weights) - before).argmax(axis=1)
            for d in np.unique(domain):
                source, here = stage.sources[d], domain == d
                yield places[here], self._rows[source], before[here, d] + self._before[i][source]

    @property
    def borders(self) -> list[int]:
        """The first row of each phase."""
        return self._first_rows

    def identity(self, consumed: int) -> dict[str, Any]:
        """The phases that have begun, as JSON: with data and seed they decide the first `consumed` rows."""
        begun = [asdict(stage) for stage in self._stages if stage.first_row < consumed]
        return {"stages": begun, "global_batch": self._global_batch}

    def metrics(self, consumed: int) -> dict[str, float]:
        """Epochs of each domain after `consumed` rows, and the seq_len of the last row."""
        i = bisect_right(self._first_rows, max(0, consumed - 1)) - 1
        stage = self._stages[i]
        read = self._before[i] + Counter(stage.counts(consumed - stage.first_row))
        epochs: dict[str, float] = {}
        for source, rows in self._rows.items():
            name = f"epoch/{source[1]}"
            epochs[name] = epochs.get(name, 0.0) + read[source] / len(rows)
        return {**epochs, "seq_len": stage.seq_len}


# ---- phases from the configuration


class Phase(NamedTuple):
    """A phase as configured: `until` is the step at which it ends, or as a float a share of the run."""

    until: int | float
    seq_len: int
    weights: dict[str, int]


def read_phases(
    stages: Iterable[Mapping[str, Any]], mix: Mapping[str, float], seq_len: int, domains: Iterable[str]
) -> list[Phase]:
    """The phases of `data.stages`; `mix` and `seq_len` are the defaults of those that leave them out.

    Raises:
        UserError: a key or domain is unknown, a value is not valid, or there are no phases.
    """
    phases = []
    for number, values in enumerate(stages, 1):
        where = f"data.stages, number {number}"
        for key in values:
            if key not in STAGE_KEYS:
                raise UserError(f"{where}: unknown key '{key}': did you mean '{nearest(key, STAGE_KEYS)}'?")
        until, length = values.get("until"), values.get("seq_len", seq_len)
        if not isinstance(until, int | float) or not 0 < until <= (1 if isinstance(until, float) else math.inf):
            raise UserError(f"{where}: until={until}: must be a share of the run such as 0.9, or a number of steps")
        if not isinstance(length, int) or length < 1:
            raise UserError(f"{where}: seq_len={length}: must be an integer of at least 1")
        weights = values.get("mix", mix)
        if not isinstance(weights, Mapping):
            raise UserError(f"{where}: mix={weights}: must be weights by domain, such as {{zh: 0.7, en: 0.3}}")
        phases.append(Phase(until, length, whole_weights(weights, domains, where if "mix" in values else "data.mix")))
    if not phases:
        raise UserError("data.stages: is empty; leave it out, or add a stage")
    return phases


def whole_weights(mix: Mapping[str, float], domains: Iterable[str], where: str) -> dict[str, int]:
    """The weights of a mix as whole numbers, from the largest to the smallest, without those of 0.

    Raises:
        UserError: `mix` names a domain that is not in `domains`, or a weight is not valid.
    """
    require_domains(mix, domains, where)
    total = sum(mix.values())
    if not 0 < total < math.inf or min(mix.values()) < 0:
        raise UserError(f"{where}: mix={dict(mix)}: weights must be numbers of at least 0 and not all 0")
    largest_first = sorted(((weight, name) for name, weight in mix.items() if weight), key=lambda w: (-w[0], w[1]))
    whole = {name: max(1, round(weight / total * PARTS)) for weight, name in largest_first}
    divisor = math.gcd(*whole.values())
    return {name: weight // divisor for name, weight in whole.items()}


def require_domains(names: Iterable[str], domains: Iterable[str], where: str) -> None:
    """Refuse names of domains that the training data does not have.

    Raises:
        UserError: a name is unknown; the message suggests the most similar domain.
    """
    for name in names:
        if name not in domains:
            near = nearest(name, domains)
            raise UserError(f"{where}: the training data has no domain '{name}': did you mean '{near}'?")


def place_phases(phases: Sequence[Phase], n_steps: int, global_batch: int) -> list[Stage]:
    """The phases with their first rows in a run of `n_steps`; in a short run, a phase may round to zero steps.

    Raises:
        UserError: the ends of the phases do not increase, or the last phase does not end with the run.
    """
    stages, first, previous = [], 0, 0.0
    for number, (until, seq_len, weights) in enumerate(phases, 1):
        stages.append(Stage(first * global_batch, seq_len, weights))
        end = round(until * n_steps) if isinstance(until, float) else until
        if not first <= end <= n_steps or until == previous:
            raise UserError(
                f"data.stages, number {number}: until={until} is step {end}: must be after step {first}, where the "
                f"stage before it ends, and at most {n_steps}, the run's last"
            )
        first, previous = end, until
    if first != n_steps:
        raise UserError(
            f"data.stages: the last one ends at step {first} of {n_steps}; let it end with the run, until: 1.0"
        )
    return stages


def concatenated(domains: Sequence[str], sizes: Mapping[str, int], seq_len: int, n_rows: int) -> list[Stage]:
    """Phases that each hold all rows of one domain, in this order, repeated until there are at least `n_rows` rows."""
    stages: list[Stage] = []
    first = 0
    while first < n_rows:
        for domain in domains:
            stages.append(Stage(first, seq_len, {domain: 1}))
            first += sizes[domain]
    return stages


def rows_until_exhausted(weights: Mapping[str, int], sizes: Mapping[str, int], which: Literal["first", "last"]) -> int:
    """The number of rows of a run: "first" is the most without a repeated row, "last" the fewest with every row."""
    shares, limits = list(weights.values()), np.array([sizes[domain] for domain in weights])

    def has_come(rows: int) -> bool:
        counts = share_out(np.array([rows]), shares)[0]
        return bool((counts > limits).any() if which == "first" else (counts >= limits).all())

    rows = bisect_left(range(MAX_ROWS), True, key=has_come)
    return rows - 1 if which == "first" else rows


def mixture(
    config: RowConfig, amounts: Mapping[str, int], open_rows: Callable[[int, str], Rows], plan: Plan
) -> tuple[Mixture, Plan]:
    """The rows of a run by mix, interleave, concat or stages, and the plan with its number of steps.

    Args:
        config: a configuration that sets at least one of these four.
        amounts: size of each domain, which is its weight where no mix is given.
        open_rows: function that returns the rows of a `seq_len` and a domain.
        plan: training plan of the run.

    Raises:
        UserError: the settings contradict each other or the data, or the plan is not valid.
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
        raise UserError("plan.steps: data.stages of different seq_len need the number of steps; set it")
    sizes = {domain: len(open_rows(phase.seq_len, domain)) for phase in phases for domain in phase.weights}
    if config.interleave:
        n_rows = rows_until_exhausted(phases[0].weights, sizes, config.interleave)
        plan = _lasting(plan, n_rows // global_batch if config.interleave == "first" else -(-n_rows // global_batch))
    plan = plan.with_steps(sum(sizes.values()), global_batch)
    stages = place_phases(phases, plan.n_steps, global_batch)
    return Mixture(stages, open_rows, config.seed, global_batch), plan


def _lasting(plan: Plan, n_steps: int) -> Plan:
    return plan if plan.steps is not None else replace(plan, steps=max(1, n_steps))
