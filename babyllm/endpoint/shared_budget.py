"""A budget of money, requests and tokens that several endpoints share, and that is never exceeded.

A request counts at its largest cost while it is under way, and at its own afterwards. Replies from the cache that were
paid for by earlier calls count too, so that a command that is killed and started again has one budget.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from babyllm.config.values import Count, Positive
from babyllm.endpoint.config import EndpointConfig
from babyllm.errors import UserError

NOT_ASKED = "not asked"  # how the error of a request begins that the budget does not allow


@dataclass(frozen=True)
class BudgetConfig:
    """What all endpoints together may spend on a result, earlier calls included; null for no limit.

    Attributes:
        cost: largest cost, in the currency of the prices.
        requests: largest number of requests that were answered or may have been charged for.
        tokens: largest number of tokens that are read and written.
    """

    cost: Positive | None = None
    requests: Count | None = None
    tokens: Count | None = None


class Exhausted(Exception):
    """The budget does not allow another request; the message is the reason."""


class Budget:
    """What was spent of a budget, and what may yet be spent.

    Args:
        limits: the limits.
    """

    def __init__(self, limits: BudgetConfig) -> None:
        self._limits = limits
        self._spent, self._reserved = BudgetUse(), BudgetUse()
        self.why_exhausted = ""  # empty as long as requests may be sent

    @property
    def is_limited(self) -> bool:
        """Whether there is any limit."""
        return any(getattr(self._limits, field.name) is not None for field in fields(self._limits))

    def check(self, config: EndpointConfig, body: Mapping[str, Any]) -> None:
        """Check that the budget can be kept with an endpoint.

        Raises:
            UserError: a price or the limit of tokens is missing.
        """
        if self._limits.cost is not None and (config.price_in is None or config.price_out is None):
            raise UserError("--budget.cost: each endpoint needs price_in and price_out, per million tokens")
        has_limit = any(isinstance(body.get(name), int) for name in ("max_tokens", "max_completion_tokens"))
        if not has_limit and (self._limits.cost is not None or self._limits.tokens is not None):
            raise UserError("--budget.cost and --budget.tokens: each endpoint needs max_tokens")

    def admits(self, cost: float, tokens: int) -> bool:
        """Whether a request may be sent now; False if it has to wait for others that are under way.

        Args:
            cost: its largest cost.
            tokens: its largest number of tokens.

        Raises:
            Exhausted: it may not be sent, although nothing is under way, or an earlier one might not.
        """
        if self.why_exhausted:
            raise Exhausted(self.why_exhausted)
        name = self._exceeded(cost, tokens)
        if name and not self._reserved.requests:
            self.why_exhausted = f"{NOT_ASKED}: the next request could exceed --budget.{name}"
            raise Exhausted(self.why_exhausted)
        return not name

    def reserve(self, cost: float, tokens: int) -> None:
        """Count a request with this largest cost as under way."""
        self._reserved = self._reserved.plus(cost, 1, tokens)

    def settle(self, cost: float, tokens: int, spent: tuple[float, int]) -> None:
        """Count the end of a request.

        Args:
            cost: its largest cost, as reserved.
            tokens: its largest number of tokens, as reserved.
            spent: what it has cost, and its tokens.
        """
        self._reserved = self._reserved.plus(-cost, -1, -tokens)
        if not self._reserved.requests:
            self._reserved = BudgetUse()
        if spent != (0.0, 0):
            self.count(*spent)

    def count(self, cost: float, tokens: int) -> None:
        """Count a request that was paid for."""
        self._spent = self._spent.plus(cost, 1, tokens)

    def _exceeded(self, cost: float, tokens: int) -> str:
        """The name of the limit that a further request could exceed; empty if there is none."""
        most = self._spent.plus(self._reserved.cost, self._reserved.requests, self._reserved.tokens)
        most = most.plus(cost, 1, tokens)
        for field in fields(self._limits):
            limit = getattr(self._limits, field.name)
            if limit is not None and getattr(most, field.name) > limit:
                return field.name
        return ""


@dataclass(frozen=True)
class BudgetUse:
    """An amount of each thing that a budget limits.

    Attributes:
        cost: money.
        requests: number of requests.
        tokens: number of tokens.
    """

    cost: float = 0.0
    requests: int = 0
    tokens: int = 0

    def plus(self, cost: float, requests: int, tokens: int) -> BudgetUse:
        """The sum with another amount."""
        return BudgetUse(self.cost + cost, self.requests + requests, self.tokens + tokens)
