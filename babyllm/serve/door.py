"""What every request passes first: who may come in, and what is counted and told of each."""

from __future__ import annotations

import hmac
import ipaddress
import re
from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from babyllm.serve.metrics import Metrics
from babyllm.serve.problem import Problem, to_json
from babyllm.serve.reply import GONE

OPEN_PATHS = ("/", "/health")
CLIENT_GONE = 499  # how nginx calls it


def is_loopback(host: str) -> bool:
    """Whether a name or address means this machine alone."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def problem_response(problem: Problem) -> Response:
    """The response that tells a problem."""
    return Response(to_json(problem.body()), problem.status, problem.headers, "application/json")


class Door:
    """Lets requests in that name this host and have the key, and counts all."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        host: str,
        api_key: str | None,
        metrics: Metrics,
        paths: frozenset[str],
        is_closing: Callable[[], bool],
    ) -> None:
        """Stand before an application.

        Args:
            app: the application.
            host: that the server is bound to. If that is this machine alone, requests must name it so: a page of
                another site whose name was turned to this address (DNS rebinding) names that site.
            api_key: that requests must bear, but for the page and the health; None lets everyone in.
            metrics: count the requests.
            paths: that requests are counted by; all others are one.
            is_closing: whether no request is let in any more.
        """
        self._app, self._host, self._metrics = app, host, metrics
        self._expected = None if api_key is None else f"Bearer {api_key}".encode()
        self._paths, self._is_closing = paths, is_closing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request or pass it on."""
        scope["state"] = {}
        status = 500

        async def counted_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            problem = self._problem(scope)
            app = problem_response(problem) if problem else self._app
            await app(scope, receive, counted_send)
        finally:
            path = scope["path"] if scope["path"] in self._paths else "other"
            self._metrics.requests[path, CLIENT_GONE if scope["state"].get(GONE) else status] += 1

    def _problem(self, scope: Scope) -> Problem | None:
        headers = Headers(scope=scope)
        if is_loopback(self._host) and not self._names_us(headers.get("host", "")):
            return Problem(403, "the Host header names another machine", code="host_not_allowed")
        if self._expected is not None and scope["path"] not in OPEN_PATHS:
            given = headers.get("authorization", "").encode("latin-1", "replace")
            if not hmac.compare_digest(given, self._expected):
                return Problem(
                    401,
                    "the API key is missing or wrong: send the header Authorization: Bearer KEY",
                    code="invalid_api_key",
                    headers={"www-authenticate": "Bearer"},
                )
        if self._is_closing() and scope["path"] != "/metrics":
            return Problem(503, "the server is shutting down", code="shutting_down", headers={"connection": "close"})
        return None

    def _names_us(self, value: str) -> bool:
        found = re.fullmatch(r"\[([0-9A-Fa-f:.]+)\](?::\d*)?|([^:\[\]]+)(?::\d*)?", value)
        return found is not None and is_loopback((found[1] or found[2]).lower())
