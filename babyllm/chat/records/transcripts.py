"""Texts that hold a conversation: marks such as `Human:` or `<|im_start|>user` name the speakers.

text -> the first of STYLES whose mark begins it -> [(role, content), ...]; None if no style matches
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import NamedTuple

from babyllm.chat.built_in import ALPACA_HEAD, ALPACA_HEAD_WITH_INPUT
from babyllm.chat.messages import ASSISTANT, SYSTEM, USER, Message, Unusable

_SPEAKERS = "Human|User|Assistant|用户|助手"
# Markup that may precede a conversation or separate its messages, and is not part of them.
_FRAME = re.compile(r"\s*(?:(?:<s>|</s>|<bos>|<\|begin_of_text\|>|<\|endoftext\|>|\[gMASK\]|<sop>|</?chat>)\s*)*")
_MAY_BEGIN = re.compile(rf"\s*(?:[<\[#]|Below is an |{_SPEAKERS})", re.IGNORECASE)
_SYSTEM_OF_LLAMA2 = re.compile(r"\s*<<SYS>>\n?(.*?)\n?<</SYS>>\s*", re.DOTALL)
_ROLES = {"[inst]": USER, "[/inst]": ASSISTANT, "instruction": USER, "response": ASSISTANT, "input": "input"}


class _Style(NamedTuple):
    """How a text marks its speakers.

    Attributes:
        mark: pattern before a message; its group is the speaker.
        end: pattern after a message; None if there is none.
        is_exact: whether blanks around a message belong to it.
        is_plain: whether the marks are ordinary words, which count as marks only if speakers take turns.
    """

    mark: re.Pattern[str]
    end: re.Pattern[str] | None
    is_exact: bool = False
    is_plain: bool = False


def _style(mark: str, end: str = "", *, is_exact: bool = False, is_plain: bool = False) -> _Style:
    flags = re.IGNORECASE | re.MULTILINE
    return _Style(re.compile(mark, flags), re.compile(end) if end else None, is_exact, is_plain)


STYLES = (
    _style(r"<\|im_start\|>([^\n<]+)\n", r"<\|im_end\|>", is_exact=True),
    _style(r"<\|start_header_id\|>([^\n<]+)<\|end_header_id\|>\n\n", r"<\|eot_id\|>", is_exact=True),
    _style(r"<start_of_turn>(\w+)\n", r"<end_of_turn>", is_exact=True),
    _style(r"(\[/?INST\])", r"</s>"),
    _style(r"<\|(Human|MOSS)\|>:", r"<eo[hma]>"),
    _style(r"\[(Human|MOSS)\]:", r"<eo[hma]>"),
    _style(r"<\|(system|user|assistant|observation)\|>\n?", r"</s>|<\|end\|>|<\|endoftext\|>"),
    _style(r"<(user|assistant) ?\d+>\s*[:：]?"),  # as Chinese texts write it
    _style(r"^### ?(Human|User|Assistant|System|Instruction|Input|Response)\s*[:：]", r"</s>", is_plain=True),
    _style(rf"(?:^|<s>)({_SPEAKERS})\s*[:：]", r"</s>", is_plain=True),
)


def spoken_in(text: str, name: str) -> list[Message] | None:
    """The messages in a text, with its own names of roles; None if it is not a conversation.

    Args:
        text: a text that may begin with a mark of a speaker.
        name: the name of its field, for messages.

    Raises:
        Unusable: the text has the marks of a style, but what they separate is not a conversation.
    """
    if not _MAY_BEGIN.match(text):
        return None  # the common case
    for head in (ALPACA_HEAD, ALPACA_HEAD_WITH_INPUT):
        text = text.removeprefix(head)
    start = _FRAME.match(text)
    text = text[start.end() :] if start else text
    style = next((style for style in STYLES if style.mark.match(text)), None)
    if style is None:
        return None
    _, *parts = style.mark.split(text)
    roles = [_ROLES.get(role.strip().lower(), role.strip()) for role in parts[::2]]
    if style.is_plain and len({role for role in roles if role != "input"}) < 2:
        return None  # a single speaker does not make a conversation
    messages = [Message(role, _said(part, style, name)) for role, part in zip(roles, parts[1::2], strict=True)]
    messages = _joined(messages, name)
    if not style.is_exact:  # in exact styles calls of tools may follow each other
        _require_turns(messages, name)
    return messages


def asked_in(text: str, name: str) -> list[Message] | None:
    """The messages of a text that ends where an answer is expected; None without a question and a mark after it.

    Raises:
        Unusable: the text has the marks of a style, but is not a conversation, or ends with an answer of its own.
    """
    messages = spoken_in(text, name)
    if messages is None or len(messages) < 2:
        return None
    if is_answer(messages[-1].role):
        if messages[-1].content.strip():
            raise Unusable(f"the text of the field {name} ends with an answer, and the record has another")
        messages.pop()
    return messages


def is_answer(role: str) -> bool:
    """Whether the speaker in a mark is the assistant."""
    return role.lower() in (ASSISTANT, "moss", "model", "gpt", "助手")


def _said(part: str, style: _Style, name: str) -> str:
    """The message after a mark, without its end mark."""
    if style.end and (found := style.end.search(part)):
        rest = part[found.end() :]
        between = _FRAME.match(rest)
        if between and between.end() < len(rest):
            raise Unusable(f"the text of the field {name} has words that nobody says")
        part = part[: found.start()]
    if style.is_exact:
        return part
    return part.removesuffix("<s>").strip()


def _joined(messages: list[Message], name: str) -> list[Message]:
    """The messages, with Alpaca's input added to its question and Llama 2's system text as a separate message."""
    done: list[Message] = []
    for message in messages:
        system = _SYSTEM_OF_LLAMA2.match(message.content) if not done else None
        if system:
            done.append(Message(SYSTEM, system[1]))
            message = Message(message.role, message.content[system.end() :])
        if message.role == "input":
            if not done or done[-1].role != USER:
                raise Unusable(f"the text of the field {name} has an input without an instruction")
            message = done.pop().with_input(message.content)
        done.append(message)
    return done


def _require_turns(messages: list[Message], name: str) -> None:
    roles = [message.role for message in messages]
    turns = [is_answer(role) for role in roles if role.lower() not in (SYSTEM, "tool", "observation", "ipython")]
    if any(turns[:1]) or any(a == b for a, b in pairwise(turns)):
        raise Unusable(f"the speakers in the text of the field {name} do not take turns")
