"""The input of a template: the shape of messages, which decides the template's own text, and their texts.

messages -> given_of -> Given(Shape, contents, ...) -> messages as a template reads them
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from babyllm.chat.jinja.syntax import FIRST_PLACE, Taken
from babyllm.chat.messages import ASSISTANT, SYSTEM, USER, Message

SAMPLES = (
    (Message(USER, "1"), Message(ASSISTANT, "2")),
    (Message(SYSTEM, "0"), Message(USER, "1"), Message(ASSISTANT, "2")),
)
"""Exchanges of which a template must render one."""


class Shape(NamedTuple):
    """The properties of a conversation that decide the template's own text around its messages.

    Attributes:
        roles: the role of each message.
        thinkers: numbers of the messages whose reasoning has its own placeholder; these follow those of the contents.
        tools: the functions that can be called, as a JSON list; empty for none.
        askers: numbers of the messages whose input has its own placeholder; these follow those of the thinkers.
    """

    roles: tuple[str, ...]
    thinkers: tuple[int, ...] = ()
    tools: str = ""
    askers: tuple[int, ...] = ()

    @property
    def speakers(self) -> tuple[int, ...]:
        """The number of the message that each placeholder belongs to."""
        return (*range(len(self.roles)), *self.thinkers, *self.askers)

    def messages(self, contents: Sequence[str]) -> list[dict[str, str]]:
        """The messages as a template reads them, with one of `contents` for each placeholder."""
        n = len(self.roles)
        messages = [{"role": role, "content": text} for role, text in zip(self.roles, contents[:n], strict=True)]
        if len(contents) == n:
            return messages
        names = ["reasoning_content"] * len(self.thinkers) + ["input"] * len(self.askers)
        for i, name, text in zip(self.speakers[n:], names, contents[n:], strict=True):
            messages[i][name] = text
        return messages


class Given(NamedTuple):
    """The input of a template.

    Attributes:
        shape: the shape of the messages.
        contents: the text for each placeholder.
        weights: the weight of each message, 0 or 1.
        cut: whether the end of each message was cut off.
    """

    shape: Shape
    contents: list[str]
    weights: list[int]
    cut: list[bool]


def given_of(messages: Sequence[Message], weights: Sequence[int], taken: Taken) -> Given:
    """The input of a template for these messages; fields that the template does not know are written into contents.

    Args:
        messages: the messages of a conversation.
        weights: the weight of each message, 0 or 1.
        taken: the fields that the template knows.
    """
    spelled = [message.spelled_out(not taken.reasoning, not taken.tools) for message in messages]
    given = list(zip(spelled, weights, strict=True))
    tools = next((message.tools for message, _ in given if message.tools), "")
    # An empty system message only carries tools, which the template reads separately.
    given = [(message, weight) for message, weight in given if message.content or not message.tools]
    thinkers = tuple(i for i, (message, _) in enumerate(given) if message.reasoning)
    askers = tuple(i for i, (message, _) in enumerate(given) if message.input) if taken.inputs else ()
    contents = [message.content for message, _ in given] + [given[i][0].reasoning for i in thinkers]
    for i in askers:
        contents[i] = given[i][0].instruction
        contents.append(given[i][0].input)
    shape = Shape(tuple(message.role for message, _ in given), thinkers, tools, askers)
    return Given(shape, contents, [weight for _, weight in given], [message.is_cut for message, _ in given])


def last_place(shape: Shape, last: Message) -> tuple[int, str]:
    """The number of the placeholder of what the last message says, and its text.

    That is its content or, if it has reasoning alone, which the template renders separately, its reasoning.

    Args:
        shape: the shape of the messages.
        last: the last message.
    """
    number = len(shape.roles) - 1
    if last.reasoning and not last.content and number in shape.thinkers:
        return len(shape.roles) + shape.thinkers.index(number), last.reasoning
    return number, last.content


def filled(marked: str, contents: Sequence[str]) -> str:
    """A rendering with the messages' texts in the placeholders."""
    return marked.translate(dict(enumerate(contents, ord(FIRST_PLACE))))
