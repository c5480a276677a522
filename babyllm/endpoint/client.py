"""A client that sends many requests at a time, to one endpoint or several, and yields their replies in order.

An event loop in a thread of its own sends the requests, so that a caller needs no `async`, may run in a notebook, and
may be slow without holding up replies. Each reply is in the cache before the caller sees it.

With several endpoints the hash of a request, or of what it names (`beside`), chooses its endpoint, in proportion to the
endpoints' concurrency. A
request without a reply there goes to the next one; an endpoint that refuses every request is set aside.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import sys
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType

from babyllm.endpoint.asking import Asking, GaveUp
from babyllm.endpoint.config import EndpointConfig, Request
from babyllm.endpoint.replies import Reply
from babyllm.endpoint.reply_cache import ReplyCache
from babyllm.endpoint.shared_budget import Budget, BudgetConfig, Exhausted
from babyllm.endpoint.spending import Spending
from babyllm.errors import UserError
from babyllm.files import json_digest
from babyllm.progress import ProgressLine

GRACE_S = 3.0  # for requests under way at an early end, whose replies may have been paid for
_AHEAD = 4  # requests taken up per request that may be under way, so that a slow one holds few others up


class Client:
    """Open endpoints; a context manager.

    Args:
        config: settings of the endpoint, or of several by name.
        cache: directory of replies where `config.cache` names none; None keeps them in memory.
        budget: what all endpoints together may spend.
        shows_progress: whether a line on stderr shows how many replies there are.

    Raises:
        UserError: a setting is wrong, a key is missing, or a cache cannot be used.
    """

    def __init__(
        self,
        config: EndpointConfig | Mapping[str, EndpointConfig],
        cache: Path | None = None,
        *,
        budget: BudgetConfig | None = None,
        shows_progress: bool = True,
    ) -> None:
        configs = {"": config} if isinstance(config, EndpointConfig) else config
        places = {name: Path(one.cache) if one.cache else cache for name, one in configs.items()}
        caches = {place: ReplyCache(place) for place in dict.fromkeys(places.values())}
        self.budget = Budget(budget or BudgetConfig())
        self._endpoints = {name: Asking(name, one, caches[places[name]], self.budget) for name, one in configs.items()}
        self._concurrency = sum(one.concurrency for one in configs.values())
        self._shows_progress = shows_progress
        self._counted: set[str] = set()  # keys of stored replies that the budget has counted

    @property
    def spending(self) -> Spending:
        """What the requests have cost, of a client with one endpoint."""
        (only,) = self._endpoints.values()
        return only.spending

    @property
    def spendings(self) -> dict[str, Spending]:
        """What the requests to each endpoint have cost."""
        return {name: one.spending for name, one in self._endpoints.items()}

    def __enter__(self) -> Client:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="endpoint", daemon=True)
        self._thread.start()
        try:
            asyncio.run_coroutine_threadsafe(self._open(), self._loop).result()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        finally:  # a second Ctrl-C does not wait
            self._stop()

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(1.0)
        if not self._thread.is_alive():
            self._loop.close()

    def replies(self, requests: Sequence[Request]) -> Iterator[Reply]:
        """The replies in the order of the requests, as they come.

        A request that fails has a reply with an `error`, and the others go on. After an exception or Ctrl-C, the same
        call goes on where it stopped, because the cache has what was answered.

        Args:
            requests: conversations to answer; equal ones are asked once.

        Raises:
            UserError: every endpoint refuses every request or is down, or the next request could exceed an endpoint's
                `max_cost`. A request that the shared budget does not allow has a reply with an `error` instead.
        """
        progress = ProgressLine("request", len(requests), output=sys.stderr)
        waiting: deque[Future[Reply]] = deque()
        n_taken = 0
        self._count_stored(requests)
        try:
            for n_done in range(len(requests)):
                while n_taken < len(requests) and len(waiting) < _AHEAD * self._concurrency:
                    waiting.append(asyncio.run_coroutine_threadsafe(self._reply(requests[n_taken]), self._loop))
                    n_taken += 1
                yield waiting.popleft().result()
                if self._shows_progress:
                    progress.show(n_done + 1, self._shown_cost())
        finally:
            progress.end()

    def _shown_cost(self) -> str:
        costs = [cost for one in self._endpoints.values() if (cost := one.spending.cost) is not None]
        return f"cost {sum(costs):.4f}" if costs else ""

    def _count_stored(self, requests: Sequence[Request]) -> None:
        """Count in the budget what earlier calls have paid for the replies to these requests."""
        for request in requests if self.budget.is_limited else ():
            for one in self._order(request):
                if found := one.stored(request):
                    if (key := one.key(request)) not in self._counted:
                        self._counted.add(key)
                        self.budget.count(*one.spending.spent(found.usage))
                    break

    def _order(self, request: Request) -> list[Asking]:
        """The endpoints that may answer a request, the one to ask first at the beginning.

        Raises:
            UserError: the request wants endpoints that do not exist.
        """
        found = [one for name, one in self._endpoints.items() if not request.endpoints or name in request.endpoints]
        if not found:
            raise UserError(f"endpoints: none has the name {' or '.join(request.endpoints)}")
        if len(found) == 1:
            return found
        own = [list(map(dict, request.messages)), request.sample, dict(request.options)]
        said = json_digest(request.beside or own)

        def draw(one: Asking) -> float:
            digest = hashlib.sha256(f"{said} {one.name}".encode()).digest()
            share = (int.from_bytes(digest[:7], "big") + 0.5) / 2**56
            return -math.log(share) / one.config.concurrency

        return sorted(found, key=draw)

    # ---- in the thread of the loop

    async def _open(self) -> None:
        self._closing, settled = asyncio.Event(), asyncio.Event()
        for one in self._endpoints.values():
            one.open(self._closing, settled)

    async def _close(self) -> None:
        self._closing.set()
        tasks = [task for one in self._endpoints.values() for task in one.under_way()]
        if tasks:
            await asyncio.wait(tasks, timeout=GRACE_S)
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        for one in self._endpoints.values():
            await one.close()

    async def _reply(self, request: Request) -> Reply:
        order = self._order(request)
        for one in order:
            if found := one.stored(request):
                one.spending.n_cached += 1
                return found
        reasons = []
        for one in order:
            if one.why_down:
                continue
            try:
                reply = await one.reply(request)
                if self.budget.is_limited:
                    self._counted.add(one.key(request))
                return reply
            except GaveUp as failure:
                reasons.append(str(failure))
            except Exhausted as reason:
                return Reply(error=str(reason))
            except UserError as error:
                self._set_aside(one, error)
        if reasons:
            return Reply(error=reasons[-1])
        down = [one.why_down for one in order if one.why_down]
        if len(order) == 1:
            raise down[0]
        raise UserError(f"every endpoint is set aside, the last one because: {down[-1]}")

    def _set_aside(self, one: Asking, error: UserError) -> None:
        if not one.why_down and len(self._endpoints) > 1:
            print(f"(the endpoint {one.name} is set aside: {error})", file=sys.stderr, flush=True)
        one.why_down = error
