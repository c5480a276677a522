"""The endpoints that read texts and write none: tokens and embeddings."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from babyllm.serve.api.embeddings.embedding_body import EmbeddingBody
from babyllm.serve.api.embeddings.embedding_request import EmbeddingRequest, embedding_request, embedding_response
from babyllm.serve.api.generation.generation_response import GONE, ClientDisconnected, unless_gone
from babyllm.serve.api.problem import Problem, to_json
from babyllm.serve.api.tokens.token_bodies import DetokenizeBody, TokenizeBody
from babyllm.serve.api.tokens.tokenization import detokenized, tokenized
from babyllm.serve.endpoints.service import Service, json_response, record_of
from babyllm.serve.served_model import ServedModel


class TextEndpoints:
    """Handlers of the endpoints that read texts."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def tokenize(self, request: Request) -> Response:
        """POST /tokenize."""
        catalog = self._service.engine.require_ready()

        def convert(body: TokenizeBody) -> dict[str, Any]:
            return tokenized(body, catalog.find(body.model))

        return json_response(await self._service.work_on(request, TokenizeBody, convert, is_queued=False))

    async def detokenize(self, request: Request) -> Response:
        """POST /detokenize."""
        catalog = self._service.engine.require_ready()

        def convert(body: DetokenizeBody) -> dict[str, Any]:
            return detokenized(body, catalog.find(body.model))

        return json_response(await self._service.work_on(request, DetokenizeBody, convert, is_queued=False))

    async def embed(self, request: Request) -> Response:
        """POST /v1/embeddings."""
        engine = self._service.engine
        catalog = engine.require_ready()

        def convert(body: EmbeddingBody) -> tuple[EmbeddingRequest, ServedModel]:
            model = catalog.find(body.model)
            return embedding_request(body, model), model

        parsed, model = await self._service.work_on(request, EmbeddingBody, convert)
        record = record_of(request)
        record.model, record.n_prompt_tokens = model.name, sum(len(prompt.ids) for prompt in parsed.prompts)
        ticket = engine.embed(parsed, model)
        try:
            vectors = await unless_gone(request.receive, ticket.vectors.get())
        except ClientDisconnected:
            request.scope["state"][GONE] = True
            return Response()
        finally:
            engine.release(ticket)
        if isinstance(vectors, Problem):
            raise vectors
        # Many embeddings are megabytes of JSON.
        content = await asyncio.to_thread(lambda: to_json(embedding_response(parsed, model, vectors)))
        return Response(content, media_type="application/json")
