"""Rewards by a reward model, which is read from its own directory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch

from babyllm.chat.messages import ASSISTANT, Message
from babyllm.reward_model import RewardModel, load_reward_model


class ModelReward:
    """The score of a reward model. It runs on the GPU if the run does; two rewards of one directory share it."""

    def __init__(self, directory: str) -> None:
        self._model = _loaded(directory)

    def __call__(
        self, prompts: Sequence[Sequence[Mapping[str, Any]]], answers: Sequence[str], records: Sequence[Any]
    ) -> list[float | None]:
        """The scores; None for an answer that the model cannot read (`RewardModel.ids`)."""
        asked = [[Message(turn["role"], turn["content"]) for turn in turns] for turns in prompts]
        pairs = zip(asked, answers, strict=True)
        return self._model.scores([[*messages, Message(ASSISTANT, answer)] for messages, answer in pairs])


@lru_cache(maxsize=4)
def _loaded(directory: str) -> RewardModel:
    model = load_reward_model(directory)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        model.model.to(torch.device("cuda", torch.cuda.current_device()))
    model.model.requires_grad_(False)
    return model
