"""The input of a template: the shape of messages, which decides the template's own text, and their texts.

messages -> given_of -> Given(Shape, contents, ...) -> messages as a template reads them
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from babyllm.chat.jinja.syntax import FIRST_PLACE, Taken
from babyllm.chat.messages import ASSISTANT, SYSTEM, TOOL, USER, Message, ToolCall

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
        calls: the number of each message with calls, and its calls as a JSON list. Each has a placeholder for an empty
            text before the names of its functions, after those of the askers, which shows whose calls these are.
        results: the number of each message that says which call it answers, and the id of that call.
        silent: numbers of the messages whose content is empty, which have no placeholder for it.
    """

    roles: tuple[str, ...]
    thinkers: tuple[int, ...] = ()
    tools: str = ""
    askers: tuple[int, ...] = ()
    calls: tuple[tuple[int, str], ...] = ()
    results: tuple[tuple[int, str], ...] = ()
    silent: tuple[int, ...] = ()

    @property
    def speakers(self) -> tuple[int, ...]:
        """The number of the message that each placeholder belongs to."""
        return (*range(len(self.roles)), *self.thinkers, *self.askers, *(i for i, _ in self.calls))

    @property
    def n_characters(self) -> int:
        """The number of characters in tools and calls."""
        return len(self.tools) + sum(len(calls) for _, calls in self.calls)

    def messages(self, contents: Sequence[str], say: Callable[[str], str] = str) -> list[dict[str, Any]]:
        """The messages as a template reads them, with one of `contents` for each placeholder.

        Args:
            contents: a text for each placeholder.
            say: function that returns the form of a text in calls that the template reads.
        """
        n = len(self.roles)
        messages: list[dict[str, Any]] = [
            {"role": role, "content": text} for role, text in zip(self.roles, contents[:n], strict=True)
        ]
        if len(contents) == n and not self.results:
            return messages
        names = ["reasoning_content"] * len(self.thinkers) + ["input"] * len(self.askers)
        for i, name, text in zip(self.speakers[n:], names, contents[n:], strict=False):
            messages[i][name] = text
        for (i, calls), before in zip(self.calls, contents[n + len(names) :], strict=True):
            messages[i]["tool_calls"] = made = said(json.loads(calls), say)
            for call in made:
                call["function"]["name"] = before + call["function"]["name"]
        for i, call_id in self.results:
            messages[i]["tool_call_id"] = say(call_id)
        return messages

    def offered(self, say: Callable[[str], str] = str) -> list[Any] | None:
        """The functions that can be called, as a template reads them; arguments as for `messages`."""
        return [said(_in_full(tool), say) for tool in json.loads(self.tools)] if self.tools else None


def said(value: Any, say: Callable[[str], str]) -> Any:
    """A value of JSON with each of its texts in another form.

    Args:
        value: the value, which may be changed.
        say: function that returns the other form of a text.
    """
    if say is str:
        return value
    if isinstance(value, str):
        return say(value)
    if isinstance(value, list):
        return [said(item, say) for item in value]
    if isinstance(value, dict):
        return {say(key): said(item, say) for key, item in value.items()}
    return value


def _in_full(tool: Any) -> Any:
    """A function in the form that templates expect, which some data shortens."""
    if isinstance(tool, dict) and isinstance(tool.get("name"), str) and not {"type", "function"} & tool.keys():
        return {"type": "function", "function": tool}
    return tool


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
    spelled = [message.spelled_out(not taken.reasoning, not taken.tools, not taken.calls) for message in messages]
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
    if taken.calls:
        shape = _with_calls(shape, [message for message, _ in given], contents)
    return Given(shape, contents, [weight for _, weight in given], [message.is_cut for message, _ in given])


def _with_calls(shape: Shape, messages: Sequence[Message], contents: list[str]) -> Shape:
    """The shape with the calls of messages, whose spelling is left out of `contents`."""
    callers = [i for i, message in enumerate(messages) if message.tool_calls]
    for i in callers:
        contents[i] = messages[i].beside_calls
        contents.append("")
    return shape._replace(
        calls=tuple((i, json.dumps(list(map(_call, messages[i].tool_calls)), ensure_ascii=False)) for i in callers),
        results=tuple((i, message.call_id) for i, message in enumerate(messages) if message.call_id),
        silent=tuple(i for i in callers if not contents[i]),
    )


def _call(call: ToolCall) -> dict[str, Any]:
    """A call in the form that templates expect."""
    named = {"id": call.id} if call.id else {}
    return {**named, "type": "function", "function": {"name": call.name, "arguments": call.values}}


def variants(given: Given) -> Iterator[list[str]]:
    """The texts for placeholders as templates may print them: as they are, stripped, results of tools as JSON."""
    yield given.contents
    stripped = [content.strip() for content in given.contents]
    yield stripped
    results = [i for i, role in enumerate(given.shape.roles) if role == TOOL]
    for texts in (given.contents, stripped) if results else ():
        quoted = list(texts)
        for i in results:
            quoted[i] = json.dumps(texts[i], ensure_ascii=False)[1:-1]
        yield quoted


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
