"""The items that a recipe begins with, by the kind of its source."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from babyllm.chat.formats import FormatConfig
from babyllm.chat.messages import ASSISTANT, USER
from babyllm.chat.reading import find_conversation_partitions
from babyllm.chat_corpus.chat_records import read_records, to_any
from babyllm.errors import UserError
from babyllm.synthesis.made_items import Item, draw
from babyllm.synthesis.recipe import Language, Recipe
from babyllm.synthesis.rules.json_schema import unchecked
from babyllm.synthesis.sources.corpus_topics import topics_of
from babyllm.synthesis.sources.task_catalogue import built_in, read_catalogue, task_items
from babyllm.text.readers import ReadConfig, Rejected, find_partitions, read_partition

PASSAGE = 1500  # characters of a document that a prompt shows, unless the option `passage` says otherwise


@dataclass(frozen=True)
class Inputs:
    """What a recipe is given.

    Attributes:
        files: files and folders.
        topics: topics in place of those of documents.
        n: number of items; None takes all inputs, or one item for each task, topic or tool.
        language: language of the recipe.
        seed: seed of the draw.
        format: fields of the records.
        options: values of the recipe's options.
    """

    files: Sequence[Path]
    topics: Sequence[str]
    n: int | None
    language: Language
    seed: int
    format: FormatConfig
    options: Mapping[str, Any]


@dataclass
class Found:
    """The items of a recipe's inputs.

    Attributes:
        items: items, in the order of the inputs.
        rest: records that were not drawn.
        unread: reasons why inputs could not be read, with the place of each.
    """

    items: list[Item]
    rest: list[Mapping[str, Any]] = field(default_factory=list)
    unread: list[Rejected] = field(default_factory=list)


def items_of(recipe: Recipe, inputs: Inputs) -> Found:
    """The items that a recipe begins with.

    Raises:
        UserError: the inputs are missing, cannot be read or hold nothing.
    """
    found = _SOURCES[recipe.source](inputs)
    if not found.items:
        why = f"; the first was refused: {found.unread[0].reason}" if found.unread else ""
        raise UserError(f"--inputs: hold nothing that {recipe.name} can use{why}")
    defaults = {
        name: value[inputs.language] if isinstance(value, dict) and inputs.language in value else value
        for name, value in recipe.defaults.items()
    }
    found.items = [replace(item, values={**defaults, **item.values}) for item in found.items]
    return found


def _prompts(inputs: Inputs) -> Found:
    """Records with a prompt: the last question, what was said before it, and the answer if there is one."""
    found, records = Found([]), []
    for partition in find_conversation_partitions(_needed(inputs), sys.maxsize):
        for one in read_records(partition, inputs.format, to_any):
            if isinstance(one, Rejected):
                found.unread.append(one)
                continue
            messages = [{"role": m.role, "content": m.content} for m in one.conversation.messages]
            answer = messages.pop()["content"] if messages and messages[-1]["role"] == ASSISTANT else ""
            questions = [message["content"] for message in messages if message["role"] == USER]
            if not questions:
                found.unread.append(Rejected(one.conversation.id, "no question of a user", ""))
                continue
            texts = {name: value for name, value in one.fields.items() if isinstance(value, str)}
            values: dict[str, Any] = {**texts, "messages": messages, "prompt": questions[-1]}
            values |= {"asked": "\n".join(m["content"] for m in messages), "answer": answer, "given": answer}
            parent = str(one.fields.get("id") or one.conversation.id)
            item = Item(one.conversation.id, {"task": one.conversation.task, **values}, (parent,))
            records.append((item, one.fields))
    drawn = _drawn(len(records), inputs)
    found.items = [records[i][0] for i in drawn]
    left = set(range(len(records))) - set(drawn)
    found.rest = [records[i][1] for i in sorted(left)]
    return found


def _documents(inputs: Inputs) -> Found:
    found, read = Found([]), ReadConfig()
    length = int(inputs.options.get("passage", PASSAGE))
    passages = []
    for partition in find_partitions(_needed(inputs), read, sys.maxsize):
        for one in read_partition(partition, read):
            if isinstance(one, Rejected):
                found.unread.append(one)
                continue
            for number, text in enumerate(passages_of(one.text, length)):
                passages.append(Item(f"{one.id}:{number}", {"document": text, "task": one.domain}, (str(one.id),)))
    found.items = [passages[i] for i in _drawn(len(passages), inputs)]
    return found


def passages_of(text: str, length: int) -> Iterator[str]:
    """A text in passages of at most so many characters, which end at a line or a sentence where there is one."""
    text = text.strip()
    while text:
        end = len(text)
        if end > length:
            ends = [text.rfind(mark, length // 2, length) for mark in ("\n", "。", ". ")]
            end = next((place + 1 for place in ends if place > 0), length)
        yield text[:end].strip()
        text = text[end:].strip()


def _tasks(inputs: Inputs) -> Found:
    tasks = [task for file in inputs.files for task in read_catalogue(file)] or built_in()
    only = str(inputs.options.get("only") or "")
    tasks = [task for task in tasks if task.name.startswith(only)]
    return Found(task_items(tasks, inputs.n, inputs.language, inputs.seed, int(inputs.options.get("shown", 3))))


def _topics(inputs: Inputs) -> Found:
    if inputs.topics:
        items = [Item(f"topic-{i}", {"topic": topic}, (topic,)) for i, topic in enumerate(inputs.topics)]
        return Found(items[: inputs.n])
    every = _documents(Inputs(**{**vars(inputs), "n": None}))
    return Found(topics_of(every.items, inputs.n, inputs.seed), [], every.unread)


def _tools(inputs: Inputs) -> Found:
    files = [(str(file), _text(file)) for file in inputs.files]
    tools = [tool for name, text in files for tool in _read_tools(name, text)] or _built_in_tools(inputs.language)
    several = int(inputs.options.get("offered", 3))
    items = []
    for i in range(inputs.n or len(tools)):
        tool = tools[i % len(tools)]
        others = [other for other in tools if other is not tool]
        others = sorted(others, key=lambda one: draw(inputs.seed, "tools", i, one["function"]["name"]))[: several - 1]
        offered = sorted([tool, *others], key=lambda one: draw(inputs.seed, "order", i, one["function"]["name"]))
        name = tool["function"]["name"]
        values = {"tool": tool, "tool_name": name, "tools": offered, "task": "tools"}
        items.append(Item(f"tool-{i}", values, (tool["function"]["name"],), sample=i // len(tools)))
    return Found(items)


def _read_tools(name: str, text: str) -> list[dict[str, Any]]:
    """The tools of a file: a JSON list of functions as OpenAI's API takes them, each with the schema of its arguments.

    Raises:
        UserError: the file holds something else, or a schema with a keyword that is not checked.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    tools = [tool if isinstance(tool, dict) and "function" in tool else {"function": tool} for tool in value or ()]
    if not tools or not isinstance(value, list):
        raise UserError(f"{name}: is not a JSON list of tools")
    for number, tool in enumerate(tools):
        function = tool["function"]
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise UserError(f"{name}: tool {number + 1} has no name")
        if wrong := unchecked(function.get("parameters", {})):
            raise UserError(f"{name}: the parameters of {function['name']} have {wrong}, which is not checked here")
    return [{"type": "function", "function": tool["function"]} for tool in tools]


def _built_in_tools(language: Language) -> list[dict[str, Any]]:
    from pkgutil import get_data

    name = f"recipes/tools.{language}.json"
    return _read_tools(name, (get_data("babyllm.synthesis", name) or b"").decode())


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise UserError(f"{file}: is not UTF-8 text") from None


def _needed(inputs: Inputs) -> Sequence[Path]:
    if not inputs.files:
        raise UserError("--inputs: is needed: the files that the recipe starts from")
    return inputs.files


def _drawn(n: int, inputs: Inputs) -> list[int]:
    """The numbers of the inputs that are drawn, in their order."""
    if inputs.n is None or inputs.n >= n:
        return list(range(n))
    return sorted(sorted(range(n), key=lambda i: draw(inputs.seed, "inputs", i))[: inputs.n])


_SOURCES: dict[str, Callable[[Inputs], Found]] = {
    "prompts": _prompts,
    "documents": _documents,
    "tasks": _tasks,
    "topics": _topics,
    "tools": _tools,
}
