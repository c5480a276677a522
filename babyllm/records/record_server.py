"""The server of the records page: the page itself, and an API that only a page with the token of its address can use.

GET /  GET /api/summary  GET /api/records?...  GET /api/record?id=3  POST /api/change
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from babyllm.records.collection import BadChange, Collection, Filters
from babyllm.records.page import document
from babyllm.serve.api.problem import Problem
from babyllm.serve.http.body_reader import BodyReader
from babyllm.serve.http.connection import Connection, ConnectionLimit
from babyllm.serve.http.middleware import Access, AccessMiddleware, problem_response
from babyllm.serve.http.notices import Notices
from babyllm.serve.http.open_files import max_connections
from babyllm.serve.metrics import Metrics
from babyllm.serve.server import bound, url_of

if TYPE_CHECKING:
    from starlette.types import ASGIApp

MAX_ROWS = 200
MAX_BODY_BYTES = 64 << 20
HEADERS = {
    **{"cache-control": "no-store", "x-frame-options": "DENY", "x-content-type-options": "nosniff"},
    **{"referrer-policy": "no-referrer", "cross-origin-resource-policy": "same-origin"},
}


class RecordEndpoints:
    """Handlers of the page's requests.

    Args:
        collection: records that they show and change.
    """

    def __init__(self, collection: Collection) -> None:
        self._collection, self._bodies = collection, BodyReader(MAX_BODY_BYTES)

    async def page(self, request: Request) -> Response:
        """GET /."""
        return Response(document(), headers=HEADERS, media_type="text/html; charset=utf-8")

    async def summary(self, request: Request) -> Response:
        """GET /api/summary."""
        return _json(await asyncio.to_thread(self._collection.summary))

    async def records(self, request: Request) -> Response:
        """GET /api/records: rows from `at` on, and where the record `id` stands among those that are chosen."""
        given = request.query_params
        filters = Filters(
            given.get("text", ""),
            given.get("task"),
            given.get("language", ""),
            given.get("status", ""),
            _float(given.get("low")),
            _float(given.get("high")),
        )
        at, n = _int(given.get("at"), 0), min(MAX_ROWS, _int(given.get("n"), 50))

        def rows() -> dict[str, Any]:
            ids = self._collection.chosen(filters)
            begin = max(0, min(at, len(ids) - 1))
            found = [self._collection.row(id) for id in ids[begin : begin + n]]
            return {"total": len(ids), "at": begin, "rows": found, **self._collection.progress()}

        return _json(await asyncio.to_thread(rows))

    async def record(self, request: Request) -> Response:
        """GET /api/record."""
        id, whole = _int(request.query_params.get("id"), -1), request.query_params.get("whole") == "1"
        try:
            return _json(await asyncio.to_thread(self._collection.shown, id, whole))
        except BadChange as error:
            raise Problem(404, str(error)) from None

    async def change(self, request: Request) -> Response:
        """POST /api/change."""
        try:
            body = json.loads(await self._bodies.read(request))
            id, version, change = body["id"], body["version"], body["change"]
            if not (isinstance(id, int) and isinstance(version, str) and isinstance(change, dict)):
                raise ValueError
        except (ValueError, KeyError, TypeError, RecursionError):
            raise Problem(400, "send id, version and change") from None
        try:
            return _json(await asyncio.to_thread(self._collection.change, id, version, change))
        except BadChange as error:
            raise Problem(409, str(error)) from None
        except OSError as error:
            raise Problem(500, f"the edit could not be stored: {error.strerror or error}") from None


def make_record_app(collection: Collection, access: Access) -> ASGIApp:
    """The ASGI application; all but the page, which holds no records, needs the key of `access`."""
    own = RecordEndpoints(collection)
    table = {
        "/": own.page,
        "/api/summary": own.summary,
        "/api/records": own.records,
        "/api/record": own.record,
        "/api/change": own.change,
    }
    routes = [
        Route(path, handle, methods=["POST" if handle == own.change else "GET"]) for path, handle in table.items()
    ]
    handlers: dict[Any, Any] = {Problem: _problem, HTTPException: _http_error, ClientDisconnect: _gone}
    app = Starlette(routes=routes, exception_handlers={**handlers, Exception: _failure})
    return AccessMiddleware(
        app,
        access,
        metrics=Metrics(),
        notices=Notices(),
        paths=frozenset(table),
        is_closing=lambda: False,
    )


def serve_records(
    collection: Collection, access: Access, port: int, on_ready: Callable[[str, uvicorn.Server], None]
) -> None:
    """Serve until SIGINT or SIGTERM.

    Args:
        collection: records that are shown and changed.
        access: host to bind to, and the key.
        port: port to listen at; 0 takes a free one.
        on_ready: function called with the address and the server when it listens.

    Raises:
        UserError: the address is not available.
    """
    listener = bound(access.host, port)
    config = uvicorn.Config(
        make_record_app(collection, access),
        http=partial(Connection, limit=ConnectionLimit(max_connections(), Notices())),  # type: ignore[arg-type]
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=2,
    )
    with listener:
        server = uvicorn.Server(config)
        on_ready(url_of(listener), server)
        server.run(sockets=[listener])


def _json(value: Any) -> Response:
    # ASCII, because a record may hold half of a character.
    return Response(json.dumps(value).encode(), headers=HEADERS, media_type="application/json")


def _int(text: str | None, default: int) -> int:
    try:
        return int(text[:18]) if text else default
    except ValueError:
        return default


def _float(text: str | None) -> float | None:
    try:
        number = float(text) if text else None
    except ValueError:
        return None
    return number if number is not None and math.isfinite(number) else None


async def _problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return problem_response(error)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return problem_response(
        Problem(error.status_code, f"{request.method} {request.scope['path'][:100]}: {error.detail}")
    )


async def _gone(request: Request, error: Exception) -> Response:
    return problem_response(Problem(400, "the client has gone"))


async def _failure(request: Request, error: Exception) -> Response:
    return problem_response(Problem(500, "the server failed at this request; its log says why"))
