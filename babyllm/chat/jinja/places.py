"""What a template gets of messages: their shape, which decides its own text, and what people say in its places.

messages -> given_of -> Given(Shape, contents, ...) -> messages as a template knows them
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from babyllm.chat.jinja.syntax import Taken
from babyllm.chat.messages import Message


class Shape(NamedTuple):
    """What decides the template's own text around what messages say.

    Attributes:
        roles: of the messages.
        thinkers: numbers of the messages whose reasoning has a place of its own; their places follow the contents'.
        tools: that are offered, as a JSON list; empty for none.
        askers: numbers of the messages whose input has a place of its own; their places follow the thinkers'.
    """

    roles: tuple[str, ...]
    thinkers: tuple[int, ...] = ()
    tools: str = ""
    askers: tuple[int, ...] = ()

    @property
    def speakers(self) -> tuple[int, ...]:
        """The number of the message that speaks in each place."""
        return (*range(len(self.roles)), *self.thinkers, *self.askers)

    def messages(self, contents: Sequence[str]) -> list[dict[str, str]]:
        """The messages as a template gets them, with these contents in their places."""
        n = len(self.roles)
        messages = [{"role": role, "content": text} for role, text in zip(self.roles, contents[:n], strict=True)]
        if len(contents) == n:
            return messages
        names = ["reasoning_content"] * len(self.thinkers) + ["input"] * len(self.askers)
        for i, name, text in zip(self.speakers[n:], names, contents[n:], strict=True):
            messages[i][name] = text
        return messages


class Given(NamedTuple):
    """What a template gets.

    Attributes:
        shape: of the messages.
        contents: what stands in the places.
        weights: of the messages.
        cut: whether the end of each message was cut off.
    """

    shape: Shape
    contents: list[str]
    weights: list[int]
    cut: list[bool]


def given_of(messages: Sequence[Message], weights: Sequence[int], taken: Taken) -> Given:
    """What a template gets of messages; what it has no field for becomes a part of contents.

    Args:
        messages: of a conversation.
        weights: of the messages.
        taken: the fields that the template has.
    """
    spelled = [message.spelled_out(not taken.reasoning, not taken.tools) for message in messages]
    given = list(zip(spelled, weights, strict=True))
    tools = next((message.tools for message, _ in given if message.tools), "")
    # A system that says nothing is there for its tools, which the template gets as such.
    given = [(message, weight) for message, weight in given if message.content or not message.tools]
    thinkers = tuple(i for i, (message, _) in enumerate(given) if message.reasoning)
    askers = tuple(i for i, (message, _) in enumerate(given) if message.input) if taken.inputs else ()
    contents = [message.content for message, _ in given] + [given[i][0].reasoning for i in thinkers]
    for i in askers:
        contents[i] = given[i][0].instruction
        contents.append(given[i][0].input)
    shape = Shape(tuple(message.role for message, _ in given), thinkers, tools, askers)
    return Given(shape, contents, [weight for _, weight in given], [message.is_cut for message, _ in given])
