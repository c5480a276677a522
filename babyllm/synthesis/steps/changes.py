"""Functions of items, for what a prompt cannot do: `do: NAME` in a recipe.

A function reads all items of a step in their order and yields each, changed or rejected.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from babyllm.synthesis.made_items import Item, Rejection, draw
from babyllm.synthesis.recipe import Language
from babyllm.synthesis.rules.checks import is_within

_DRAWS = 20  # draws for each distractor, some of which are texts that are there already
PLACES = ("beginning", "middle", "end")
_SPEAKERS = {"zh": {"user": "用户", "assistant": "助手"}, "en": {"user": "User", "assistant": "Assistant"}}


class Setting(NamedTuple):
    """What a function may know besides the items.

    Attributes:
        options: values of the recipe's options.
        seed: seed of all draws.
        step: name of the step.
        language: language of the recipe.
    """

    options: Mapping[str, Any]
    seed: int
    step: str
    language: Language


Change = Callable[[Sequence[Item], Setting], Iterator[Item | Rejection]]


def start_messages(items: Sequence[Item], setting: Setting) -> Iterator[Item | Rejection]:
    """The messages of each item: those of its input up to the last question, else its prompt alone."""
    for item in items:
        messages = item.values.get("messages") or [{"role": "user", "content": item.values["prompt"]}]
        yield item.with_values({"messages": messages, "turns": []})


def continue_messages(items: Sequence[Item], setting: Setting) -> Iterator[Item | Rejection]:
    """As `start_messages`, with the answer of the input where there is one."""
    for item in start_messages(items, setting):
        if isinstance(item, Item) and item.values.get("given"):
            said = {"role": "assistant", "content": item.values["given"]}
            item = item.with_values({"messages": [*item.values["messages"], said]})
        yield item


def pass_on(items: Sequence[Item], setting: Setting) -> Iterator[Item | Rejection]:
    """The items as they are, so that rules can be checked before anything is asked."""
    yield from items


def transcribe(items: Sequence[Item], setting: Setting) -> Iterator[Item | Rejection]:
    """The messages of each item as one text, `transcript`."""
    names, colon = _SPEAKERS[setting.language], "：" if setting.language == "zh" else ": "
    for item in items:
        said = [(message["role"], message["content"]) for message in item.values["messages"]]
        lines = [f"{names[role]}{colon}{content}" for role, content in said if role in names]
        yield item.with_values({"transcript": "\n\n".join(lines)})


def add_wish(items: Sequence[Item], setting: Setting) -> Iterator[Item | Rejection]:
    """The messages of each item, with the text `wish` after the last question."""
    for item in items:
        messages = list(item.values["messages"])
        last = max(i for i, message in enumerate(messages) if message["role"] == "user")
        messages[last] = {**messages[last], "content": f"{messages[last]['content']}\n{item.values['wish']}"}
        yield item.with_values({"messages": messages})


def note_turn(items: Sequence[Item], setting: Setting) -> Iterator[Item | Rejection]:
    """The list `turns` of each item, with the variant of its last step added."""
    for item in items:
        yield item.with_values({"turns": [*item.values["turns"], item.values["variant"]]})


def gather_context(items: Sequence[Item], setting: Setting) -> Iterator[Item | Rejection]:
    """The text `context` of each item: its document among `distractors` others, in an order that is drawn."""
    documents = [str(item.values["document"]) for item in items]
    n = int(setting.options.get("distractors", 0))
    for item in items:
        own = [str(item.values["document"])]
        for k in range(_DRAWS * n):
            other = documents[int(draw(setting.seed, setting.step, item.id, k) * len(documents))]
            if len(own) <= n and other not in own:
                own.append(other)
        chosen = sorted(own, key=lambda text: draw(setting.seed, setting.step, item.id, text))
        parts = [f"[{number}] {text}" for number, text in enumerate(chosen, 1)] if n else chosen
        yield item.with_values({"context": "\n\n".join(parts)})


def place_key(items: Sequence[Item], setting: Setting) -> Iterator[Item | Rejection]:
    """The text `context` of each item: long text with its key at the beginning, in the middle or at the end.

    The text is that of the item's document and, until it has `characters`, those of the items after it.
    """
    length = int(setting.options.get("characters", 4000))
    documents = [str(item.values["document"]) for item in items]
    for i, item in enumerate(items):
        place = PLACES[i % len(PLACES)]
        paragraphs: list[str] = []
        size = 0
        for j in range(len(items)):
            own = [part for part in documents[(i + j) % len(items)].split("\n") if part.strip()]
            paragraphs += own
            size += sum(map(len, own))
            if size >= length:
                break
        key = str(item.values["key"])
        if any(is_within(str(item.values["answer"]), part) for part in paragraphs):
            yield Rejection(item, setting.step, "answer is in the text without the key")
            continue
        while size > length and len(paragraphs) > 1:
            size -= len(paragraphs.pop())
        at = {"beginning": 0, "middle": (len(paragraphs) + 1) // 2, "end": len(paragraphs)}[place]
        yield item.with_values({"context": "\n".join([*paragraphs[:at], key, *paragraphs[at:]]), "place": place})


def best_and_worst(items: Sequence[Item], setting: Setting) -> Iterator[Item | Rejection]:
    """One item of those with one origin: the answers with the highest and lowest `score` as chosen and rejected."""
    groups: dict[str, list[Item]] = {}
    for item in items:
        groups.setdefault(item.values.get("origin", item.id), []).append(item)
    least = setting.options.get("margin", 1)
    for name, group in groups.items():
        best = max(group, key=lambda one: one.values["score"])
        worst = min(group, key=lambda one: one.values["score"])
        models = tuple(model for one in group for model in one.models)
        joined = replace(best, id=name, cost=sum(one.cost for one in group), models=models)
        margin = best.values["score"] - worst.values["score"]
        if len(group) < 2:
            yield Rejection(joined, setting.step, "fewer than two answers")
        elif margin < least:
            yield Rejection(joined, setting.step, "answers of equal worth", f"scores {margin} apart")
        else:
            found = {"chosen": best.values["answer"], "rejected": worst.values["answer"], "margin": margin}
            yield joined.with_values(found)


def ground_triples(items: Sequence[Item], setting: Setting) -> Iterator[Item | Rejection]:
    """The triples of each item whose subject and object occur in its document, each once, and as JSON in `answer`."""
    for item in items:
        kept = []
        for one in item.values["triples"]:
            triple = {name: one[name].strip() for name in ("subject", "relation", "object")}
            ends = (triple["subject"], triple["object"])
            if all(is_within(end, item.values["document"]) for end in ends) and triple not in kept:
                kept.append(triple)
        if kept:
            yield item.with_values({"triples": kept, "answer": json.dumps(kept, ensure_ascii=False)})
        else:
            yield Rejection(item, setting.step, "no triple is in the document")


def call_tool(items: Sequence[Item], setting: Setting) -> Iterator[Item | Rejection]:
    """The messages of each item: the request, the call and its result; the request alone where no tool is called."""
    for item in items:
        messages: list[dict[str, Any]] = [{"role": "user", "content": item.values["request"]}]
        if not item.values.get("no_call"):
            call = item.values["call"]
            arguments = json.dumps(call["arguments"], ensure_ascii=False)
            function = {"name": call["name"], "arguments": arguments}
            called = {"id": "call_1", "type": "function", "function": function}
            messages.append({"role": "assistant", "content": "", "tool_calls": [called]})
            result = json.dumps(item.values["result"], ensure_ascii=False)
            messages.append({"role": "tool", "tool_call_id": "call_1", "content": result})
        yield item.with_values({"messages": [*messages, {"role": "assistant", "content": item.values["answer"]}]})


CHANGES: dict[str, Change] = {
    "pass_on": pass_on,
    "start_messages": start_messages,
    "continue_messages": continue_messages,
    "transcribe": transcribe,
    "add_wish": add_wish,
    "note_turn": note_turn,
    "gather_context": gather_context,
    "place_key": place_key,
    "best_and_worst": best_and_worst,
    "ground_triples": ground_triples,
    "call_tool": call_tool,
}
