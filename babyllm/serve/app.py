"""The endpoints of the server; the function `endpoints` returns the table of them.

To add one, define its body, if it has one, in a subpackage of `api`, and add a method of one of the classes in
`endpoints/` and a line of the table here. The route, the OpenAPI document, the page at /docs and the counter by path
follow from the table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from babyllm.serve.api.chat.chat_body import ChatCompletionBody
from babyllm.serve.api.completions.completion_body import CompletionBody
from babyllm.serve.api.embeddings.embedding_body import EmbeddingBody
from babyllm.serve.api.feedback.feedback_body import FeedbackBody
from babyllm.serve.api.feedback.feedback_file import FeedbackFile
from babyllm.serve.api.openapi import Endpoint
from babyllm.serve.api.problem import Problem
from babyllm.serve.api.responses.response_body import ResponseBody
from babyllm.serve.api.tokens.token_bodies import DetokenizeBody, TokenizeBody
from babyllm.serve.endpoints.generation_endpoints import GenerationEndpoints
from babyllm.serve.endpoints.model_endpoints import ModelEndpoints
from babyllm.serve.endpoints.other_endpoints import OtherEndpoints
from babyllm.serve.endpoints.service import Service
from babyllm.serve.endpoints.text_endpoints import TextEndpoints
from babyllm.serve.http.cross_origin import origin_problem
from babyllm.serve.http.middleware import REFUSED, Access, AccessMiddleware, problem_response
from babyllm.serve.http.notices import Notices
from babyllm.serve.http.request_log import RequestLog
from babyllm.store.sessions.session_log import SessionLog

if TYPE_CHECKING:
    from starlette.types import ASGIApp


def endpoints(service: Service, feedback: FeedbackFile | None, log: SessionLog | None = None) -> list[Endpoint]:
    """All endpoints of the server.

    Args:
        service: objects that their handlers share.
        feedback: file of ratings; None if the server stores none.
        log: log of sessions; None if the server stores none.
    """
    answers, texts = GenerationEndpoints(service, log), TextEndpoints(service)
    models = ModelEndpoints(service, has_feedback=bool(feedback or log), stored_days=log.days if log else None)
    others = OtherEndpoints(service, feedback, log)
    table = [
        Endpoint("POST", "/v1/chat/completions", answers.chat, "The answer to a conversation.", ChatCompletionBody),
        Endpoint("POST", "/v1/completions", answers.complete, "The continuation of a text.", CompletionBody),
        Endpoint("POST", "/v1/responses", answers.respond, "The next response in a conversation.", ResponseBody),
        Endpoint(
            "POST",
            "/v1/responses/input_tokens",
            answers.input_tokens,
            "The length of its prompt.",
            ResponseBody,
        ),
        Endpoint("GET", "/v1/responses/{name}/input_items", answers.input_items, "What a kept response answers."),
        Endpoint("GET", "/v1/responses/{name}", answers.stored, "A response that the server keeps."),
        Endpoint("DELETE", "/v1/responses/{name}", answers.forget, "Forgets a response."),
        Endpoint("POST", "/v1/embeddings", texts.embed, "Vectors of texts.", EmbeddingBody),
        Endpoint("POST", "/tokenize", texts.tokenize, "The token ids of a text or a conversation.", TokenizeBody),
        Endpoint("POST", "/detokenize", texts.detokenize, "The text of token ids.", DetokenizeBody),
        Endpoint("GET", "/v1/models", models.models, "A list of the served models."),
        Endpoint("GET", "/v1/models/{name:path}", models.model, "One served model."),
        Endpoint("POST", "/v1/feedback", others.rate, "Stores a rating.", FeedbackBody),
        Endpoint("GET", "/health", models.health, "Status 200 when the model answers."),
        Endpoint("GET", "/metrics", others.prometheus, "Metrics for Prometheus."),
        Endpoint("GET", "/", others.page, "The chat page."),
        Endpoint("GET", "/openapi.json", others.openapi, "This description as OpenAPI."),
        Endpoint("GET", "/docs", others.docs, "This description as a page."),
    ]
    others.describe(table)
    return table


def make_app(
    service: Service,
    feedback: FeedbackFile | None,
    access: Access,
    notices: Notices,
    request_log: RequestLog | None = None,
    log: SessionLog | None = None,
) -> ASGIApp:
    """The ASGI application.

    Args:
        service: objects that the handlers of the endpoints share.
        feedback: file of ratings; None if the server stores none.
        access: hosts, origins and API key that are accepted.
        notices: log of refused requests.
        request_log: log of all requests; None logs none.
        log: log of sessions; None stores none.
    """
    table = endpoints(service, feedback, log)
    app = Starlette(
        routes=[Route(known.path, known.handler, methods=[known.method]) for known in table],
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
        paths=frozenset(known.path for known in table),
        is_closing=lambda: service.is_closing,
        request_log=request_log,
    )


async def _on_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    request.scope["state"][REFUSED] = error.message
    return problem_response(error)


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = request.scope["path"]
    if request.method == "OPTIONS" and "access-control-request-method" in request.headers:
        return await _on_problem(request, origin_problem(request.headers.get("origin", ""), error.status_code))
    advice = "; the API is at /v1" if error.status_code == 404 and not path.startswith("/v1") else ""
    message = f"{request.method} {path[:100]}: {error.detail}{advice}"
    return await _on_problem(request, Problem(error.status_code, message, headers=error.headers))


async def _on_disconnect(request: Request, error: Exception) -> Response:
    return problem_response(Problem(400, "the client has gone"))


async def _on_failure(request: Request, error: Exception) -> Response:
    return problem_response(Problem(500, "the server failed at this request; its log says why"))
