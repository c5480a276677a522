"""Limits of tokens for prompts and answers: a longer one is cut at one side, or its conversation is skipped.

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
        max_prompt: largest number of tokens in a message that is not the assistant's; None for no limit.
        max_answer: largest number of tokens in a message of the assistant; None for no limit.
        cut_prompt: side at which a longer prompt is cut; "skip" leaves its conversation out.
        cut_answer: side at which a longer answer is cut; "skip" leaves its conversation out.
    """

    max_prompt: int | None = None
    max_answer: int | None = None
    cut_prompt: Cut = "left"
    cut_answer: Cut = "right"


class Limited(NamedTuple):
    """A conversation within its limits.

    Attributes:
        conversation: the conversation with shortened messages.
        cuts: a text for each message that was cut, with its kind and its limit.
    """

    conversation: Conversation
    cuts: tuple[str, ...] = ()


def limited(conversation: Conversation, limits: MessageLimits, tokenizer: Tokenizer) -> Limited:
    """A conversation whose messages are within their limits.

    Only the tokens of the message count, without those that a template adds. In an answer the reasoning counts too,
    but it is not cut. An answer whose end was cut off is trained without its end token.

    Raises:
        Unusable: a message is too long and its limit says "skip", or its reasoning alone exceeds the limit.
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
    # A token has at least one byte, so a text of few bytes need not be encoded.
    return len(text.encode()) > most and len(tokenizer.encode(text)) > most


def _shorter(message: Message, kind: str, most: int, cut: Cut, tokenizer: Tokenizer) -> Message:
    if cut == "skip":
        raise Unusable(f"{_with_article(kind)} longer than max_{kind} {most}")
    before = message.spelled_out(tools=False).content.removesuffix(message.content)
    room = most - len(tokenizer.encode(before)) if before else most
    content = _part(message.content, room, cut, tokenizer) if room > 0 else ""
    if kind == "answer" and not content.strip():
        raise Unusable(f"the reasoning of an answer leaves no room for it in max_answer {most}")
    # Calls are spelled out in the content. What a cut has left of it is plain text.
    message = replace(message, tool_calls=(), beside_calls="")
    # The input is the end of the content. A cut may have left only a part of it, or nothing.
    if cut == "right":
        return replace(message, content=content, input=content[len(message.instruction) + 1 :], is_cut=True)
    return replace(message, content=content, input=message.input if len(content) > len(message.input) + 1 else "")


def _part(text: str, most: int, cut: Cut, tokenizer: Tokenizer) -> str:
    """The beginning or the end of a text, of at most `most` tokens."""
    ids = tokenizer.encode(text)
    for n in range(most, 0, -1):
        kept = ids[:n] if cut == "right" else ids[-n:]
        # A token may hold part of a character, and the rest may be encoded as other tokens.
        part = b"".join(map(tokenizer.token_bytes, kept)).decode("utf-8", "ignore")
        if not _is_longer(part, most, tokenizer):
            return part
    return ""


def _with_article(kind: str) -> str:
    return f"{'an' if kind == 'answer' else 'a'} {kind}"
