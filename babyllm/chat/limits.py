"""Prompts and answers of at most so many tokens: longer ones are cut at one side, or their conversation is left out.

Conversation -> limited -> Limited(Conversation, names of the limits that cut something)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from babyllm.chat.messages import ASSISTANT, Conversation, Message, Unusable
from babyllm.tokenizer import Tokenizer

Cut = Literal["left", "right", "skip"]


@dataclass(frozen=True)
class MessageLimits:
    """How long a message may be.

    Attributes:
        max_prompt: most tokens of what anybody but the assistant says in a message; None for no limit.
        max_answer: most tokens of what the assistant says in one; None for no limit.
        cut_prompt: where a longer prompt is cut, or that its conversation is left out.
        cut_answer: where a longer answer is cut, or that its conversation is left out.
    """

    max_prompt: int | None = None
    max_answer: int | None = None
    cut_prompt: Cut = "left"
    cut_answer: Cut = "right"


class Limited(NamedTuple):
    """A conversation within its limits.

    Attributes:
        conversation: with shorter messages.
        cuts: what was cut and to what length, once for each message that was.
    """

    conversation: Conversation
    cuts: tuple[str, ...] = ()


def limited(conversation: Conversation, limits: MessageLimits, tokenizer: Tokenizer) -> Limited:
    """A conversation whose messages are no longer than they may be.

    The tokens are those of the message alone, without what a template puts around it; of an answer its reasoning counts
    too, and is not cut. An answer whose end was cut off is not taught to end there.

    Raises:
        Unusable: a message is longer, and is not to be cut or cannot be.
    """
    if limits.max_prompt is None and limits.max_answer is None:
        return Limited(conversation)
    cuts: list[str] = []
    messages = []
    for message in conversation.messages:
        kind = "answer" if message.role == ASSISTANT else "prompt"
        most: int | None = getattr(limits, f"max_{kind}")
        if most is not None and _is_longer(message.spelled_out(tools=False).content, most, tokenizer):
            message = _shorter(message, kind, most, getattr(limits, f"cut_{kind}"), tokenizer)
            cuts.append(f"{kind} cut to max_{kind} {most}")
        messages.append(message)
    return Limited(replace(conversation, messages=tuple(messages)), tuple(cuts))


def _is_longer(text: str, most: int, tokenizer: Tokenizer) -> bool:
    # A token is at least a byte.
    return len(text.encode()) > most and len(tokenizer.encode(text)) > most


def _shorter(message: Message, kind: str, most: int, cut: Cut, tokenizer: Tokenizer) -> Message:
    if cut == "skip":
        raise Unusable(f"{_with_article(kind)} longer than max_{kind} {most}")
    before = message.spelled_out(tools=False).content.removesuffix(message.content)
    room = most - len(tokenizer.encode(before)) if before else most
    content = _part(message.content, room, cut, tokenizer) if room > 0 else ""
    if kind == "answer" and not content.strip():
        raise Unusable(f"the reasoning of an answer leaves no room for it in max_answer {most}")
    # The input is the end of the content, of which a cut may have left a part or nothing.
    if cut == "right":
        return replace(message, content=content, input=content[len(message.instruction) + 1 :], is_cut=True)
    return replace(message, content=content, input=message.input if len(content) > len(message.input) + 1 else "")


def _part(text: str, most: int, cut: Cut, tokenizer: Tokenizer) -> str:
    """The beginning or the end of a text, of at most so many tokens."""
    ids = tokenizer.encode(text)
    for n in range(most, 0, -1):
        kept = ids[:n] if cut == "right" else ids[-n:]
        # A token may hold part of a character, and what is left may be parted into other tokens.
        part = b"".join(map(tokenizer.token_bytes, kept)).decode("utf-8", "ignore")
        if not _is_longer(part, most, tokenizer):
            return part
    return ""


def _with_article(kind: str) -> str:
    return f"{'an' if kind == 'answer' else 'a'} {kind}"
