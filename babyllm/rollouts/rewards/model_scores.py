"""The scores of a reward model as a reward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from babyllm.chat.messages import ASSISTANT, Message, Unusable
from babyllm.errors import UserError
from babyllm.reward_model import RewardModel
from babyllm.rollouts.rewards.built_in_rewards import RewardFunction, Turns


def reward_of(model: RewardModel, name: str) -> RewardFunction:
    """The scores of answers by a reward model, which may have another tokenizer and template than the answering one.

    Args:
        model: reward model.
        name: its directory, for the message.

    Raises:
        UserError: it is a classifier.
    """
    if len(model.model.labels) != 1:
        raise UserError(f"{name}: a classifier with {len(model.model.labels)} classes; give a reward model")
    return partial(_scores, model)


def _scores(
    model: RewardModel, prompts: Sequence[Turns], answers: Sequence[str], records: Sequence[Mapping[str, Any]]
) -> list[float | None]:
    """The scores; None where the model's context is too short or its template refuses the conversation."""
    talks: dict[int, list[Message]] = {}
    for place, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        talk = [*(Message(turn["role"], turn["content"]) for turn in prompt), Message(ASSISTANT, answer)]
        with suppress(Unusable):
            model.ids(talk)
            talks[place] = talk
    found: list[float | None] = [None] * len(answers)
    for place, score in zip(talks, model.scores(list(talks.values())), strict=True):
        found[place] = score
    return found
