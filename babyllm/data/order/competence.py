"""A curriculum by competence: each step draws from the easiest rows, up to a share that grows with the step.

difficulty of each row -> its share of rows that are not harder (epsilon) -> rows sorted by it
step -> pace -> competence -> the first n rows of these -> a permutation of them by (seed, step) -> its first places

After Platanios et al. 2019, section 3. Epsilon is the distribution function of the difficulty, so that rows of equal
difficulty come together. A step draws uniformly and never the same row twice. From the step at which the competence is
1, the rows are those of the ordinary order at the same row numbers. The order is a pure function of (seed, row number,
difficulty): it depends neither on the number of ranks nor on where a run was resumed.
"""

from __future__ import annotations

import hashlib
import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from babyllm.data.order.curriculum import until_step
from babyllm.data.order.shuffle import Order, Rows, hash_ints, shuffled
from babyllm.data.row_config import CompetenceConfig
from babyllm.data.rows.arrays import RowArrays, placed
from babyllm.errors import UserError

MAX_STEP = 1 << 53


@dataclass(frozen=True)
class Pace:
    """The competence as a function of the step.

    Attributes:
        kind: curve.
        start: competence up to the step `begin`.
        begin: step at which it begins to grow.
        until: step from which it is 1; None for the kind "step", which ends by itself.
        increment: growth at each step of the kind "step".
        interval: number of optimizer steps between two increments.
        renew: number of steps between two measurements of the model's loss; 0 for a difficulty that never changes.
    """

    kind: Literal["linear", "root", "step"]
    start: float
    begin: int
    until: int | None
    increment: float
    interval: int
    renew: int

    def at(self, step: int) -> float:
        """The competence in a step, counted from 0: Platanios et al. 2019, equations 6 and 7, or stepwise."""
        gone = max(0, step - self.begin)
        if self.until is None:
            return min(1.0, self.start + gone // self.interval * self.increment)
        if step >= self.until:
            return 1.0
        done = gone / (self.until - self.begin) if gone else 0.0
        if self.kind == "linear":
            return min(1.0, self.start + (1 - self.start) * done)
        return min(1.0, math.sqrt(self.start**2 + (1 - self.start**2) * done))

    @property
    def full_from(self) -> int:
        """The first step whose competence is 1."""
        return bisect_left(range(MAX_STEP), True, key=lambda step: self.at(step) >= 1)


def pace_of(config: CompetenceConfig, n_steps: int) -> Pace:
    """The pace of a curriculum in a run of `n_steps`.

    Raises:
        UserError: the competence would end to grow before it begins, or never be measured.
    """
    begin, until = until_step(config.begin, n_steps), until_step(config.until, n_steps)
    renew = max(1, until_step(config.renew, n_steps)) if config.by == "loss" else 0
    begin = max(begin, renew)
    if config.start == 1:
        until = begin
    elif config.pace != "step" and until <= begin:
        reason = f"curriculum.{'renew' if renew == begin else 'begin'}"
        raise UserError(
            f"data.curriculum.until={config.until}: is step {until}, but the competence begins to grow at step {begin} "
            f"(data.{reason}); let it end later"
        )
    steps = config.pace == "step"
    return Pace(config.pace, config.start, begin, None if steps else until, config.increment, config.interval, renew)


class _Ranking:
    """Rows sorted by difficulty.

    Args:
        difficulty: (n,) numbers, greater for harder rows.
        at_least: number of rows that a step draws, at most n.
    """

    def __init__(self, difficulty: NDArray[Any], at_least: int) -> None:
        self.rows = np.argsort(difficulty, kind="stable").astype(np.int64)
        is_last = np.append(np.diff(difficulty[self.rows]) != 0, True)
        # For each difficulty, the number of rows of at most that difficulty, and their share of all: epsilon.
        self._counts = np.flatnonzero(is_last) + 1
        self._shares = self._counts / len(difficulty)
        self.lowest = float(self._shares[np.searchsorted(self._counts, at_least)])

    def allowed(self, competence: float) -> int:
        """The number of rows whose epsilon is at most the competence."""
        at = int(np.searchsorted(self._shares, competence, side="right"))
        return int(self._counts[at - 1]) if at else 0


class Competence:
    """An endless sequence of rows, the easiest first, then those of the ordinary order.

    Where too few rows are within the competence to fill a step, it is raised to the lowest one with enough of them.

    Args:
        data: the rows.
        ordinary: function that returns the order without a curriculum, in which no row crosses the given row numbers.
        difficulty: (n,) numbers, greater for harder rows; None for none yet, for which the order is the ordinary one.
        pace: competence by step.
        by: measure of difficulty, in words, for `identity`.
        global_batch: rows per step.
        seed: seed of the order.

    Raises:
        UserError: there are fewer rows than a step draws.
    """

    def __init__(
        self,
        data: Rows,
        ordinary: Callable[[Sequence[int]], Order],
        difficulty: NDArray[Any] | None,
        pace: Pace,
        by: str,
        global_batch: int,
        seed: int,
    ) -> None:
        self._data, self._pace, self._global_batch = data, pace, global_batch
        self._seed = hash_ints(seed, *b"competence")
        self._full_from = pace.full_from
        if self._full_from and len(data) < global_batch:
            raise UserError(
                f"data.global_batch={global_batch}: a step of a curriculum draws no row twice, and there are only "
                f"{len(data):,} rows; choose a smaller global_batch"
            )
        borders = {step * global_batch for step in (pace.renew, self._full_from) if 0 < step < MAX_STEP}
        self._ordinary = ordinary(sorted(borders))
        digest = "" if difficulty is None else hashlib.sha256(np.ascontiguousarray(difficulty).tobytes()).hexdigest()
        self._made_of = [by, *asdict(pace).values(), global_batch, digest]
        self.difficulty: NDArray[Any] | None = None
        self.renew(difficulty)

    def renew(self, difficulty: NDArray[Any] | None) -> None:
        """Draw by another difficulty, (n,) numbers, from now on; None restores the ordinary order."""
        is_used = self._full_from > 0
        self._ranking = _Ranking(difficulty, self._global_batch) if is_used and difficulty is not None else None
        self.difficulty = difficulty

    def competence(self, step: int) -> float:
        """The share of the rows that a step draws from, counted from 0: at least that of the easiest global batch."""
        if self._ranking is None or step >= self._full_from:
            return 1.0
        return max(self._pace.at(step), self._ranking.lowest)

    def n_allowed(self, step: int) -> int:
        """The number of rows that a step draws from."""
        competence = self.competence(step)
        return len(self._data) if self._ranking is None else self._ranking.allowed(competence)

    def rows(self, numbers: NDArray[np.int64]) -> RowArrays:
        """The rows of the run with these (n,) int64 numbers, counted from 0."""
        steps = numbers // self._global_batch
        drawn, is_drawn = np.empty_like(numbers), np.zeros(len(numbers), bool)
        for step in np.unique(steps).tolist():
            if self._ranking is not None and self.competence(step) < 1:
                here = steps == step
                places = shuffled(numbers[here] % self._global_batch, self.n_allowed(step), self._seed, step)
                drawn[here], is_drawn[here] = self._ranking.rows[places], True
        parts = [
            (here, source.rows(theirs[here]))
            for source, theirs, here in (
                (self._data, drawn, np.flatnonzero(is_drawn)),
                (self._ordinary, numbers, np.flatnonzero(~is_drawn)),
            )
            if len(here)
        ]
        return parts[0][1] if len(parts) == 1 else placed(len(numbers), parts)

    def identity(self, consumed: int) -> dict[str, Any]:
        """The settings, as JSON, that decide the first `consumed` rows together with data, seed and scores."""
        return self._ordinary.identity(consumed) | {"curriculum": self._made_of}

    def metrics(self, consumed: int) -> dict[str, float]:
        """Those of the ordinary order, the competence of the next step, and the number of rows that it draws from."""
        step = consumed // self._global_batch
        found = {"competence": self.competence(step), "competence_rows": float(self.n_allowed(step))}
        return self._ordinary.metrics(consumed) | found
