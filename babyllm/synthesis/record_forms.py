"""Items as records, in forms that `babyllm sft` and `babyllm dpo` read, each with where it is from and what it cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from babyllm.chat.messages import USER
from babyllm.synthesis.made_items import Item, Rejection
from babyllm.synthesis.recipe import Language, Recipe
from babyllm.synthesis.steps.prompt_texts import rendered, value_in
from babyllm.synthesis.steps.reply_texts import Unreadable, check_characters
from babyllm.text.readers import Rejected

STEP = "record"
_EXCERPT = 2000  # characters of a text in `rejected.jsonl`


def record_of(item: Item, recipe: Recipe, language: Language, options: Mapping[str, Any], is_priced: bool) -> Any:
    """The record of an item as a JSON value, or the rejection of an item that holds control characters.

    Args:
        item: item after all steps.
        recipe: recipe with the form.
        language: language of the record.
        options: values of the recipe's options.
        is_priced: whether the cost is known.

    Raises:
        UserError: the form names a value that the item lacks.
    """
    form, values, where = recipe.record, {**options, **item.values}, f"{recipe.name}: {STEP}"
    found: dict[str, Any] = {"id": item.id}
    if form.messages is not None:
        messages = value_in(form.messages, values, where)
        found["messages"] = [_trimmed(message) for message in messages]
    else:
        found["prompt"] = _prompt(value_in(form.prompt, values, where))
        parts = {"chosen": form.chosen, "rejected": form.rejected}
        found |= {name: rendered(str(text), values, where).strip() for name, text in parts.items()}
    found |= {"task": values.get("task", recipe.name), **value_in(dict(form.fields), values, where)}
    found |= {"recipe": recipe.name, "language": language, "model": ", ".join(dict.fromkeys(item.models))}
    found |= {"parents": list(item.parents), "cost": round(item.cost, 10) if is_priced else None}
    try:
        for text in _texts(found):
            check_characters(text)
    except Unreadable as why:
        return Rejection(item, STEP, str(why), why.detail)
    return found


def rejected_line(rejection: Rejection, is_priced: bool) -> dict[str, Any]:
    """A rejection as a line of `rejected.jsonl`, with the beginnings of long texts."""
    item = rejection.item
    texts = {name: _cut(value) for name, value in item.values.items() if isinstance(value, str)}
    found: dict[str, Any] = {"id": item.id, "step": rejection.step, "reason": rejection.reason}
    found |= {"detail": rejection.detail} if rejection.detail else {}
    found |= {"text": _cut(rejection.text)} if rejection.text else {}
    found |= {"values": texts, "model": ", ".join(dict.fromkeys(item.models)), "parents": list(item.parents)}
    return found | {"cost": round(item.cost, 10) if is_priced else None}


def unread_line(one: Rejected) -> dict[str, Any]:
    """An input that cannot be read as a line of `rejected.jsonl`."""
    return {"id": one.place, "step": "inputs", "reason": one.reason, "parents": [one.place], "cost": 0.0}


def _trimmed(message: Any) -> Any:
    content = message.get("content") if isinstance(message, dict) else None
    return {**message, "content": content.strip()} if isinstance(content, str) else message


def _prompt(value: Any) -> Any:
    """The prompt of a pair: a text where it is one question alone, else all its messages."""
    if not isinstance(value, list):
        return str(value).strip()
    messages = [_trimmed(message) for message in value]
    is_question = len(messages) == 1 and messages[0].get("role") == USER
    return messages[0]["content"] if is_question else messages


def _cut(text: str) -> str:
    return text if len(text) <= _EXCERPT else f"{text[:_EXCERPT]}… ({len(text):,} characters)"


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, dict)):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _texts(one)
