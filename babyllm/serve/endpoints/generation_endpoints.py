"""The endpoints that generate text: each has a body, a conversion and a serializer; the rest is one path for all."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from babyllm.serve.api.chat.chat_body import ChatCompletionBody
from babyllm.serve.api.chat.chat_request import chat_request
from babyllm.serve.api.chat.chat_serializer import ChatSerializer
from babyllm.serve.api.completions.completion_body import CompletionBody
from babyllm.serve.api.completions.completion_request import completion_request
from babyllm.serve.api.completions.completion_serializer import CompletionSerializer
from babyllm.serve.api.generation.generation_body import SamplingBody
from babyllm.serve.api.generation.generation_request import GenerationRequest
from babyllm.serve.api.generation.generation_response import GenerationResponse
from babyllm.serve.api.generation.serializer import Serializer
from babyllm.serve.api.responses.input_items import input_items
from babyllm.serve.api.responses.response_body import ResponseBody
from babyllm.serve.api.responses.response_request import input_tokens, response_request
from babyllm.serve.api.responses.response_serializer import ResponseSerializer
from babyllm.serve.api.responses.response_store import ResponseStore
from babyllm.serve.api.sessions.session_recorder import Asked, SessionRecorder, asked_in_chat, asked_in_response
from babyllm.serve.endpoints.service import Service, json_response, record_of
from babyllm.serve.served_model import ServedModel
from babyllm.store.sessions.session_log import SessionLog

B = TypeVar("B", bound=SamplingBody)
Prepared: TypeAlias = tuple[GenerationRequest, Serializer, Asked | None]


class GenerationEndpoints:
    """Handlers of the endpoints that generate text."""

    def __init__(self, service: Service, log: SessionLog | None = None) -> None:
        """Take what they need.

        Args:
            service: objects that the handlers share.
            log: log of sessions; None if the server stores none.
        """
        self._service, self._store, self._log = service, ResponseStore(), log

    async def chat(self, request: Request) -> Response:
        """POST /v1/chat/completions."""
        limits = self._service.limits

        def prepare(body: ChatCompletionBody, model: ServedModel) -> Prepared:
            wanted = chat_request(body, model, limits)
            return wanted, ChatSerializer(wanted, model), asked_in_chat(body) if self._log else None

        return await self._generate(request, ChatCompletionBody, prepare)

    async def complete(self, request: Request) -> Response:
        """POST /v1/completions."""
        limits = self._service.limits

        def prepare(body: CompletionBody, model: ServedModel) -> Prepared:
            wanted = completion_request(body, model, limits)
            return wanted, CompletionSerializer(wanted, model), None

        return await self._generate(request, CompletionBody, prepare)

    async def respond(self, request: Request) -> Response:
        """POST /v1/responses."""

        def prepare(body: ResponseBody, model: ServedModel) -> Prepared:
            wanted = response_request(body, model, self._store)
            asked = asked_in_response(body, wanted.messages) if self._log else None
            return wanted.request, ResponseSerializer(body, wanted, model, self._store), asked

        return await self._generate(request, ResponseBody, prepare)

    async def stored(self, request: Request) -> Response:
        """GET /v1/responses/ID."""
        found = self._store.find(request.path_params["name"])
        return Response(found.content, media_type="application/json")

    async def input_items(self, request: Request) -> Response:
        """GET /v1/responses/ID/input_items."""
        return json_response(input_items(self._store.find(request.path_params["name"]), request.query_params))

    async def input_tokens(self, request: Request) -> Response:
        """POST /v1/responses/input_tokens."""
        catalog = self._service.engine.require_ready()

        def convert(body: ResponseBody) -> dict[str, object]:
            return input_tokens(body, catalog.find(body.model), self._store)

        return json_response(await self._service.work_on(request, ResponseBody, convert, is_queued=False))

    async def forget(self, request: Request) -> Response:
        """DELETE /v1/responses/ID."""
        name = request.path_params["name"]
        self._store.remove(name)
        return json_response({"id": name, "object": "response", "deleted": True})

    async def _generate(
        self, request: Request, schema: type[B], prepare: Callable[[B, ServedModel], Prepared]
    ) -> Response:
        """The response to a request; `prepare` makes what the engine takes of its checked body, in a thread."""
        engine = self._service.engine
        catalog = engine.require_ready()

        def convert(body: B) -> tuple[ServedModel, Prepared]:
            model = catalog.find(body.model)
            return model, prepare(body, model)

        model, (wanted, serializer, asked) = await self._service.work_on(request, schema, convert)
        record = record_of(request)
        record.model, record.n_prompt_tokens = model.name, wanted.n_prompt_tokens
        recorder = SessionRecorder(self._log, asked, wanted, serializer.id, model.name) if self._log and asked else None
        return GenerationResponse(engine, engine.submit(wanted, model), wanted, serializer, record, recorder)
