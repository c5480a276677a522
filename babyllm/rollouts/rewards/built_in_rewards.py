"""Rewards that are built in: equal texts and numbers, form, length, checks that run or calculate, models, a judge."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from babyllm.errors import UserError
from babyllm.evaluate.answer_metrics.matching import exact, number
from babyllm.prediction.questions import references
from babyllm.prediction.sample_rules import Turns
from babyllm.rollouts.rollout_config import AnswerRewards
from babyllm.sandbox.execution import query_match
from babyllm.sandbox.sql import Sandbox
from babyllm.sandbox.sql_scores import database_files

RewardFunction = Callable[[Sequence[Turns], Sequence[str], Sequence[Mapping[str, Any]]], list[float | None]]
"""Rewards of answers, given for each the messages before it and its record; None where there is no reward."""

_DATABASE, _QUERY = ("db_id", "database"), ("query", "sql", "SQL", "gold")


def _compared(
    compare: Callable[[str, Sequence[str]], float],
    prompts: Sequence[Turns],
    answers: Sequence[str],
    records: Sequence[Mapping[str, Any]],
) -> list[float | None]:
    """What a comparison with the right answers of each record says; None for a record without any."""
    right = [references(record) for record in records]
    return [compare(answer, texts) if texts else None for answer, texts in zip(answers, right, strict=True)]


def _format(config: AnswerRewards) -> RewardFunction:
    """1 for an answer that the whole pattern matches, else 0."""
    if config.pattern is None:
        raise UserError("reward.functions: format needs a regular expression; give --reward.pattern")
    try:
        pattern = re.compile(config.pattern, re.DOTALL)
    except re.error as error:
        raise UserError(f"reward.pattern={config.pattern}: not a regular expression ({error})") from error
    return lambda prompts, answers, records: [float(bool(pattern.fullmatch(answer))) for answer in answers]


def _length(config: AnswerRewards) -> RewardFunction:
    """1 up to the target length in characters, from there linear to 0 at twice as many; 0 for an empty answer."""

    def score(answer: str) -> float:
        return min(1.0, max(0.0, 2 - len(answer) / config.target_length)) if answer else 0.0

    return lambda prompts, answers, records: [score(answer) for answer in answers]


class SqlReward:
    """1 for a query that returns the rows of the record's own query, else 0; None if the record has none that runs."""

    def __init__(self, databases: Path) -> None:
        self._databases, self._sandbox = databases, Sandbox()

    def __call__(
        self, prompts: Sequence[Turns], answers: Sequence[str], records: Sequence[Mapping[str, Any]]
    ) -> list[float | None]:
        """The rewards of answers, which are queries or have one in a fenced block."""
        return [self._score(*pair) for pair in zip(answers, records, strict=True)]

    def _score(self, answer: str, record: Mapping[str, Any]) -> float | None:
        name = next((record[key] for key in _DATABASE if isinstance(record.get(key), str)), "")
        known = [record[key] for key in _QUERY if isinstance(record.get(key), str)] or references(record)
        files = database_files(self._databases, name)
        if not files or not known:
            return None
        match = query_match(self._sandbox, files, answer, known[0])
        return None if match.fault else float(match.is_right)

    def close(self) -> None:
        """End the processes that run queries."""
        self._sandbox.close()


def _sql(config: AnswerRewards) -> RewardFunction:
    """`SqlReward` on the configured folder."""
    if config.databases is None:
        raise UserError("reward.functions: sql needs a folder of SQLite files; give --reward.databases")
    return SqlReward(Path(config.databases))


def _check(kind: str) -> Callable[[AnswerRewards], RewardFunction]:
    """1 for an answer that passes a check of `babyllm.verification`, else 0; None without anything to check by."""

    def make(config: AnswerRewards) -> RewardFunction:
        from babyllm.rollouts.rewards.check_reward import CheckReward  # other rewards start no such processes

        return CheckReward(kind, config.verify)

    return make


def _reward_model(config: AnswerRewards) -> RewardFunction:
    """The score of a reward model, with its own tokenizer and template; None for a text longer than its context."""
    from babyllm.rollouts.rewards.model_reward import ModelReward  # other rewards need no second model

    if config.model is None:
        raise UserError("reward.functions: reward_model needs a directory; give --reward.model=runs/reward")
    return ModelReward(config.model)


def _judge(config: AnswerRewards) -> RewardFunction:
    """The score of an answer by a model at an endpoint, from 1 to 10; None where its reply has none."""
    from babyllm.rollouts.rewards.judge_reward import JudgeReward  # other rewards need no client

    return JudgeReward(config.judge)


MAKERS: dict[str, Callable[[AnswerRewards], RewardFunction]] = {
    "exact_match": lambda config: partial(_compared, exact),
    "number_match": lambda config: partial(_compared, number),
    "format": _format,
    "length": _length,
    "sql": _sql,
    "arithmetic": _check("arithmetic"),
    "json_schema": _check("json_schema"),
    "python": _check("python"),
    "reward_model": _reward_model,
    "judge": _judge,
}
"""A function that makes each reward from the section `reward`."""
