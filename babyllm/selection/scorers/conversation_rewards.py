"""Rewards of conversations: a reward model, a judge, or a function `module:function` of the user.

conversations -> reward model | judge: prompt, last answer | function: {messages: [...]} -> one column
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from babyllm.chat.messages import ASSISTANT, Conversation, Message
from babyllm.errors import UserError
from babyllm.reward_model import BATCH_TOKENS, RewardModel
from babyllm.rollouts.rewards.judge_reward import JudgeReward
from babyllm.rollouts.rewards.user_rewards import RewardFailed, UserReward
from babyllm.rollouts.rollout_config import JudgeConfig
from babyllm.selection.scorers.scored_batches import Scores, column
from babyllm.selection.scorers.text_statistics import NO_ANSWER


@dataclass(frozen=True)
class ModelRewards:
    """A scorer by a reward model: the score of the last answer, given all before it.

    Attributes:
        model: reward model, with a tokenizer and template of its own.
        name: name of the column.
        batch_tokens: largest number of tokens of a forward pass, including padding.
    """

    model: RewardModel
    name: str = "reward"
    batch_tokens: int = BATCH_TOKENS

    def __post_init__(self) -> None:
        """Refuse a classifier.

        Raises:
            UserError: the model has several outputs.
        """
        if len(labels := self.model.model.labels) != 1:
            raise UserError(f"the reward model has {len(labels)} outputs; give one with a single reward")

    @property
    def names(self) -> tuple[str, ...]:
        """The name of the column."""
        return (self.name,)

    def score(self, conversations: Sequence[Conversation]) -> Scores:
        """The scores; none for what the reward model cannot read (`RewardModel.ids`)."""
        found = self.model.scores([conversation.messages for conversation in conversations], self.batch_tokens)
        context = self.model.model.config.max_seq_len
        why = f"the reward model cannot read it: no answer, more than {context} tokens, or refused by its template"
        return Scores({self.name: column(found)}, [why if value is None else "" for value in found])


class JudgeScores:
    """A scorer by a judge at an endpoint, which rates the last answer from 1 to 10.

    Attributes:
        name: name of the column.
        names: the same, as a tuple.
    """

    def __init__(self, config: JudgeConfig, section: str, name: str = "judge") -> None:
        """Read the judge's prompt and open the client of its endpoint.

        Args:
            config: judge and dimensions.
            section: name of the settings' section on the command line, for messages.
            name: name of the column.

        Raises:
            UserError: a setting is at fault.
        """
        self._judge = JudgeReward(config, section)
        self.name, self.names = name, (name,)

    def score(self, conversations: Sequence[Conversation]) -> Scores:
        """The scores; none where the judge's reply has none.

        Raises:
            UserError: the endpoint refuses every request or is down, or the next request could exceed the budget.
        """
        asked = [(i, *pair) for i, one in enumerate(conversations) if (pair := last_exchange(one)) is not None]
        reasons = [NO_ANSWER] * len(conversations)
        values: list[float | None] = [None] * len(conversations)
        prompts = [[_fields(message) for message in prompt] for _, prompt, _ in asked]
        why = "the judge's reply has no score"
        try:
            found = self._judge(prompts, [answer for *_, answer in asked], [{}] * len(asked)) if asked else []
        except RewardFailed as error:
            found, why = [None] * len(asked), f"the judge {error}"
        for (i, *_), value in zip(asked, found, strict=True):
            values[i], reasons[i] = value, why if value is None else ""
        return Scores({self.name: column(values)}, reasons)


class FunctionScores:
    """A scorer by a function `module:function` of a module that Python finds in the present folder.

    It is called with a list of {"messages": [{"role": ..., "content": ...}, ...], "task": ..., "id": ...} and returns a
    number or None for each. It runs in a process of its own and may print.

    Attributes:
        name: name of the column, the function's name.
        names: the same, as a tuple.
    """

    def __init__(self, function: str, timeout_s: float) -> None:
        """Take a function, which is imported at the first call.

        Args:
            function: `module:function`.
            timeout_s: seconds in which a call must return.

        Raises:
            UserError: the name is not of this form.
        """
        module, _, self.name = function.partition(":")
        if not module or not self.name:
            raise UserError(f"the scorer {function} cannot be a function; write module:function")
        self.names = (self.name,)
        self._function = UserReward(function, timeout_s, result="score", subject="conversation")

    def score(self, conversations: Sequence[Conversation]) -> Scores:
        """The numbers that the function returns.

        Raises:
            UserError: it cannot be imported, raises, hangs, or returns something else than a number for each.
        """
        asked = [
            {"messages": [_fields(message) for message in one.messages], "task": one.task, "id": one.id}
            for one in conversations
        ]
        try:
            found = self._function.numbers([asked], len(asked)) if asked else []
        except RewardFailed as error:
            raise UserError(f"the scorer {self._function.name} {error}; correct it and start again") from error
        why = f"{self.name} returned no finite number"
        return Scores({self.name: column(found)}, [why if value is None else "" for value in found])

    def close(self) -> None:
        """End the function's process."""
        self._function.close()


def last_exchange(conversation: Conversation) -> tuple[tuple[Message, ...], str] | None:
    """The messages before the last answer, and its text; None without an answer."""
    last = max((i for i, one in enumerate(conversation.messages) if one.role == ASSISTANT), default=None)
    return None if last is None else (conversation.messages[:last], conversation.messages[last].content)


def _fields(message: Message) -> dict[str, Any]:
    """A message as a judge and functions read it; its reasoning, if any, has a field of its own."""
    fields = {"role": message.role, "content": message.spelled_out(reasoning=False).content}
    return fields | ({"reasoning": message.reasoning} if message.reasoning else {})
