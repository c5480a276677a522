"""A client that sends many requests at a time and yields their replies in order.

An event loop in a thread of its own sends the requests, so that a caller needs no `async`, may run in a notebook, and
may be slow without holding up replies. Each reply is in the cache before the caller sees it.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from babyllm.config.values import check
from babyllm.endpoint.config import EndpointConfig, Request, address, body_of, key_of
from babyllm.endpoint.replies import Again, Reply, read_reply
from babyllm.endpoint.reply_cache import ReplyCache
from babyllm.endpoint.spending import Spending, check_budget
from babyllm.endpoint.transport import Transport
from babyllm.errors import UserError
from babyllm.files import json_digest
from babyllm.progress import ProgressLine

MAX_WAIT_S = 300.0  # a server that asks to wait for longer is not waited for
MAX_BACKOFF_S = 60.0
MAX_FAILURES = 10  # in a row, each after all its attempts: the endpoint is down
GRACE_S = 3.0  # for requests under way at an early end, whose replies may have been paid for
_AHEAD = 4  # requests taken up per request that may be under way, so that a slow one holds few others up


class Client:
    """An open endpoint; a context manager.

    Args:
        config: settings of the endpoint.
        cache: directory of replies where `config.cache` names none; None keeps them in memory.
        shows_progress: whether a line on stderr shows how many replies there are.

    Raises:
        UserError: a setting is wrong, the key is missing, or the cache cannot be used.
    """

    def __init__(self, config: EndpointConfig, cache: Path | None = None, *, shows_progress: bool = True) -> None:
        check(config, "endpoint.")
        self._config, self._address, self._secret = config, address(config), key_of(config)
        check_budget(config, body_of(config, Request([])))
        self._cache = ReplyCache(Path(config.cache) if config.cache else cache)
        self.spending = Spending(config)
        self._shows_progress = shows_progress
        self._asked: dict[str, asyncio.Task[Reply]] = {}
        self._failures = 0  # in a row

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
            UserError: the endpoint refuses every request or is down, or the next request could exceed the budget.
        """
        progress = ProgressLine("request", len(requests), output=sys.stderr)
        waiting: deque[Future[Reply]] = deque()
        n_taken = 0
        try:
            for n_done in range(len(requests)):
                while n_taken < len(requests) and len(waiting) < _AHEAD * self._config.concurrency:
                    waiting.append(asyncio.run_coroutine_threadsafe(self._reply(requests[n_taken]), self._loop))
                    n_taken += 1
                yield waiting.popleft().result()
                cost = self.spending.cost
                if self._shows_progress:
                    progress.show(n_done + 1, "" if cost is None else f"cost {cost:.4f}")
        finally:
            progress.end()

    # ---- in the thread of the loop

    async def _open(self) -> None:
        self._closing, self._slots = asyncio.Event(), asyncio.Semaphore(self._config.concurrency)
        self._settled = asyncio.Event()  # set when an attempt has ended
        self._not_before = 0.0  # on the loop's clock: a busy server asked all requests to wait
        config = self._config
        self._transport = Transport(self._address, self._secret, config.timeout_s, config.concurrency)

    async def _close(self) -> None:
        self._closing.set()
        tasks = list(self._asked.values())
        if tasks:
            await asyncio.wait(tasks, timeout=GRACE_S)
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._transport.close()

    async def _reply(self, request: Request) -> Reply:
        fields = body_of(self._config, request)
        sample = {"sample": request.sample} if request.sample else {}
        key = json_digest({"url": self._address, "body": fields} | sample)
        task = self._asked.get(key)
        if task is None:
            found = self._cache.get(key)
            with suppress(Again):  # a line that somebody has changed
                if found is not None:
                    reply = read_reply(found)
                    self.spending.n_cached += 1
                    return replace(reply, is_cached=True)
            task = self._asked[key] = asyncio.create_task(self._answered(key, fields))
            task.add_done_callback(lambda _: self._asked.pop(key))
            return await asyncio.shield(task)
        self.spending.n_cached += 1
        return replace(await asyncio.shield(task), is_cached=True)

    async def _answered(self, key: str, fields: dict[str, Any]) -> Reply:
        """The reply to a request that is not in the cache, after as many attempts as it takes."""
        async with self._slots:
            for attempt in range(self._config.retries + 1):
                await self._pause(self._not_before - self._loop.time())
                try:
                    reply = await self._attempt(key, fields)
                except Again as failure:
                    why, wait_s = str(failure), failure.wait_s
                else:
                    self._failures = 0
                    self.spending.n_failed += reply.error is not None
                    return reply
                if wait_s is not None and wait_s > MAX_WAIT_S:
                    why += f", and asks to wait for {wait_s:.0f} s"
                    break
                if attempt < self._config.retries:
                    await self._back_off(attempt, wait_s)
            return self._given_up(why)

    def _given_up(self, why: str) -> Reply:
        self._failures += 1
        self.spending.n_failed += 1
        if self._failures >= MAX_FAILURES:
            raise UserError(
                f"{self._address}: {MAX_FAILURES} requests in a row had no reply: {why}; what was answered is "
                "stored, so the same command goes on from there"
            )
        return Reply(error=why)

    async def _back_off(self, attempt: int, wait_s: float | None) -> None:
        if wait_s is None:
            wait_s = min(MAX_BACKOFF_S, self._config.backoff_s * 2**attempt) * random.uniform(0.5, 1.0)
        else:
            self._not_before = max(self._not_before, self._loop.time() + wait_s)
        await self._pause(wait_s)

    async def _pause(self, seconds: float) -> None:
        """Wait, but not for longer than until the client closes, when nothing more is sent."""
        if seconds > 0:
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._closing.wait(), seconds)
        if self._closing.is_set():
            raise asyncio.CancelledError

    async def _attempt(self, key: str, fields: dict[str, Any]) -> Reply:
        content = json.dumps(fields).encode()
        most = self.spending.most(content, fields)
        await self._admit(most)
        usage, is_unpaid = None, False
        try:
            value = await self._transport.send(content)
            if isinstance(value, Reply):
                is_unpaid = True
                return value
            reply = read_reply(value)
            usage = reply.usage
            self._cache.put(key, value)
            return reply
        except Again as failure:
            usage, is_unpaid = failure.usage, failure.is_unpaid
            raise
        finally:
            self.spending.settle(usage, most, is_unpaid=is_unpaid)
            self._settled.set()

    async def _admit(self, most: float) -> None:
        """Wait until the budget allows a request.

        Raises:
            UserError: it does not, although nothing else is under way.
        """
        while not self.spending.fits(most):
            if not self.spending.n_under_way:
                raise UserError(
                    f"--endpoint.max_cost={self._config.max_cost:g}: the next request could exceed it (cost so far: "
                    f"{self.spending.shown_cost()}); what was answered is stored, so a later call goes on from there"
                )
            self._settled.clear()
            await self._settled.wait()
            await self._pause(0)
        self.spending.reserve(most)
