"""Conversations within the length of a row: whole, without their oldest turns, truncated, or skipped."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Literal, NamedTuple

from babyllm.chat.messages import ASSISTANT, SYSTEM, TOOL, Conversation, Message
from babyllm.chat.supervise import Supervise
from babyllm.chat.template import ChatTemplate, Rendered

TooLong = Literal["drop_oldest", "truncate", "skip"]
Outcome = Literal["whole", "dropped", "truncated", "skipped"]


class Fitted(NamedTuple):
    """A conversation within the length of a row.

    Attributes:
        rendered: at most `seq_len` + 1 ids, some of which are trained on; None if the conversation is skipped.
        outcome: "whole", "dropped" if the oldest turns were left out, "truncated" or "skipped".
    """

    rendered: Rendered | None
    outcome: Outcome


def fit(
    template: ChatTemplate, conversation: Conversation, supervise: Supervise, seq_len: int, too_long: TooLong
) -> Fitted:
    """A conversation rendered into `seq_len` inputs and as many targets.

    Args:
        template: the chat template to render it with.
        conversation: a conversation of any length.
        supervise: which messages are trained on; a conversation without any is skipped.
        seq_len: largest number of inputs, which are all ids except the last.
        too_long: treatment of longer conversations. "drop_oldest" leaves out as few as possible of the oldest turns
            after the system messages, and skips a conversation whose last turn alone is too long. "truncate" cuts the
            end off and adds no end token. "skip" skips them.

    Raises:
        Unusable: the template refuses the messages or changes what they say.
    """
    messages = conversation.messages
    rendered = template.render(messages, supervise)
    outcome: Outcome = "whole"
    if len(rendered.ids) - 1 > seq_len:
        if too_long == "truncate":
            rendered, outcome = Rendered(*(values[: seq_len + 1] for values in rendered)), "truncated"
        elif too_long == "drop_oldest":
            rendered, outcome = _without_oldest(template, messages, supervise, seq_len), "dropped"
        else:
            return Fitted(None, "skipped")
    # The first id is never a target.
    if len(rendered.ids) - 1 > seq_len or not rendered.turns[1:].any():
        return Fitted(None, "skipped")
    return Fitted(rendered, outcome)


def _without_oldest(
    template: ChatTemplate, messages: Sequence[Message], supervise: Supervise, seq_len: int
) -> Rendered:
    """The rendering after dropping as few of the oldest turns as possible; the last turn stays, even if too long."""
    roles = [message.role for message in messages]
    head = next((i for i, role in enumerate(roles) if role != SYSTEM), len(roles))
    later = (i for i in range(head + 1, len(roles)) if roles[i - 1] == ASSISTANT and roles[i] not in (ASSISTANT, TOOL))
    starts = [head, *later]

    def rendered(start: int) -> Rendered:
        return template.render([*messages[:head], *messages[start:]], supervise)

    # Fewer turns never make a longer rendering, so bisection finds the number to drop.
    n_dropped = bisect_left(starts[:-1], True, lo=1, key=lambda start: len(rendered(start).ids) - 1 <= seq_len)
    return rendered(starts[min(n_dropped, len(starts) - 1)])
