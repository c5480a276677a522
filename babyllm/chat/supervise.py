"""Supervision: which messages are trained on, as weights of 0 or 1, and turns as separate conversations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from babyllm.chat.messages import ASSISTANT, Conversation, Message
from babyllm.errors import UserError


@dataclass(frozen=True)
class Supervise:
    """Which messages are trained on; a message's own weight takes precedence.

    Attributes:
        turns: answers of the assistant that are trained on, "all" or only the "last".
        prompts: whether messages of other roles are trained on too.
        weights: 0 or 1 by role, such as {"narrator": 1}. A role that is not named has 1 if it is the assistant's;
            any other has 1 if `prompts` is set.
    """

    turns: Literal["all", "last"] = "all"
    prompts: bool = False
    weights: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse any weight but 0 and 1.

        Raises:
            UserError: a weight is neither 0 nor 1.
        """
        for role, weight in self.weights.items():
            if weight not in (0, 1):
                raise UserError(f"weights: {role}={weight}: a role is trained on, 1, or not, 0")


def message_weights(messages: Sequence[Message], supervise: Supervise) -> list[int]:
    """The weight of each message, 0 or 1."""
    last = max((i for i, message in enumerate(messages) if message.role == ASSISTANT), default=-1)
    weights = []
    for i, message in enumerate(messages):
        weight = supervise.weights.get(message.role, int(supervise.prompts or message.role == ASSISTANT))
        if supervise.turns == "last" and message.role == ASSISTANT and i != last:
            weight = 0
        weights.append(weight if message.weight is None else message.weight)
    return weights


def split_turns(conversation: Conversation) -> list[Conversation]:
    """One conversation for each answer that may be trained on.

    Each holds the messages up to its answer, with weight 0 up to the answer before. All keep the conversation's id, so
    decisions that depend on the id are the same for all of them.
    """
    turns = []
    begin = 0
    for i, message in enumerate(conversation.messages):
        if message.role == ASSISTANT:
            if message.weight != 0:
                before = (replace(earlier, weight=0) for earlier in conversation.messages[:begin])
                turns.append(replace(conversation, messages=(*before, *conversation.messages[begin : i + 1])))
            begin = i + 1
    return turns
