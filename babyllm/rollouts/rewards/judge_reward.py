"""Rewards by a judge: a model at an OpenAI-compatible endpoint, or at several, that scores each answer from 1 to 10.

prompts, answers -> requests -> the client, which retries, stores and counts -> scores, None where one is missing
"""

from __future__ import annotations

import atexit
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from babyllm.endpoint.config import EndpointConfig
from babyllm.errors import UserError
from babyllm.judging.answer_files import Answer, asked_text
from babyllm.judging.dimension_scores import check_weights, score
from babyllm.judging.judge_prompts import dimension_lines, judge_prompt
from babyllm.prediction.questions import references
from babyllm.rollouts.rewards.user_rewards import RewardFailed
from babyllm.rollouts.rollout_config import JudgeConfig

if TYPE_CHECKING:
    from babyllm.endpoint.client import Client


class JudgeReward:
    """The weighted mean of the judge's scores. Rewards of the same endpoints share a client and what it may cost."""

    def __init__(self, config: JudgeConfig, section: str = "reward.judge") -> None:
        """Read the judge's prompt and open the client.

        Args:
            config: judge and dimensions.
            section: name of the settings' section on the command line, for messages.

        Raises:
            UserError: a setting or the prompt's file is at fault.
        """
        self._named = partial(_named, section)
        with self._named():
            check_weights(config.dimensions)
            file = None if config.prompt_file is None else Path(config.prompt_file)
            self._prompt = judge_prompt("score", config.language, file)
            self._client = _client(tuple(config.judges().items()))
        self._weights, self._lines = config.dimensions, dimension_lines(config.dimensions, config.language)

    def __call__(
        self,
        prompts: Sequence[Sequence[Mapping[str, Any]]],
        answers: Sequence[str],
        records: Sequence[Mapping[str, Any]],
    ) -> list[float | None]:
        """The scores; None where the reply failed or has no score.

        Raises:
            UserError: the endpoint refuses every request or is down, or the next request could exceed the budget.
            RewardFailed: none of the answers has a score.
        """
        asked = [
            Answer("", asked_text([(turn["role"], turn["content"]) for turn in turns]), text, _reference(record))
            for turns, text, record in zip(prompts, answers, records, strict=True)
        ]
        with self._named():
            found = score(asked, self._prompt, self._lines, self._weights, 1, self._client.replies)
            totals = [one.means(self._weights).get("total") for one in found]
            if not any(total is not None for total in totals):
                raise RewardFailed(f"gave no score: {found[0].problems[0]}")
        return totals


def _reference(record: Mapping[str, Any]) -> str | None:
    """The first right answer of a record, which the judge may compare with."""
    return next(iter(references(record)), None)


@contextmanager
def _named(section: str) -> Iterator[None]:
    """Errors name settings as they are called in a section."""
    try:
        yield
    except (UserError, RewardFailed) as error:
        text = re.sub(r"--(endpoints?|dimensions|prompt_file)\b", rf"--{section}.\1", str(error))
        raise type(error)(text) from error


@cache
def _client(judges: tuple[tuple[str, EndpointConfig], ...]) -> Client:
    """The open client of endpoints; at the end of the process it waits shortly for what may have been paid for."""
    try:
        from babyllm.endpoint.client import Client
    except ImportError as error:
        raise UserError(f'judging needs {error.name}: pip install "babyllm[eval]"') from None
    client = Client(dict(judges), shows_progress=False).__enter__()
    atexit.register(client.__exit__, None, None, None)
    return client
