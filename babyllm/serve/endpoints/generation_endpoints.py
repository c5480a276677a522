"""The endpoints that generate text: each has a body, a conversion and a serializer; the rest is one path for all."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from starlette.requests import Request
from starlette.responses import Response

from babyllm.serve.api.chat.chat_body import ChatCompletionBody
from babyllm.serve.api.chat.chat_request import chat_request
from babyllm.serve.api.chat.chat_serializer import ChatSerializer
from babyllm.serve.api.completions.completion_body import CompletionBody
from babyllm.serve.api.completions.completion_request import completion_request
from babyllm.serve.api.completions.completion_serializer import CompletionSerializer
from babyllm.serve.api.generation.generation_body import SamplingBody
from babyllm.serve.api.generation.generation_request import GenerationRequest, Limits
from babyllm.serve.api.generation.generation_response import GenerationResponse
from babyllm.serve.api.generation.serializer import Serializer
from babyllm.serve.endpoints.service import Service
from babyllm.serve.served_model import ServedModel

B = TypeVar("B", bound=SamplingBody)


class GenerationEndpoints:
    """Handlers of the endpoints that generate text."""

    def __init__(self, service: Service) -> None:
        self._service = service

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
        convert: Callable[[B, ServedModel, Limits], GenerationRequest],
        serializer: Callable[[GenerationRequest, ServedModel], Serializer],
    ) -> Response:
        engine = self._service.engine
        catalog, limits = engine.require_ready(), self._service.limits

        def parse(body: B) -> tuple[GenerationRequest, ServedModel]:
            model = catalog.find(body.model)
            return convert(body, model, limits), model

        parsed, model = await self._service.work_on(request, schema, parse)
        ticket = engine.submit(parsed, model)
        return GenerationResponse(engine, ticket, parsed, serializer(parsed, model))
