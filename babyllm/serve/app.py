"""The endpoints of the server; the function `endpoints` returns the table of them.

To add one, define its body, if it has one, in `api/schemas.py`, and add a method of `Service` and a line of the table
here. The route, the OpenAPI document, the page at /docs and the counter by path follow from the table.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from babyllm.chat.messages import ASSISTANT
from babyllm.serve.api.feedback import FeedbackFile
from babyllm.serve.api.openapi import Endpoint, openapi_document, openapi_page
from babyllm.serve.api.problem import Problem, to_json
from babyllm.serve.api.requests import GenerationRequest, chat_request, completion_request
from babyllm.serve.api.response import GenerationResponse
from babyllm.serve.api.schemas import ChatCompletionBody, CompletionBody, FeedbackBody, GenerationBody
from babyllm.serve.api.serializers import ChatSerializer, CompletionSerializer, Serializer
from babyllm.serve.api.validation import parse_body
from babyllm.serve.engine_thread import EngineThread
from babyllm.serve.http.body_reader import BodyReader
from babyllm.serve.http.middleware import REFUSED, Access, AccessMiddleware, problem_response
from babyllm.serve.http.notices import Notices
from babyllm.serve.metrics import CONTENT_TYPE, Metrics
from babyllm.serve.page import document
from babyllm.serve.served_model import ServedModel

if TYPE_CHECKING:
    from starlette.types import ASGIApp

B = TypeVar("B", bound=GenerationBody)
PAGE_HEADERS = {"cache-control": "no-cache", "x-frame-options": "DENY", "x-content-type-options": "nosniff"}
DOCS_POLICY = {"content-security-policy": "default-src 'none'; style-src 'unsafe-inline'"}


class Service:
    """The handlers of all endpoints, and the objects that they share.

    Attributes:
        engine: thread that runs the model.
        metrics: counters of requests and tokens.
        feedback: file of ratings; None if the server stores none.
        is_closing: whether new requests are refused because the server is shutting down.
    """

    def __init__(
        self, engine: EngineThread, metrics: Metrics, feedback: FeedbackFile | None, max_body_bytes: int
    ) -> None:
        self.engine, self.metrics, self.feedback = engine, metrics, feedback
        self.is_closing = False
        self._bodies = BodyReader(max_body_bytes)
        self._n_read = 0  # requests whose bodies have arrived and are being tokenized
        self._openapi = openapi_document(endpoints(self))

    async def chat(self, request: Request) -> Response:
        """POST /v1/chat/completions."""
        return await self._generate(request, ChatCompletionBody, chat_request, ChatSerializer)

    async def complete(self, request: Request) -> Response:
        """POST /v1/completions."""
        return await self._generate(request, CompletionBody, completion_request, CompletionSerializer)

    async def _generate(
        self,
        request: Request,
        schema: type[B],
        convert: Callable[[B, ServedModel, int, int], GenerationRequest],
        serializer: Callable[[GenerationRequest, ServedModel], Serializer],
    ) -> Response:
        model = self.engine.require_ready()
        # A request that cannot be accepted is not read, since reading and tokenizing a long body takes time.
        self.engine.require_capacity()
        content = await self._bodies.read(request)
        self.engine.require_capacity(1 + self._n_read)  # a body that arrives slowly occupies no capacity

        def parse() -> GenerationRequest:
            return convert(parse_body(schema, content), model, self.engine.slots, self.engine.capacity)

        self._n_read += 1
        try:
            parsed = await asyncio.to_thread(parse)
        finally:
            self._n_read -= 1
        return GenerationResponse(self.engine, self.engine.submit(parsed), serializer(parsed, model))

    async def models(self, request: Request) -> Response:
        """GET /v1/models, with additional fields for the chat page."""
        model = self.engine.require_ready()
        about = {
            "name": model.name,
            "feedback": self.feedback is not None,
            "chat": model.template is not None,
            "has_learned_chat": model.has_learned_chat,
            "context": model.context,
            "examples": model.examples,
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
        body = parse_body(FeedbackBody, await self._bodies.read(request))
        messages = [message.message() for message in body.messages]
        if messages[-1].role != ASSISTANT or not messages[-1].content.strip():
            raise Problem(400, "the last message must be the assistant's answer that is rated", param="messages")
        try:
            await asyncio.to_thread(self.feedback.add, messages, body.rating)
        except OSError as error:
            raise Problem(500, f"the feedback could not be stored: {error.strerror or error}") from None
        return _json({"stored": True})

    async def health(self, request: Request) -> Response:
        """GET /health."""
        model = self.engine.require_ready()
        return _json({"status": "ok", "model": model.name})

    async def prometheus(self, request: Request) -> Response:
        """GET /metrics."""
        text = self.metrics.text(self.engine.n_running, self.engine.n_waiting)
        return Response(text, media_type=CONTENT_TYPE)

    async def page(self, request: Request) -> Response:
        """GET /."""
        return Response(document(), headers=PAGE_HEADERS, media_type="text/html; charset=utf-8")

    async def openapi(self, request: Request) -> Response:
        """GET /openapi.json."""
        return _json(self._openapi)

    async def docs(self, request: Request) -> Response:
        """GET /docs."""
        headers = PAGE_HEADERS | DOCS_POLICY
        return Response(openapi_page(self._openapi), headers=headers, media_type="text/html; charset=utf-8")


def endpoints(service: Service) -> list[Endpoint]:
    """All endpoints of the server.

    Args:
        service: object with their handlers.
    """
    return [
        Endpoint("POST", "/v1/chat/completions", service.chat, "The answer to a conversation.", ChatCompletionBody),
        Endpoint("POST", "/v1/completions", service.complete, "The continuation of a text.", CompletionBody),
        Endpoint("GET", "/v1/models", service.models, "A list with the served model."),
        Endpoint("GET", "/v1/models/{name:path}", service.model, "The served model."),
        Endpoint("POST", "/v1/feedback", service.rate, "Stores a rating, with --feedback=FILE.", FeedbackBody),
        Endpoint("GET", "/health", service.health, "Status 200 when the model answers."),
        Endpoint("GET", "/metrics", service.prometheus, "Metrics for Prometheus."),
        Endpoint("GET", "/", service.page, "The chat page."),
        Endpoint("GET", "/openapi.json", service.openapi, "This description as OpenAPI."),
        Endpoint("GET", "/docs", service.docs, "This description as a page."),
    ]


def make_app(service: Service, access: Access, notices: Notices) -> ASGIApp:
    """The ASGI application.

    Args:
        service: object with the handlers of the endpoints.
        access: hosts, origins and API key that are accepted.
        notices: log of refused requests.
    """
    routes = [Route(known.path, known.handler, methods=[known.method]) for known in endpoints(service)]
    app = Starlette(
        routes=routes,
        exception_handlers={
            Problem: _on_problem,
            HTTPException: _on_http_error,
            ClientDisconnect: _on_disconnect,
            Exception: _on_failure,
        },
    )
    app.router.redirect_slashes = False
    return AccessMiddleware(
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


async def _on_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    request.scope["state"][REFUSED] = error.message
    return problem_response(error)


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = request.scope["path"]
    advice = "; the API is at /v1" if error.status_code == 404 and not path.startswith("/v1") else ""
    message = f"{request.method} {path[:100]}: {error.detail}{advice}"
    return await _on_problem(request, Problem(error.status_code, message, headers=error.headers))


async def _on_disconnect(request: Request, error: Exception) -> Response:
    return problem_response(Problem(400, "the client has gone"))


async def _on_failure(request: Request, error: Exception) -> Response:
    return problem_response(Problem(500, "the server failed at this request; its log says why"))
