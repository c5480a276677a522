"""What the handlers of all endpoints share: the engine thread, the counters, and the reading of bodies."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from babyllm.serve.api.generation.generation_request import Limits
from babyllm.serve.api.problem import to_json
from babyllm.serve.api.validation import Body, parse_body
from babyllm.serve.engine_thread import EngineThread
from babyllm.serve.http.body_reader import BodyReader
from babyllm.serve.http.request_log import RECORD, RequestRecord
from babyllm.serve.metrics import Metrics

B = TypeVar("B", bound=Body)
T = TypeVar("T")


class Service:
    """The objects that the handlers share.

    Attributes:
        engine: thread that runs the models.
        metrics: counters of requests and tokens.
        is_closing: whether new requests are refused because the server is shutting down.
    """

    def __init__(self, engine: EngineThread, metrics: Metrics, max_body_bytes: int) -> None:
        self.engine, self.metrics = engine, metrics
        self.is_closing = False
        self._bodies = BodyReader(max_body_bytes)
        self._n_read = 0  # requests whose bodies have arrived and are being tokenized

    @property
    def limits(self) -> Limits:
        """What the server accepts."""
        return Limits(self.engine.slots, self.engine.capacity)

    async def body(self, request: Request, schema: type[B]) -> B:
        """The checked body of a small request."""
        return parse_body(schema, await self._bodies.read(request))

    async def work_on(self, request: Request, schema: type[B], convert: Callable[[B], T], is_queued: bool = True) -> T:
        """What `convert` makes of the checked body of a request for the model; it runs in a thread.

        Args:
            request: request whose body has not been read.
            schema: model of its body.
            convert: function that does the work that takes time, such as tokenizing.
            is_queued: whether the model will work on the request, so that it needs room among those that wait.

        Raises:
            Problem: no more requests are accepted now, or the body is not accepted.
        """
        # A request that cannot be accepted is not read, since reading and tokenizing a long body takes time.
        if is_queued:
            self.engine.require_capacity()
        content = await self._bodies.read(request)
        if (record := record_of(request)).has_contents:
            record.body = content
        if is_queued:
            self.engine.require_capacity(1 + self._n_read)  # a body that arrives slowly occupies no capacity
        self._n_read += 1
        try:
            return await asyncio.to_thread(lambda: convert(parse_body(schema, content)))
        finally:
            self._n_read -= 1


def record_of(request: Request) -> RequestRecord:
    """What the log says about a request."""
    record: RequestRecord = request.scope["state"][RECORD]
    return record


def json_response(value: Any) -> Response:
    """The response with a JSON value."""
    return Response(to_json(value), media_type="application/json")
