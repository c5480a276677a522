"""Reading of request bodies, within limits of size, time and memory."""

from __future__ import annotations

import asyncio

from starlette.requests import Request

from babyllm.serve.api.problem import Problem

BODY_TIMEOUT_S = 60.0
MAX_DISCARDED = 8
"""Limit of what is read and discarded of a body that is too large, as a multiple of the allowed size."""
SMALL_BODY_BYTES = 64 << 10
MAX_HELD = 16
"""Number of bodies of the allowed size that are held while they arrive; small bodies are always accepted."""


class BodyReader:
    """Reads the JSON bodies of a server's requests.

    Attributes:
        max_bytes: largest size of a body, in bytes.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._n_held_bytes = 0  # total of all bodies that are being read

    async def read(self, request: Request) -> bytes:
        """The body of a request.

        Raises:
            Problem: the body is too large, arrives too slowly, is compressed, or is not declared as JSON.
        """
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            # Browsers let pages of any site send other types; for JSON they ask the server first (CORS).
            raise Problem(415, "send JSON with the header Content-Type: application/json")
        if (coding := request.headers.get("content-encoding", "identity").lower()) != "identity":
            message = f"a body in {coding[:20]!r} is not read here: send it without Content-Encoding"
            raise Problem(415, message, headers={"accept-encoding": "identity"})
        try:
            body = await asyncio.wait_for(self._read(request), BODY_TIMEOUT_S)
        except asyncio.TimeoutError:
            raise Problem(408, "the body came too slowly", headers={"connection": "close"}) from None
        if body is None:
            message = f"the body is larger than {self.max_bytes} bytes"
            raise Problem(413, message, code="body_too_large", headers={"connection": "close"})
        return body

    async def _read(self, request: Request) -> bytes | None:
        """The body of a request; None if it is too large."""
        held, size = bytearray(), 0
        try:
            async for chunk in request.stream():
                size += len(chunk)
                if size <= self.max_bytes:
                    held += chunk
                    self._n_held_bytes += len(chunk)
                    self._require_memory(size)
                elif size > MAX_DISCARDED * self.max_bytes:
                    return None
                else:  # most clients read the answer only after sending everything, so the rest is discarded
                    self._n_held_bytes -= len(held)
                    held.clear()
        finally:
            self._n_held_bytes -= len(held)
        return bytes(held) if size <= self.max_bytes else None

    def _require_memory(self, size: int) -> None:
        """Refuse a large body while too many bytes of bodies are held; bodies of ordinary chats are always accepted."""
        if size > SMALL_BODY_BYTES and self._n_held_bytes > MAX_HELD * self.max_bytes:
            message = "too many large bodies come at once; try again later"
            raise Problem(429, message, code="queue_full", headers={"connection": "close"})
