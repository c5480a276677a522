"""Two answers compared in both orders, so that a judge who likes the first place decides nothing.

Pair -> a request per order and repeat -> Judgement -> Comparison: A or B only if both orders agree, else a tie
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from babyllm.endpoint.config import Request
from babyllm.endpoint.replies import LENGTH, Reply
from babyllm.judging.answer_files import Pair
from babyllm.judging.judge_prompts import filled
from babyllm.judging.verdicts import Choice, choice_in, why_none

Order = Literal["AB", "BA"]
ORDERS: tuple[Order, Order] = ("AB", "BA")
Ask = Callable[[Sequence[Request]], Iterator[Reply]]
"""A function that returns the replies to requests, in their order."""
_OTHER: dict[Choice, Choice] = {"A": "B", "B": "A", "tie": "tie"}
_VALUE = {"A": 1.0, "B": 0.0, "tie": 0.5}


@dataclass(frozen=True)
class Judgement:
    """What the judge said of a pair once.

    Attributes:
        order: the answers in the order in which they were shown.
        choice: answer that the judge prefers, by its file; None without a verdict.
        text: what the judge wrote.
        problem: reason for which there is no verdict; None if there is one.
    """

    order: Order
    choice: Choice | None
    text: str
    problem: str | None


@dataclass(frozen=True)
class Comparison:
    """A pair and what the judge said of it.

    Attributes:
        pair: the two answers.
        repeats: judgements in both orders, once per repeat; empty if nobody was asked. Equal answers are then a tie.
    """

    pair: Pair
    repeats: Sequence[tuple[Judgement, Judgement]]

    @property
    def values(self) -> list[float]:
        """The preference for A of each repeat that has both verdicts: 1, 0, or 0.5 for a tie or a disagreement."""
        if not self.repeats:
            return [0.5] if self.pair.a == self.pair.b else []
        choices = [(ab.choice, ba.choice) for ab, ba in self.repeats]
        return [_VALUE[ab] if ab == ba else 0.5 for ab, ba in choices if ab is not None and ba is not None]

    @property
    def preference(self) -> float | None:
        """The mean preference for A over the repeats; None if no repeat has both verdicts."""
        values = self.values
        return sum(values) / len(values) if values else None

    @property
    def choice(self) -> Choice | None:
        """The answer that is preferred on the whole."""
        preference = self.preference
        return None if preference is None else "A" if preference > 0.5 else "B" if preference < 0.5 else "tie"

    def to_json(self) -> dict[str, Any]:
        """The comparison as a line of `verdicts.jsonl`."""
        said = [vars(judgement) for repeat in self.repeats for judgement in repeat]
        return {**vars(self.pair), "preference": self.preference, "choice": self.choice, "judgements": said}


def compare(pairs: Sequence[Pair], prompt: str, repeats: int, ask: Ask) -> list[Comparison]:
    """The comparisons of pairs, in their order.

    Args:
        pairs: answers to compare.
        prompt: text with the names `prompt`, `answer_a`, `answer_b` and `reference` in braces.
        repeats: number of times that each order is judged.
        ask: function that returns the judge's replies; of several judges the same one has both orders.
    """
    keys = [
        (pair, number, order) for pair in pairs if pair.a != pair.b for number in range(repeats) for order in ORDERS
    ]
    replies = ask([_request(prompt, pair, order, number) for pair, number, order in keys])
    found = iter([_judgement(order, reply) for (_, _, order), reply in zip(keys, replies, strict=True)])
    return [
        Comparison(pair, [] if pair.a == pair.b else [(next(found), next(found)) for _ in range(repeats)])
        for pair in pairs
    ]


def _request(prompt: str, pair: Pair, order: Order, number: int) -> Request:
    first, second = (pair.a, pair.b) if order == "AB" else (pair.b, pair.a)
    values = {"prompt": pair.prompt, "answer_a": first, "answer_b": second}
    return Request([{"role": "user", "content": filled(prompt, values, pair.reference)}], number, beside=pair.prompt)


def _judgement(order: Order, reply: Reply) -> Judgement:
    shown = None if reply.error or reply.finish == LENGTH else choice_in(reply.text)
    choice = _OTHER[shown] if shown and order == "BA" else shown
    return Judgement(order, choice, reply.text, None if choice else why_none(reply))
