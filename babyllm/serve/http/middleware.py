"""Checks that every request passes first: host and API key. Requests are counted and can be logged; refusals are.

normalise path -> check host -> [CORS, for pages of other sites] -> check API key -> the application
"""

from __future__ import annotations

import hmac
import ipaddress
import re
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from babyllm.serve.api.generation.generation_response import GONE
from babyllm.serve.api.problem import Problem, to_json
from babyllm.serve.http.cross_origin import ALL, CrossOriginMiddleware
from babyllm.serve.http.notices import Notices
from babyllm.serve.http.request_log import RECORD, RequestLog, RequestRecord
from babyllm.serve.metrics import Metrics

OPEN_PATHS = ("/", "/health", "/docs", "/openapi.json")
CLIENT_GONE = 499  # nginx's status for it
REFUSED = "refused"  # key in the state of a request, with the reason
_NAME = re.compile(r"\[([0-9A-Fa-f:.]+)\](?::\d*)?|([^:\[\]/\s]+)(?::\d*)?")


@dataclass(frozen=True)
class Access:
    """Which requests the server accepts.

    Attributes:
        host: name or address that the server is bound to. If it is a loopback address, the Host header of requests must
            name this machine. This stops pages of other sites whose names resolve to this address (DNS rebinding).
        api_key: key that requests must contain, except those for the chat page and /health; None requires no key.
        allowed_hosts: further names that the Host header may have; "*" allows all.
        allowed_origins: origins of other sites whose pages may send requests; "*" allows all.
    """

    host: str
    api_key: str | None = None
    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()


def is_loopback(host: str) -> bool:
    """Whether a name or address is a loopback one, which only this machine can reach."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def host_name(value: str) -> str | None:
    """The name or address in a Host header, without the port, in lower case; None if the header is not valid."""
    found = _NAME.fullmatch(value)
    return (found[1] or found[2]).lower() if found else None


def problem_response(problem: Problem) -> Response:
    """The response that reports a problem."""
    return Response(to_json(problem.body()), problem.status, problem.headers, "application/json")


class AccessMiddleware:
    """Accepts requests that name this host and have the key, counts all and logs those it refuses."""

    def __init__(
        self,
        app: ASGIApp,
        access: Access,
        *,
        metrics: Metrics,
        notices: Notices,
        paths: frozenset[str],
        is_closing: Callable[[], bool],
        request_log: RequestLog | None = None,
    ) -> None:
        """Wrap an application.

        Args:
            app: the application.
            access: hosts and keys that are accepted.
            metrics: metrics that count the requests.
            notices: log of refused requests.
            paths: paths counted separately; all others count as one.
            is_closing: function that returns whether the server is shutting down and refuses new requests.
            request_log: log of all requests; None logs none.
        """
        self._app, self._access, self._metrics, self._notices = app, access, metrics, notices
        self._expected = None if access.api_key is None else f"Bearer {access.api_key}".encode()
        self._paths, self._is_closing, self._request_log = paths, is_closing, request_log
        self._inner: ASGIApp = self._answer
        if access.allowed_origins:
            self._inner = CrossOriginMiddleware(self._answer, access.allowed_origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request or pass it on."""
        began, record = time.perf_counter(), RequestRecord(bool(self._request_log and self._request_log.has_contents))
        scope["state"] = {RECORD: record}
        # Clients join parts of URLs carelessly: "/v1/" and "/models" become "/v1//models".
        scope["path"] = re.sub("/{2,}", "/", scope["path"]).rstrip("/") or "/"
        status = 500

        async def counted_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [*message.get("headers", ()), (b"x-request-id", uuid.uuid4().hex.encode())]
                message = {**message, "headers": headers}
            await send(message)

        try:
            if problem := self._host_problem(scope):
                await _refuse(problem, scope, receive, counted_send)
            else:
                await self._inner(scope, receive, counted_send)
        finally:
            status = CLIENT_GONE if scope["state"].get(GONE) else status
            path = scope["path"] if scope["path"] in self._paths else "other"
            self._metrics.count_request(path, status)
            self._log_refusal(scope, status)
            if self._request_log:
                self._request_log.add(scope["method"], scope["path"], status, time.perf_counter() - began, record)

    def _log_refusal(self, scope: Scope, status: int) -> None:
        if 400 <= status < CLIENT_GONE:
            client = scope["client"][0] if scope["client"] else "?"
            why = scope["state"].get(REFUSED, "")
            self._notices.log(f"{status} {scope['method']} {scope['path'][:100]} from {client}: {why}")

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if problem := self._problem(scope):
            await _refuse(problem, scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _host_problem(self, scope: Scope) -> Problem | None:
        allowed = self._access.allowed_hosts
        is_local = is_loopback(self._access.host)
        value = Headers(scope=scope).get("host")
        # Browsers always send a Host header; HTTP/1.0 clients may omit it.
        if value is None or ALL in allowed or not (is_local or allowed):
            return None
        name = host_name(value)
        if name is not None and (name in allowed or (is_local and is_loopback(name))):
            return None
        cure = f"start it with --allowed_hosts={name[:100]}, " if name else ""
        return Problem(
            403,
            f"the Host header names {value[:100]!r}, by which this server may not be called: {cure}"
            f"or let the proxy before it send Host: {self._access.host}",
            code="host_not_allowed",
        )

    def _problem(self, scope: Scope) -> Problem | None:
        if self._expected is not None and scope["path"] not in OPEN_PATHS:
            given = Headers(scope=scope).get("authorization", "").encode("latin-1", "replace")
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


async def _refuse(problem: Problem, scope: Scope, receive: Receive, send: Send) -> None:
    scope["state"][REFUSED] = problem.message
    await problem_response(problem)(scope, receive, send)
