"""Several rewards added up by weight; a function that fails costs its answers their reward, not the run."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from babyllm.errors import UserError
from babyllm.prediction.sample_rules import Turns
from babyllm.rollouts.rewards.built_in_rewards import MAKERS, RewardFunction
from babyllm.rollouts.rewards.user_rewards import RewardFailed, UserReward
from babyllm.rollouts.rollout_config import AnswerRewards


@dataclass
class Rewards:
    """Reward functions and their weights.

    Attributes:
        functions: functions by name.
        weights: weight of each.
        patience: calls in a row that may fail.
        report: function that prints a line.
    """

    functions: dict[str, RewardFunction]
    weights: dict[str, float]
    patience: int = 3
    report: Callable[[str], None] = print
    _failures: dict[str, int] = field(default_factory=dict)

    def parts(
        self, prompts: Sequence[Turns], answers: Sequence[str], records: Sequence[Mapping[str, Any]]
    ) -> dict[str, list[float | None]]:
        """The rewards of answers by name, without weights; None where there is none.

        Raises:
            UserError: a function has failed too often in a row.
        """
        if not answers:
            return {name: [] for name in self.functions}
        return {name: self._of(name, prompts, answers, records) for name in self.functions}

    def _of(
        self, name: str, prompts: Sequence[Turns], answers: Sequence[str], records: Sequence[Mapping[str, Any]]
    ) -> list[float | None]:
        try:
            found = self.functions[name](prompts, answers, records)
        except RewardFailed as error:
            self._failures[name] = self._failures.get(name, 0) + 1
            if (n := self._failures[name]) >= self.patience:
                often = f", {n} times in a row" if n > 1 else ""
                raise UserError(
                    f"reward.functions: {name} {error}{often}; mend it and start the same command again, which goes on "
                    "from what is saved"
                ) from error
            self.report(f"reward {name} {error}; {len(answers)} answers have no reward")
            return [None] * len(answers)
        self._failures[name] = 0
        return found

    def total(self, parts: Mapping[str, Sequence[float | None]]) -> list[float]:
        """The weighted sums; NaN for an answer that lacks one of its rewards."""
        rows = list(zip(*(parts[name] for name in self.functions), strict=True))
        weights = [self.weights[name] for name in self.functions]
        return [
            math.nan if any(x is None for x in row) else sum(w * (x or 0.0) for w, x in zip(weights, row, strict=True))
            for row in rows
        ]

    def close(self) -> None:
        """End the processes of functions."""
        for function in self.functions.values():
            if (close := getattr(function, "close", None)) is not None:
                close()


def make_rewards(
    config: AnswerRewards,
    weights: Mapping[str, float],
    makers: Mapping[str, Callable[[AnswerRewards], RewardFunction]] = MAKERS,
    report: Callable[[str], None] = print,
    patience: int = 1,
) -> Rewards:
    """The rewards of a configuration.

    Args:
        config: section `reward`.
        weights: weights by name.
        makers: functions that make the built-in rewards, by name.
        report: function that prints a line.
        patience: calls of one reward in a row that may fail before that is an error.

    Raises:
        UserError: there is no such reward, or its settings are missing.
    """
    if not weights:
        raise UserError(f"reward.functions: names no reward; give one of {', '.join(makers)}, or module:function")
    functions: dict[str, RewardFunction] = {}
    for name in weights:
        if name in makers:
            functions[name] = makers[name](config)
        elif all(name.partition(":")):
            functions[name] = UserReward(name, config.timeout_s)
        else:
            raise UserError(
                f"reward.functions: there is no {name}; write one of {', '.join(makers)}, or module:function"
            )
    return Rewards(functions, dict(weights), patience, report)
