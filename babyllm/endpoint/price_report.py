"""What requests would cost at most, before any is sent, and what they have cost."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from babyllm.endpoint.config import EndpointConfig, Request, body_of
from babyllm.endpoint.replies import one_line
from babyllm.endpoint.spending import Spending
from babyllm.pipeline.report import Cell, Fact, Report, Table, print_report

SHOWN = 3  # requests that a dry run shows
_LINE = 2000  # characters of a line that are shown


def is_priced(endpoints: Mapping[str, EndpointConfig]) -> bool:
    """Whether the prices of all endpoints are known."""
    return all(one.price_in is not None and one.price_out is not None for one in endpoints.values())


class DryRun:
    """Counts requests in place of sending them.

    Args:
        endpoints: endpoints by name.
    """

    def __init__(self, endpoints: Mapping[str, EndpointConfig]) -> None:
        self.first: list[Request] = []
        self._endpoints = endpoints
        self._spendings = {name: Spending(one) for name, one in endpoints.items()}
        self._steps: dict[str, tuple[int, int, float]] = {}  # requests, tokens and cost at most

    def count(self, requests: Sequence[Request], step: str) -> None:
        """Count requests of a step; the first ones of the first step are kept to be shown."""
        if not any(n for name, (n, _, _) in self._steps.items() if name != step):
            self.first += requests[: SHOWN - len(self.first)]
        n, tokens, cost = self._steps.get(step, (0, 0, 0.0))
        for request in requests:
            most = [self._most(name, request) for name in request.endpoints or self._endpoints]
            tokens, cost = tokens + max(one[0] for one in most), cost + max(one[1] for one in most)
        self._steps[step] = (n + len(requests), tokens, cost)

    def report(self, title: str, before: Sequence[Fact], after: Sequence[Fact] = ()) -> Report:
        """What was counted; a request that any of several endpoints may answer has the price of the dearest.

        Args:
            title: title of the report.
            before: facts to begin with.
            after: facts to end with.
        """
        has_prices = is_priced(self._endpoints)
        total: Cell = sum(cost for _, _, cost in self._steps.values())
        facts: list[Fact] = [*before, ("requests", sum(n for n, _, _ in self._steps.values()))]
        facts += [("cost at most", total if has_prices else "unknown without price_in and price_out"), *after]
        columns = ["step", "requests", "tokens at most", *(["cost at most"] if has_prices else [])]
        table = Table("Steps", columns, [self._row(step)[: len(columns)] for step in self._steps])
        return Report(f"{title}: a dry run, nothing was asked", facts, [table])

    def _row(self, step: str) -> list[Cell]:
        return [step, *self._steps[step]]

    def print(self, report: Report) -> None:
        """Print the first requests, and the report."""
        for number, request in enumerate(self.first, 1):
            for message in request.messages:
                print(f"--- request {number}, {message['role']}")
                print("\n".join(one_line(line, _LINE) for line in str(message["content"]).split("\n")))
        print()
        print_report(report)

    def _most(self, name: str, request: Request) -> tuple[int, float]:
        """The largest number of tokens of a request at an endpoint, and its largest cost."""
        body, spending = body_of(self._endpoints[name], request), self._spendings[name]
        content = json.dumps(body).encode()  # as it is sent
        return spending.most_tokens(content, body), spending.most(content, body)


def print_spendings(spendings: Mapping[str, Spending]) -> None:
    """Print what this call has spent at each endpoint."""
    for name, spending in spendings.items():
        facts = ", ".join(f"{title} {value}" for title, value in spending.facts())
        print(f"this call{f', endpoint {name}' if name else ''}: {facts}")
