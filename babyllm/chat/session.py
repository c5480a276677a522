"""The state of a chat as plain values: what was said, and the part of it that a prompt has room for.

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
        system: what the model is told first; empty for nothing.
        messages: of user and assistant in turn, the user's first.
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
        """The chat before its last answer; None if nothing was answered yet."""
        if not self.messages or self.messages[-1].role != ASSISTANT:
            return None
        return replace(self, messages=self.messages[:-1])


class Prompt(NamedTuple):
    """What the model reads before it answers, and how many of the oldest exchanges were left out of it."""

    ids: list[int]
    n_left_out: int


def fitting_prompt(template: ChatTemplate, session: Session, context: int, max_new_tokens: int) -> Prompt:
    """The ids before the assistant's next answer, without the oldest exchanges where they would leave too little room.

    Room is left for `max_new_tokens`, but for no more than a quarter of the context. The system message and the user's
    last message always stay, even if that leaves less.

    Args:
        template: writes the messages down.
        session: its last message is the user's.
        context: tokens the model can read and write in all.
        max_new_tokens: tokens the answer may take.

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
            raise UserError(f"the chat cannot be written down for the model: {error}") from None

    # The fewest left out that fit, else all but the last: prompts only get shorter, so a few of them are tried.
    n_left_out = bisect_left(range(len(starts) - 1), True, key=lambda n: len(ids_from(n)) + room <= context)
    ids = ids_from(n_left_out)
    if len(ids) >= context:
        raise UserError(
            f"the message takes {len(ids)} tokens with what goes before it, the model's context has {context}: "
            "say it in fewer words"
        )
    return Prompt(ids, n_left_out)


def answer_lead(template: ChatTemplate) -> str:
    """What the template puts between a prompt and the text of its answer, such as a space; models write it, too."""
    if not template.is_marked:
        return ""
    rendered = template.render([Message(USER, "?"), Message(ASSISTANT, "x")])
    return template.tokenizer.decode(rendered.ids[rendered.turns > 0].tolist()).partition("x")[0]
