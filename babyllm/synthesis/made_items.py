"""What flows through the steps of a recipe: items, and the reasons for which some go no further."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(frozen=True)
class Item:
    """Something that a recipe is making a record of.

    Attributes:
        id: name of the item, the same in every call with the same inputs.
        values: what is known so far, by name.
        parents: ids of the inputs or seeds that it came from.
        models: names of the models that wrote something of it, in the order of the steps.
        cost: its share of the cost of all requests that led to it; what several items share is divided among them.
        sample: number by which equal requests for different items are asked separately.
    """

    id: str
    values: Mapping[str, Any]
    parents: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    cost: float = 0.0
    sample: int = 0

    def with_values(self, values: Mapping[str, Any]) -> Item:
        """The item with further values, which replace those of the same name."""
        return replace(self, values={**self.values, **values})


@dataclass(frozen=True)
class Rejection:
    """An item that goes no further.

    Attributes:
        item: the item before the step.
        step: name of the step.
        reason: why it goes no further, without details that differ from item to item.
        detail: such details; empty for none.
        text: what the model wrote; empty if there is nothing.
    """

    item: Item
    step: str
    reason: str
    detail: str = ""
    text: str = ""


@dataclass
class StepCounts:
    """What became of the items and requests of a step.

    Attributes:
        name: name of the step.
        n_in: items that came in.
        n_requests: requests of the step; each is answered or failed.
        n_answered: requests with a reply.
        n_failed: requests without one.
        n_out: items that went on.
        cost: cost of the replies.
        tokens_in: tokens that the models read, where that is known.
        tokens_out: tokens that the models wrote, where that is known.
        reasons: number of rejections by reason.
    """

    name: str
    n_in: int = 0
    n_requests: int = 0
    n_answered: int = 0
    n_failed: int = 0
    n_out: int = 0
    cost: float = 0.0
    tokens_in: int = 0
    tokens_out: int = 0
    reasons: dict[str, int] = field(default_factory=dict)


def draw(seed: int, *names: object) -> float:
    """A number in [0, 1) that depends on the seed and the names alone."""
    digest = hashlib.sha256("\0".join(map(str, (seed, *names))).encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:6], "big") / 2**48
