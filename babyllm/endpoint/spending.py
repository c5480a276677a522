"""Tokens and cost of the requests of a process, and a budget that is never exceeded.

A request is sent only if the budget holds what is spent, what the requests under way may cost at most, and what it may
cost at most itself: each byte of its body read as a token, and `max_tokens` written.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from babyllm.endpoint.config import EndpointConfig
from babyllm.endpoint.replies import Usage
from babyllm.errors import UserError
from babyllm.pipeline.report import Fact


@dataclass
class Spending:
    """What requests have cost so far.

    Attributes:
        config: prices and budget.
        n_sent: number of requests that were sent, retries included.
        n_cached: number of requests that needed none, because an equal one was answered before.
        n_failed: number of requests without an answer.
        n_unknown: number of attempts that may have been charged for and whose tokens the server has not reported.
        tokens_in: tokens read, of attempts whose usage is known.
        tokens_out: tokens written, of attempts whose usage is known.
        most_unknown: largest cost of the attempts counted in `n_unknown`.
        reserved: largest cost of the requests under way.
        n_under_way: number of requests under way.
    """

    config: EndpointConfig
    n_sent: int = 0
    n_cached: int = 0
    n_failed: int = 0
    n_unknown: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    most_unknown: float = 0.0
    reserved: float = 0.0
    n_under_way: int = 0

    @property
    def cost(self) -> float | None:
        """The cost of the attempts whose usage is known; None without prices."""
        return self._price(self.tokens_in, self.tokens_out)

    def most(self, body: bytes, fields: dict[str, Any]) -> float:
        """The largest cost of one attempt at a request.

        Args:
            body: request as it is sent.
            fields: the same as a JSON object.
        """
        return self._price(len(body), _most_written(fields)) or 0.0

    def most_tokens(self, body: bytes, fields: dict[str, Any]) -> int:
        """The largest number of tokens of one attempt at a request, read and written; arguments as of `most`."""
        return len(body) + _most_written(fields)

    def spent(self, usage: Usage | None) -> tuple[float, int]:
        """What tokens cost, 0 without prices, and their number, 0 if they are unknown."""
        return (self._price(*usage) or 0.0, sum(usage)) if usage else (0.0, 0)

    def fits(self, most: float) -> bool:
        """Whether a request of this largest cost may be sent now."""
        limit = self.config.max_cost
        return limit is None or (self.cost or 0) + self.most_unknown + self.reserved + most <= limit

    def reserve(self, most: float) -> None:
        """Count an attempt with this largest cost as under way."""
        self.n_under_way += 1
        self.reserved += most

    def settle(self, usage: Usage | None, most: float, *, is_unpaid: bool) -> None:
        """Count the end of an attempt.

        Args:
            usage: its tokens; None if they are unknown.
            most: its largest cost, as reserved; it counts if they are unknown.
            is_unpaid: whether it has certainly cost nothing.
        """
        self.n_sent += 1
        self.n_under_way -= 1
        self.reserved = self.reserved - most if self.n_under_way else 0.0
        if usage:
            self.tokens_in += usage.tokens_in
            self.tokens_out += usage.tokens_out
        elif not is_unpaid:
            self.n_unknown += 1
            self.most_unknown += most

    def facts(self) -> list[Fact]:
        """The counts as lines of a report."""
        facts: list[Fact] = [("requests sent", self.n_sent), ("replies from the cache", self.n_cached)]
        facts += [("requests without a reply", self.n_failed)] if self.n_failed else []
        facts += [("tokens read", self.tokens_in), ("tokens written", self.tokens_out)]
        facts += [("attempts whose tokens are unknown", self.n_unknown)] if self.n_unknown else []
        return [*facts, ("cost", self.shown_cost())]

    def shown_cost(self) -> str:
        """The cost in words."""
        if self.cost is None:
            return "unknown without --endpoint.price_in and --endpoint.price_out"
        return f"{self.cost:.4f}" + (f", and {self.most_unknown:.4f} more at most" if self.n_unknown else "")

    def _price(self, tokens_in: int, tokens_out: int) -> float | None:
        price_in, price_out = self.config.price_in, self.config.price_out
        if price_in is None or price_out is None:
            return None
        return (tokens_in * price_in + tokens_out * price_out) / 1e6


def check_budget(config: EndpointConfig, fields: dict[str, Any]) -> None:
    """Check that a budget can be kept.

    Args:
        config: settings with the budget, or without one.
        fields: body of a request as a JSON object.

    Raises:
        UserError: a price or the limit of tokens is missing.
    """
    if config.max_cost is None:
        return
    if config.price_in is None or config.price_out is None:
        raise UserError("--endpoint.max_cost: needs --endpoint.price_in and --endpoint.price_out, per million tokens")
    if _limit(fields) is None:
        raise UserError("--endpoint.max_cost: needs --endpoint.max_tokens, else a reply may cost anything")


def _most_written(fields: dict[str, Any]) -> int:
    n = fields.get("n")
    return (_limit(fields) or 0) * (n if isinstance(n, int) else 1)


def _limit(fields: dict[str, Any]) -> int | None:
    """The largest number of tokens of a reply, under the old or the new name."""
    limits = [fields.get(name) for name in ("max_tokens", "max_completion_tokens")]
    return max((limit for limit in limits if isinstance(limit, int)), default=None)
