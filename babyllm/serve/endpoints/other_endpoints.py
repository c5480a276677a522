"""The endpoints for people and machines beside the API: page, description, metrics, ratings."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response

from babyllm.chat.messages import ASSISTANT
from babyllm.serve.api.feedback.feedback_body import FeedbackBody
from babyllm.serve.api.feedback.feedback_file import FeedbackFile
from babyllm.serve.api.openapi import Endpoint, openapi_document, openapi_page
from babyllm.serve.api.problem import Problem
from babyllm.serve.endpoints.service import Service, json_response
from babyllm.serve.metrics import CONTENT_TYPE
from babyllm.serve.page import document

HTML = "text/html; charset=utf-8"
PAGE_HEADERS = {"cache-control": "no-cache", "x-frame-options": "DENY", "x-content-type-options": "nosniff"}
DOCS_POLICY = {"content-security-policy": "default-src 'none'; style-src 'unsafe-inline'"}


class OtherEndpoints:
    """Handlers of the endpoints that need no model."""

    def __init__(self, service: Service, feedback: FeedbackFile | None) -> None:
        """Take what they need.

        Args:
            service: objects that the handlers share.
            feedback: file of ratings; None if the server stores none.
        """
        self._service, self._feedback = service, feedback
        self._openapi = openapi_document([])

    def describe(self, endpoints: Sequence[Endpoint]) -> None:
        """Make the description of these endpoints, which are those of the whole server."""
        self._openapi = openapi_document(endpoints)

    async def rate(self, request: Request) -> Response:
        """POST /v1/feedback."""
        if self._feedback is None:
            raise Problem(404, "this server stores no feedback: start it with --feedback=FILE", code="feedback_off")
        body = await self._service.body(request, FeedbackBody)
        messages = [message.message() for message in body.messages]
        if messages[-1].role != ASSISTANT or not messages[-1].content.strip():
            raise Problem(400, "the last message must be the assistant's answer that is rated", param="messages")
        try:
            await asyncio.to_thread(self._feedback.add, messages, body.rating)
        except OSError as error:
            raise Problem(500, f"the feedback could not be stored: {error.strerror or error}") from None
        return json_response({"stored": True})

    async def prometheus(self, request: Request) -> Response:
        """GET /metrics."""
        engine = self._service.engine
        text = self._service.metrics.text(engine.n_running, engine.n_waiting)
        return Response(text, media_type=CONTENT_TYPE)

    async def page(self, request: Request) -> Response:
        """GET /."""
        return Response(document(), headers=PAGE_HEADERS, media_type=HTML)

    async def openapi(self, request: Request) -> Response:
        """GET /openapi.json."""
        return json_response(self._openapi)

    async def docs(self, request: Request) -> Response:
        """GET /docs."""
        return Response(openapi_page(self._openapi), headers=PAGE_HEADERS | DOCS_POLICY, media_type=HTML)
