"""A curriculum: easy rows first, the share of hard ones a linear function of the step.

difficulty of each row -> the hardest are the hard rows, all others the easy ones -> each shuffled on its own
step -> share of hard rows -> their number in the step -> its places -> the next hard and the next easy rows

The order is a pure function of (seed, row number): it depends neither on the number of ranks nor on where a run was
resumed. The number of hard rows up to any step is the sum of the shares, rounded: no step's share is off by more than
one row, and the errors do not add up.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from babyllm.config.values import AnyCount, Share
from babyllm.data.order.shuffle import Rows, Shuffled, hash_ints, shuffled
from babyllm.data.rows.arrays import RowArrays, placed
from babyllm.errors import UserError


@dataclass(frozen=True)
class CurriculumConfig:
    """The order of easy and hard pairs.

    Attributes:
        by: what makes a pair hard: its field difficulty (difficulty), a small margin between its answers (margin), or
            answers of similar length (length); null shuffles all pairs alike.
        hard: share of the pairs that count as hard: those of the greatest difficulty.
        start: share of hard pairs in the first step.
        end: share of hard pairs in the step until, and in all later ones.
        until: step, or share of all steps, at which the share of hard pairs stops changing.
    """

    by: Literal["difficulty", "margin", "length"] | None = None
    hard: Share = 0.5
    start: Share = 0.0
    end: Share = 0.5
    until: AnyCount | Share = 0.5


class Subset:
    """Some of the rows of `data`, renumbered.

    Args:
        data: the rows.
        members: (n,) int64, the rows of the subset.
    """

    def __init__(self, data: Rows, members: NDArray[np.int64]) -> None:
        self._data, self._members = data, members

    def __len__(self) -> int:
        """Rows per epoch."""
        return len(self._members)

    def rows(self, indices: NDArray[np.int64]) -> RowArrays:
        """The rows with these (n,) int64 indices, each in [0, len(self))."""
        return self._data.rows(self._members[indices])

    def lengths(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """(n,) int64, the inputs of each row that are not padding, for (n,) indices."""
        return self._data.lengths(self._members[indices])


class Curriculum:
    """An endless sequence of rows, in each step as many hard ones as its share says.

    Args:
        data: the rows.
        difficulty: (n,) float, the difficulty of each row in any unit; greater is harder.
        config: shares of hard rows; `by` has been applied.
        until: number of the step at which the share of hard rows is `config.end`.
        global_batch: rows per step.
        seed: seed of the order.

    Raises:
        UserError: all rows are easy or all are hard, which leaves nothing to order.
    """

    def __init__(
        self,
        data: Rows,
        difficulty: NDArray[Any],
        config: CurriculumConfig,
        until: int,
        global_batch: int,
        seed: int,
    ) -> None:
        n_hard = round(config.hard * len(data))
        if not 0 < n_hard < len(data):
            raise UserError(
                f"data.curriculum.hard={config.hard}: makes {n_hard} of {len(data)} pairs hard; choose a share that "
                "leaves easy and hard ones"
            )
        by_difficulty = np.argsort(difficulty, kind="stable").astype(np.int64)
        parts = (by_difficulty[:-n_hard], by_difficulty[-n_hard:])
        self._easy, self._hard = (
            Shuffled(Subset(data, np.sort(part)), hash_ints(seed, *name))
            for part, name in zip(parts, (b"easy", b"hard"), strict=True)
        )
        self._start, self._end = Fraction(config.start), Fraction(config.end)
        self._until, self._global_batch, self._seed = until, global_batch, seed
        self._made_of = [config.by, config.hard, config.start, config.end, until, global_batch]

    def share(self, step: int) -> float:
        """The share of hard rows in a step, counted from 0."""
        done = min(Fraction(step, self._until), Fraction(1)) if self._until else Fraction(1)
        return float(self._start + (self._end - self._start) * done)

    def hard_before(self, step: int) -> int:
        """The number of hard rows in all steps before this one: the sum of their shares, rounded."""
        rising = min(step, self._until)
        total = step * self._end
        if self._until:
            # For k of the rising steps, the shares start + (end - start) * i / until add up to this.
            steps = Fraction(rising * (rising - 1), 2 * self._until)
            total = rising * self._start + (self._end - self._start) * steps + (step - rising) * self._end
        return int(total * self._global_batch + Fraction(1, 2))

    def rows(self, numbers: NDArray[np.int64]) -> RowArrays:
        """The rows of the run with these (n,) int64 numbers, counted from 0."""
        is_hard, within = self._places(numbers)
        parts = [
            (here, part.rows(within[here]))
            for part, here in ((self._easy, np.flatnonzero(~is_hard)), (self._hard, np.flatnonzero(is_hard)))
            if len(here)
        ]
        return placed(len(numbers), parts)

    def lengths(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """(n,) int64, the inputs of each row that are not padding, for (n,) numbers."""
        is_hard, within = self._places(numbers)
        return np.where(is_hard, self._hard.lengths(within), self._easy.lengths(within))

    def is_hard(self, numbers: NDArray[np.int64]) -> NDArray[np.bool_]:
        """(n,) bool, whether each of the rows with these (n,) int64 numbers is a hard one."""
        return self._places(numbers)[0]

    def _places(self, numbers: NDArray[np.int64]) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        """For (n,) numbers: whether each row is hard, and its number among the hard, or the easy, rows of the run."""
        is_hard, within = np.zeros(len(numbers), bool), np.zeros(len(numbers), np.int64)
        steps = numbers // self._global_batch
        for step in np.unique(steps).tolist():
            here = steps == step
            hard, more = self.hard_before(step), self.hard_before(step + 1)
            # Hard rows are spread over the step, so every rank and micro-batch has its part of them.
            place = shuffled(numbers[here] % self._global_batch, self._global_batch, self._seed, step)
            is_hard[here] = place < more - hard
            easy = step * self._global_batch - hard
            within[here] = np.where(is_hard[here], hard + place, easy + place - (more - hard))
        return is_hard, within

    def identity(self, consumed: int) -> dict[str, Any]:
        """The settings, as JSON, that decide the first `consumed` rows together with data and seed."""
        return {"rows": len(self._easy) + len(self._hard), "curriculum": self._made_of}

    def metrics(self, consumed: int) -> dict[str, float]:
        """Epochs of the easy and the hard rows after `consumed` rows, and the share of hard ones in the next step."""
        step = consumed // self._global_batch
        hard = self.hard_before(step)
        return {
            "epoch/easy": (consumed - hard) / len(self._easy),
            "epoch/hard": hard / len(self._hard),
            "hard_share": self.share(step),
        }


def until_step(until: float, steps: int) -> int:
    """The step at which a curriculum ends: an integer is a step, another number a share of all steps."""
    return until if isinstance(until, int) else round(until * steps)
