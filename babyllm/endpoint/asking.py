"""One endpoint within a client: its cache, its spending, its attempts and their pauses, in the client's event loop."""

from __future__ import annotations

import asyncio
import json
import random
from contextlib import suppress
from dataclasses import replace
from typing import Any

from babyllm.config.values import check
from babyllm.endpoint.config import EndpointConfig, Request, address, body_of, key_of
from babyllm.endpoint.replies import Again, Reply, read_reply
from babyllm.endpoint.reply_cache import ReplyCache
from babyllm.endpoint.shared_budget import Budget
from babyllm.endpoint.spending import Spending, check_budget
from babyllm.endpoint.transport import Transport
from babyllm.errors import UserError
from babyllm.files import json_digest

MAX_WAIT_S = 300.0  # a server that asks to wait for longer is not waited for
MAX_BACKOFF_S = 60.0
MAX_FAILURES = 10  # in a row, each after all its attempts: the endpoint is down


class GaveUp(Exception):
    """A request that had no reply after all its attempts; the message is the reason."""


class Asking:
    """An endpoint that can be asked.

    Args:
        name: name of the endpoint among those of a client.
        config: settings of the endpoint.
        cache: replies of earlier requests.
        budget: budget that all endpoints of a client share.

    Raises:
        UserError: a setting is wrong or the key is missing.
    """

    def __init__(self, name: str, config: EndpointConfig, cache: ReplyCache, budget: Budget) -> None:
        check(config, "endpoint.")
        self.name, self.config = name, config
        self._address, self._secret = address(config), key_of(config)
        check_budget(config, body_of(config, Request([])))
        budget.check(config, body_of(config, Request([])))
        self._cache, self._budget = cache, budget
        self.spending = Spending(config)
        self.why_down: UserError | None = None  # once it is set, nothing more is sent
        self._asked: dict[str, asyncio.Task[Reply]] = {}
        self._failures = 0  # in a row

    def open(self, closing: asyncio.Event, settled: asyncio.Event) -> None:
        """Begin, in the event loop.

        Args:
            closing: event that is set when the client closes.
            settled: event that is set whenever an attempt has ended, of any endpoint.
        """
        self._loop, self._closing, self._settled = asyncio.get_running_loop(), closing, settled
        self._slots = asyncio.Semaphore(self.config.concurrency)
        self._not_before = 0.0  # on the loop's clock: a busy server asked all requests to wait
        self._transport = Transport(self._address, self._secret, self.config.timeout_s, self.config.concurrency)

    async def close(self) -> None:
        """Close the connections."""
        await self._transport.close()

    def under_way(self) -> list[asyncio.Task[Reply]]:
        """The requests that wait for their replies."""
        return list(self._asked.values())

    def key(self, request: Request) -> str:
        """The hash by which the reply to a request is stored."""
        sample = {"sample": request.sample} if request.sample else {}
        return json_digest({"url": self._address, "body": body_of(self.config, request)} | sample)

    def stored(self, request: Request) -> Reply | None:
        """The reply of an earlier request that was equal; None if there is none."""
        found = self._cache.get(self.key(request))
        with suppress(Again):  # a line that somebody has changed
            if found is not None:
                return replace(read_reply(found), is_cached=True, endpoint=self.name)
        return None

    async def reply(self, request: Request) -> Reply:
        """The reply to a request that is not in the cache; equal ones under way are asked once.

        Raises:
            GaveUp: no attempt had a reply.
            UserError: the endpoint refuses every request or is down, or its budget does not allow the next one.
            Exhausted: the shared budget does not allow it.
        """
        key = self.key(request)
        task = self._asked.get(key)
        if task is None:
            task = self._asked[key] = asyncio.create_task(self._answered(key, body_of(self.config, request)))
            task.add_done_callback(lambda _: self._asked.pop(key))
            return await asyncio.shield(task)
        self.spending.n_cached += 1
        return replace(await asyncio.shield(task), is_cached=True)

    async def _answered(self, key: str, fields: dict[str, Any]) -> Reply:
        async with self._slots:
            for attempt in range(self.config.retries + 1):
                await self._pause(self._not_before - self._loop.time())
                if self.why_down:
                    raise self.why_down
                try:
                    reply = await self._attempt(key, fields)
                except Again as failure:
                    why, wait_s = str(failure), failure.wait_s
                else:
                    self._failures = 0
                    self.spending.n_failed += reply.error is not None
                    return replace(reply, endpoint=self.name)
                if wait_s is not None and wait_s > MAX_WAIT_S:
                    why += f", and asks to wait for {wait_s:.0f} s"
                    break
                if attempt < self.config.retries:
                    await self._back_off(attempt, wait_s)
            raise self._given_up(why)

    def _given_up(self, why: str) -> Exception:
        self._failures += 1
        self.spending.n_failed += 1
        if self._failures < MAX_FAILURES:
            return GaveUp(why)
        return UserError(
            f"{self._address}: {MAX_FAILURES} requests in a row had no reply: {why}; what was answered is "
            "stored, so the same command goes on from there"
        )

    async def _back_off(self, attempt: int, wait_s: float | None) -> None:
        if wait_s is None:
            wait_s = min(MAX_BACKOFF_S, self.config.backoff_s * 2**attempt) * random.uniform(0.5, 1.0)
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
        most_tokens = self.spending.most_tokens(content, fields)
        await self._admit(most, most_tokens)
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
            nothing = (0.0, 0) if is_unpaid else (most, most_tokens)
            self._budget.settle(most, most_tokens, self.spending.spent(usage) if usage else nothing)
            self._settled.set()

    async def _admit(self, most: float, most_tokens: int) -> None:
        """Wait until both budgets allow a request.

        Raises:
            UserError: that of the endpoint does not, although nothing else is under way.
            Exhausted: the shared one does not.
        """
        while True:
            if not self.spending.fits(most):
                if not self.spending.n_under_way:
                    raise UserError(
                        f"--endpoint.max_cost={self.config.max_cost:g}: the next request could exceed it (cost so far: "
                        f"{self.spending.shown_cost()}); what was answered is stored, so a later call goes on from "
                        "there"
                    )
            elif self._budget.admits(most, most_tokens):
                break
            self._settled.clear()
            await self._settled.wait()
            await self._pause(0)
        self.spending.reserve(most)
        self._budget.reserve(most, most_tokens)
