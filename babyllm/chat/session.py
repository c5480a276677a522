"""The state of a chat as plain values, and the prompt that fits into the model's context.

Session -> heard / answered / retried -> Session;  Session -> fitting_prompt -> ids
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, replace
from typing import NamedTuple

from babyllm.chat.load import ChatTemplate
from babyllm.chat.messages import ASSISTANT, SYSTEM, USER, Message, Unusable
from babyllm.errors import UserError


@dataclass(frozen=True)
class Session:
    """A chat so far.

    Attributes:
        system: the system message; empty for none.
        messages: messages of user and assistant in turn, beginning with the user's.
    """

    system: str = ""
    messages: tuple[Message, ...] = ()

    def heard(self, text: str) -> Session:
        """The chat after the user has said `text`."""
        return replace(self, messages=(*self.messages, Message(USER, text)))

    def answered(self, text: str) -> Session:
        """The chat after the assistant has said `text`."""
        return replace(self, messages=(*self.messages, Message(ASSISTANT, text)))

    def retried(self) -> Session | None:
        """The chat without its last answer; None if it does not end with one."""
        if not self.messages or self.messages[-1].role != ASSISTANT:
            return None
        return replace(self, messages=self.messages[:-1])


class Prompt(NamedTuple):
    """The ids that the model reads before it answers, and the number of oldest exchanges that they leave out."""

    ids: list[int]
    n_left_out: int


def fitting_prompt(template: ChatTemplate, session: Session, context: int, max_new_tokens: int) -> Prompt:
    """The ids before the assistant's next answer, without the oldest exchanges if the context is too short for them.

    The prompt leaves `max_new_tokens` of the context to the answer, but at most a quarter of the context. The system
    message and the user's last message always stay, even if they leave less.

    Args:
        template: the chat template that renders the messages.
        session: the chat; its last message is the user's.
        context: largest number of tokens that the model can read and write in all.
        max_new_tokens: largest number of tokens of the answer.

    Raises:
        UserError: the system message and the last message alone fill the context, or the template refuses them.
    """
    system = [Message(SYSTEM, session.system)] if session.system else []
    starts = [i for i, message in enumerate(session.messages) if message.role == USER]
    room = max(1, min(max_new_tokens, context // 4))

    def ids_from(n_left_out: int) -> list[int]:
        try:
            return template.prompt([*system, *session.messages[starts[n_left_out] :]])
        except Unusable as error:
            raise UserError(f"the chat template cannot render the chat: {error}") from None

    # Leave out as few exchanges as possible, but never the last. More left out makes a shorter prompt, so bisect.
    n_left_out = bisect_left(range(len(starts) - 1), True, key=lambda n: len(ids_from(n)) + room <= context)
    ids = ids_from(n_left_out)
    if len(ids) >= context:
        raise UserError(
            f"the message takes {len(ids)} tokens with what goes before it, the model's context has {context}: "
            "say it in fewer words"
        )
    return Prompt(ids, n_left_out)


def answer_lead(template: ChatTemplate) -> str:
    """The text that the template puts between a prompt and its answer, such as a space; models generate it too."""
    if not template.is_marked:
        return ""
    rendered = template.render([Message(USER, "?"), Message(ASSISTANT, "x")])
    return template.tokenizer.decode(rendered.ids[rendered.turns > 0].tolist()).partition("x")[0]
