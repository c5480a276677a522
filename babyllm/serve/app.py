"""The routes of the server.

POST /v1/chat/completions, /v1/completions      answers, whole or streamed
GET  /v1/models, /v1/models/NAME                the model
POST /v1/feedback                               a rating of an answer, where the server stores them
GET  /  /health  /metrics                       the chat page; whether the model is ready; numbers for Prometheus
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from babyllm.chat.messages import ASSISTANT
from babyllm.serve.api.feedback import FeedbackFile
from babyllm.serve.api.fields import Fields, parse_json
from babyllm.serve.api.forms import ChatForm, CompletionForm
from babyllm.serve.api.problem import Problem, to_json
from babyllm.serve.api.reply import Reply
from babyllm.serve.api.requests import Asked, read_chat, read_completion, read_messages
from babyllm.serve.engine_thread import EngineThread
from babyllm.serve.http.middleware import REFUSED, Access, Door, problem_response
from babyllm.serve.http.notices import Notices
from babyllm.serve.metrics import CONTENT_TYPE, Metrics
from babyllm.serve.page import document
from babyllm.serve.served import ServedModel

if TYPE_CHECKING:
    from starlette.types import ASGIApp

BODY_TIMEOUT_S = 60.0
READ_ON = 8  # times the size allowed, of a body that is too large
SMALL_BODY_BYTES = 64 << 10
HELD_BODIES = 16  # of the size allowed: so much of larger bodies is held while they come


class Service:
    """What the routes work with.

    Attributes:
        engine: runs the model.
        metrics: count what is done.
        feedback: stores ratings; None if the server stores none.
        max_body_bytes: of a request.
        is_closing: whether no request is taken any more.
    """

    def __init__(
        self, engine: EngineThread, metrics: Metrics, feedback: FeedbackFile | None, max_body_bytes: int
    ) -> None:
        self.engine, self.metrics, self.feedback, self.max_body_bytes = engine, metrics, feedback, max_body_bytes
        self.is_closing = False
        self._n_read = 0  # requests whose bodies have come, and that are made ids of
        self._n_held_bytes = 0  # of bodies that come

    async def chat(self, request: Request) -> Response:
        """POST /v1/chat/completions."""
        return await self._reply(request, read_chat, ChatForm)

    async def complete(self, request: Request) -> Response:
        """POST /v1/completions."""
        return await self._reply(request, read_completion, CompletionForm)

    async def _reply(
        self,
        request: Request,
        read: Callable[[bytes, ServedModel, int, int], Asked],
        form: Callable[[Asked, ServedModel], ChatForm | CompletionForm],
    ) -> Response:
        model = self.engine.require_ready()
        # A request that could not be taken is not read: it may be long, and so may be what makes ids of it.
        self.engine.require_room()
        body = await self._body(request)
        self.engine.require_room(1 + self._n_read)  # whose body comes slowly takes nobody's place
        self._n_read += 1
        try:
            asked = await asyncio.to_thread(read, body, model, self.engine.slots, self.engine.capacity)
        finally:
            self._n_read -= 1
        return Reply(self.engine, self.engine.submit(asked), form(asked, model))

    async def _body(self, request: Request) -> bytes:
        """The body of a request, which is JSON.

        Raises:
            Problem: it is too large, comes too slowly, or says that it is something else.
        """
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            # Browsers let a page of any site send other types; this one they ask about first.
            raise Problem(415, "send JSON with the header Content-Type: application/json")
        if (coding := request.headers.get("content-encoding", "identity").lower()) != "identity":
            message = f"a body in {coding[:20]!r} is not read here: send it without Content-Encoding"
            raise Problem(415, message, headers={"accept-encoding": "identity"})
        try:
            body = await asyncio.wait_for(self._read(request), BODY_TIMEOUT_S)
        except asyncio.TimeoutError:
            raise Problem(408, "the body came too slowly", headers={"connection": "close"}) from None
        if body is None:
            message = f"the body is larger than {self.max_body_bytes} bytes"
            raise Problem(413, message, code="body_too_large", headers={"connection": "close"})
        return body

    async def _read(self, request: Request) -> bytes | None:
        """The body of a request; None if it is too large."""
        parts, size = bytearray(), 0
        try:
            async for part in request.stream():
                size += len(part)
                if size <= self.max_body_bytes:
                    parts += part
                    self._n_held_bytes += len(part)
                    self._require_memory(size)
                elif size > READ_ON * self.max_body_bytes:
                    return None
                else:  # the rest is passed over: most clients look for an answer only when they have sent all
                    self._n_held_bytes -= len(parts)
                    parts.clear()
        finally:
            self._n_held_bytes -= len(parts)
        return bytes(parts) if size <= self.max_body_bytes else None

    def _require_memory(self, size: int) -> None:
        """Refuse a large body while too much of such bodies is held; those of ordinary chats always have room."""
        if size > SMALL_BODY_BYTES and self._n_held_bytes > HELD_BODIES * self.max_body_bytes:
            message = "too many large bodies come at once; try again later"
            raise Problem(429, message, code="queue_full", headers={"connection": "close"})

    async def models(self, request: Request) -> Response:
        """GET /v1/models, with what the chat page wants to know."""
        model = self.engine.require_ready()
        about = {
            "name": model.name,
            "feedback": self.feedback is not None,
            "chat": model.template is not None,
            "has_learned_chat": model.has_learned_chat,
            "context": model.context,
        }
        return _json({"object": "list", "data": [_model_object(model)], "babyllm": about})

    async def model(self, request: Request) -> Response:
        """GET /v1/models/NAME."""
        model = self.engine.require_ready()
        if request.path_params["name"] != model.name:
            raise Problem(404, f"this is the model {model.name!r}", param="model", code="model_not_found")
        return _json(_model_object(model))

    async def rate(self, request: Request) -> Response:
        """POST /v1/feedback."""
        if self.feedback is None:
            raise Problem(404, "this server stores no feedback: start it with --feedback=FILE", code="feedback_off")
        fields = Fields(parse_json(await self._body(request)))
        messages = read_messages(fields)
        rating = fields.take("rating")
        if isinstance(rating, bool) or rating not in (1, -1):
            fields.refuse("rating", "1 or -1")
        fields.drop(frozenset(), {})
        if messages[-1].role != ASSISTANT or not messages[-1].content.strip():
            raise Problem(400, "the last message must be the assistant's answer that is rated", param="messages")
        try:
            await asyncio.to_thread(self.feedback.add, messages, rating)
        except OSError as error:
            raise Problem(500, f"the feedback could not be stored: {error.strerror or error}") from None
        return _json({"stored": True})

    async def health(self, request: Request) -> Response:
        """GET /health."""
        model = self.engine.require_ready()
        return _json({"status": "ok", "model": model.name})

    async def numbers(self, request: Request) -> Response:
        """GET /metrics."""
        text = self.metrics.text(self.engine.n_running, self.engine.n_waiting)
        return Response(text, media_type=CONTENT_TYPE)

    async def page(self, request: Request) -> Response:
        """GET /."""
        headers = {"cache-control": "no-cache", "x-frame-options": "DENY", "x-content-type-options": "nosniff"}
        return Response(document(), headers=headers, media_type="text/html; charset=utf-8")


def make_app(service: Service, access: Access, notices: Notices) -> ASGIApp:
    """The ASGI application.

    Args:
        service: what it works with.
        access: who may come in.
        notices: are told of what is refused.
    """
    routes = [
        Route("/", service.page),
        Route("/health", service.health),
        Route("/metrics", service.numbers),
        Route("/v1/models", service.models),
        Route("/v1/models/{name:path}", service.model),
        Route("/v1/completions", service.complete, methods=["POST"]),
        Route("/v1/chat/completions", service.chat, methods=["POST"]),
        Route("/v1/feedback", service.rate, methods=["POST"]),
    ]
    app = Starlette(
        routes=routes,
        exception_handlers={
            Problem: _tell_problem,
            HTTPException: _tell_http,
            ClientDisconnect: _tell_nobody,
            Exception: _tell_error,
        },
    )
    app.router.redirect_slashes = False
    return Door(
        app,
        access,
        metrics=service.metrics,
        notices=notices,
        paths=frozenset(route.path for route in routes),
        is_closing=lambda: service.is_closing,
    )


def _model_object(model: ServedModel) -> dict[str, Any]:
    return {"id": model.name, "object": "model", "created": model.created, "owned_by": "babyllm"}


def _json(value: Any) -> Response:
    return Response(to_json(value), media_type="application/json")


async def _tell_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    request.scope["state"][REFUSED] = error.message
    return problem_response(error)


async def _tell_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = request.scope["path"]
    advice = "; the API is at /v1" if error.status_code == 404 and not path.startswith("/v1") else ""
    message = f"{request.method} {path[:100]}: {error.detail}{advice}"
    return await _tell_problem(request, Problem(error.status_code, message, headers=error.headers))


async def _tell_nobody(request: Request, error: Exception) -> Response:
    return problem_response(Problem(400, "the client has gone"))


async def _tell_error(request: Request, error: Exception) -> Response:
    return problem_response(Problem(500, "the server failed at this request; its log tells why"))
