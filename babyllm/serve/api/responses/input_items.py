"""The messages that a kept response answers, as items, a page of them at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from babyllm.chat.messages import ASSISTANT, TOOL, Message
from babyllm.serve.api.problem import Problem
from babyllm.serve.api.responses.response_store import StoredResponse

Json = dict[str, Any]
PREFIX = {"message": "msg", "reasoning": "rs", "function_call": "fc", "function_call_output": "fco"}
MAX_ITEMS, N_ITEMS = 100, 20
ORDERS = ("asc", "desc")


def input_items(stored: StoredResponse, query: Mapping[str, str]) -> Json:
    """The list of items of GET /v1/responses/ID/input_items.

    Args:
        stored: the response; its last message is the answer.
        query: `limit` (1 to 100, 20 unless given), `order` (asc or desc, desc unless given), `after` (an item's id).

    Raises:
        Problem: one of them is not valid.
    """
    name = stored.id.rpartition("_")[2]
    items = [
        {"id": f"{PREFIX[item['type']]}_{name}_{number}", **item, "status": "completed"}
        for number, item in enumerate(item for message in stored.messages[:-1] for item in _items(message))
    ]
    if _order(query) == "desc":
        items.reverse()
    first = _first(items, query.get("after"))
    page = items[first : first + _limit(query)]
    ends = {"first_id": page[0]["id"], "last_id": page[-1]["id"]} if page else {"first_id": None, "last_id": None}
    return {"object": "list", "data": page, **ends, "has_more": first + len(page) < len(items)}


def _items(message: Message) -> list[Json]:
    """The items of a message: reasoning, text, calls, or the result of a call."""
    if message.role == TOOL:
        return [{"type": "function_call_output", "call_id": message.call_id, "output": message.content}]
    items: list[Json] = []
    if message.reasoning:
        thoughts = [{"type": "reasoning_text", "text": message.reasoning}]
        items.append({"type": "reasoning", "summary": [], "content": thoughts})
    said = message.beside_calls if message.tool_calls else message.content
    if said or not message.tool_calls:
        part: Json = {"type": "input_text", "text": said}
        if message.role == ASSISTANT:
            part = {"type": "output_text", "text": said, "annotations": []}
        items.append({"type": "message", "role": message.role, "content": [part]})
    for call in message.tool_calls:
        fields = {"call_id": call.id, "name": call.name, "arguments": call.arguments}
        items.append({"type": "function_call", **fields})
    return items


def _order(query: Mapping[str, str]) -> str:
    if (order := query.get("order", "desc")) not in ORDERS:
        raise Problem(400, f"order must be {' or '.join(ORDERS)}", param="order")
    return order


def _limit(query: Mapping[str, str]) -> int:
    text = query.get("limit", str(N_ITEMS))
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= MAX_ITEMS):
        raise Problem(400, f"limit must be a whole number from 1 to {MAX_ITEMS}", param="limit")
    return int(text)


def _first(items: Sequence[Json], after: str | None) -> int:
    """The place of the item after the one with this id."""
    if after is None:
        return 0
    place = next((i for i, item in enumerate(items) if item["id"] == after), None)
    if place is None:
        raise Problem(400, "after must be the id of an item of this response", param="after")
    return place + 1
