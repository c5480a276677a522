"""Sending answers to the client, whole or as a stream of events, until it has received them or disconnects.

Ticket.deltas -> Serializer -> one JSON object | head at once, data: {...} for each delta, data: [DONE]

While an answer waits for its slot, or its prompt is long, the stream carries comments, so that neither clients nor
proxies close it as dead.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from babyllm.serve.api.generation.choice import ChoiceDelta
from babyllm.serve.api.generation.generation_request import GenerationRequest
from babyllm.serve.api.generation.serializer import CompletedChoice, Serializer, Usage
from babyllm.serve.api.problem import to_json
from babyllm.serve.api.sessions.session_recorder import SessionRecorder
from babyllm.serve.engine_thread import EngineThread
from babyllm.serve.http.request_log import RequestRecord
from babyllm.serve.tickets import Ticket

T = TypeVar("T")
SILENCE_S = 10.0
COMMENT = b": waiting\n\n"  # an SSE comment, which clients ignore
STREAM_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # else nginx buffers a few kilobytes before it forwards anything
]
GONE = "gone"  # key in the state of a request whose client disconnected before the answer


class ClientDisconnected(Exception):
    """The client has disconnected, or was disconnected because it was too slow."""


class GenerationResponse(Response):
    """The response to a request that was submitted to the engine; when the response ends, the request is released."""

    def __init__(
        self,
        engine: EngineThread,
        ticket: Ticket,
        request: GenerationRequest,
        serializer: Serializer,
        record: RequestRecord,
        recorder: SessionRecorder | None = None,
    ) -> None:
        """Begin a response.

        Args:
            engine: thread to which the request was submitted.
            ticket: what has come of the request.
            request: the request.
            serializer: JSON form of the answers.
            record: what the log says about the request.
            recorder: what stores the answers; None stores none.
        """
        super().__init__()
        self._engine, self._ticket, self._request, self._serializer = engine, ticket, request, serializer
        self._record, self._recorder = record, recorder
        self._n_tokens = 0
        self._n_cached: dict[int, int] = {}  # by the identity of the prompt, which several answers can have

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answers.

        Raises:
            Problem: the request failed before anything was sent.
        """
        try:
            work = self._stream(send) if self._request.is_stream else self._whole(send)
            await unless_gone(receive, work)
        except ClientDisconnected:
            scope["state"][GONE] = True  # for the middleware, which counts it
        finally:
            self._engine.release(self._ticket)
            if self._recorder:
                self._recorder.end()

    async def _next(self) -> ChoiceDelta:
        delta = await self._ticket.deltas.get()
        self._n_tokens += delta.n_tokens
        if delta.n_cached is not None:
            self._n_cached.setdefault(id(self._request.choices[delta.number].prompt), delta.n_cached)
        record = self._record
        if delta.n_tokens and record.first_token_s is None:
            record.first_token_s = time.perf_counter() - self._ticket.began
        record.n_completion_tokens = self._n_tokens
        if record.has_contents:
            record.answers.setdefault(delta.number, []).append(delta.text)
        if self._recorder:
            self._recorder.add(delta)
        return delta

    def _usage(self) -> Usage:
        n_cached = sum(self._n_cached.values()) if self._n_cached else None
        return Usage(self._request.n_prompt_tokens, self._n_tokens, n_cached)

    async def _next_of_stream(self, send: Send) -> ChoiceDelta:
        while self._ticket.deltas.empty():
            try:
                return await asyncio.wait_for(self._next(), SILENCE_S)
            except asyncio.TimeoutError:
                await send(_body(COMMENT, has_more=True))
        return await self._next()

    async def _whole(self, send: Send) -> None:
        request = self._request
        answers = [CompletedChoice() for _ in request.choices]
        while any(answer.finish is None for answer in answers):
            delta = await self._next()
            if delta.problem:
                raise delta.problem
            answers[delta.number].add(delta)
        if self._recorder:
            await self._recorder.store()
        content = to_json(self._serializer.response(answers, self._usage()))
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    async def _stream(self, send: Send) -> None:
        request = self._request
        await send({"type": "http.response.start", "status": 200, "headers": STREAM_HEADERS})
        await send(_body(COMMENT, has_more=True))  # so that proxies forward the headers
        await self._send_events(send, *self._serializer.opening_events())
        n_left = len(request.choices)
        while n_left:
            delta = await self._next_of_stream(send)
            if delta.problem:
                # The status is already sent, so an error event reports it. No [DONE] follows an incomplete answer.
                await self._send_events(send, *self._serializer.failure_events(delta.problem), is_end=True)
                return
            n_left -= delta.is_last
            if self._recorder and not n_left:
                await self._recorder.store()
            if delta.text or delta.tokens or delta.finish:
                await self._send_events(send, *self._serializer.delta_events(delta))
        await self._send_events(send, *self._serializer.closing_events(self._usage()))
        await send(_body(b"" if self._serializer.is_typed else b"data: [DONE]\n\n"))

    async def _send_events(self, send: Send, *events: dict[str, Any], is_end: bool = False) -> None:
        content = b"".join(map(self._event, events))
        if content:
            await send(_body(content, has_more=not is_end))

    def _event(self, event: dict[str, Any]) -> bytes:
        name = b"event: %b\n" % event["type"].encode() if self._serializer.is_typed else b""
        return b"%bdata: %b\n\n" % (name, to_json(event))


def _body(content: bytes, has_more: bool = False) -> Message:
    return {"type": "http.response.body", "body": content, "more_body": has_more}


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Run `work` until it ends or the client disconnects, and return its result.

    Raises:
        ClientDisconnected: the client has disconnected.
        Problem: `work` raised it.
    """
    working = asyncio.ensure_future(work)
    going = asyncio.ensure_future(_until_gone(receive, working))
    try:
        await asyncio.wait((working, going), return_when=asyncio.FIRST_COMPLETED)
        # Work that only had to send finished data may have ended by itself, without a client to receive it.
        if going.done() and going.result():
            raise ClientDisconnected
        return working.result()
    finally:
        for task in (working, going):
            task.cancel()
        await asyncio.gather(working, going, return_exceptions=True)


async def _until_gone(receive: Receive, working: asyncio.Future[T]) -> bool:
    """Wait for the end of the connection or the response; return whether the work was still unfinished then."""
    while (await receive())["type"] != "http.disconnect":
        pass
    return not working.done()
