"""The endpoints for people and machines beside the API: page, description, metrics, ratings."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from babyllm.chat.messages import ASSISTANT, Message
from babyllm.serve.api.feedback.feedback_body import FeedbackBody
from babyllm.serve.api.feedback.feedback_file import FeedbackFile
from babyllm.serve.api.openapi import Endpoint, openapi_document, openapi_page
from babyllm.serve.api.problem import Problem
from babyllm.serve.api.sessions.session_recorder import message_line
from babyllm.serve.endpoints.service import Service, json_response
from babyllm.serve.metrics import CONTENT_TYPE
from babyllm.serve.page import document
from babyllm.store.sessions.session_log import RATING, SessionLog

HTML = "text/html; charset=utf-8"
PAGE_HEADERS = {"cache-control": "no-cache", "x-frame-options": "DENY", "x-content-type-options": "nosniff"}
DOCS_POLICY = {"content-security-policy": "default-src 'none'; style-src 'unsafe-inline'"}


class OtherEndpoints:
    """Handlers of the endpoints that need no model."""

    def __init__(self, service: Service, feedback: FeedbackFile | None, log: SessionLog | None = None) -> None:
        """Take what they need.

        Args:
            service: objects that the handlers share.
            feedback: file of ratings; None if the server has none.
            log: log of sessions, which takes ratings too; None if the server stores none.
        """
        self._service, self._feedback, self._log = service, feedback, log
        self._openapi = openapi_document([])

    def describe(self, endpoints: Sequence[Endpoint]) -> None:
        """Make the description of these endpoints, which are those of the whole server."""
        self._openapi = openapi_document(endpoints)

    async def rate(self, request: Request) -> Response:
        """POST /v1/feedback."""
        if self._feedback is None and self._log is None:
            message = "this server stores no feedback: start it with --feedback=FILE or --log=DIR"
            raise Problem(404, message, code="feedback_off")
        body = await self._service.body(request, FeedbackBody)
        messages = [message.message() for message in body.messages]
        if not messages and (self._feedback or not body.answer):
            raise Problem(400, "messages must be a list of messages, the last of which is rated", param="messages")
        if messages and (messages[-1].role != ASSISTANT or not messages[-1].content.strip()):
            raise Problem(400, "the last message must be the assistant's answer that is rated", param="messages")
        try:
            if self._feedback:
                await asyncio.to_thread(self._feedback.add, messages, body.rating)
        except OSError as error:
            raise Problem(500, f"the feedback could not be stored: {error.strerror or error}") from None
        if self._log and not await asyncio.wrap_future(self._log.add(_rating_line(body, messages))):
            raise Problem(500, "the feedback could not be stored: its disk is full or not writable")
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


def _rating_line(body: FeedbackBody, messages: Sequence[Message]) -> dict[str, Any]:
    """A rating as a line of the log of sessions."""
    line: dict[str, Any] = {"kind": RATING, "answer": body.answer, "number": body.number, "rating": body.rating}
    line |= {"correction": body.correction} if body.correction else {}
    return line | {"messages": [message_line(message) for message in messages]}
