"""A client's connection: uvicorn's, which also hangs up on clients that are too slow to be served.

connected, or a part of a request's head came -> the head is whole in time, or closed
more is to be sent than the client takes      -> a little of it waits; it takes some in time, or aborted, which ends
                                                 the request
"""

from __future__ import annotations

import asyncio
import socket

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_TIMEOUT_S = 60.0
TAKE_TIMEOUT_S = 60.0
PENDING_BYTES = 64 << 10
"""Of a response that the client has not taken: so many wait here, and about as many in the system's buffer."""


class Connection(H11Protocol):
    """uvicorn's HTTP protocol with limits on the time a head takes to come and a response to be read."""

    _head: asyncio.TimerHandle | None = None
    _take: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the head of the first request."""
        super().connection_made(transport)
        # Some systems would hold a whole answer by themselves, and nobody would learn that it is not read.
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, PENDING_BYTES)
        transport.set_write_buffer_limits(high=PENDING_BYTES)
        self._watch_head()

    def data_received(self, data: bytes) -> None:
        """Take a part of a request."""
        super().data_received(data)
        self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget everything."""
        super().connection_lost(exc)
        self._cancel_head()
        self._cancel_take()

    def pause_writing(self) -> None:
        """Stop sending until the client takes some of what is waiting for it."""
        super().pause_writing()
        self._take = self._take or self.loop.call_later(TAKE_TIMEOUT_S, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on sending."""
        super().resume_writing()
        self._cancel_take()

    def timeout_keep_alive_handler(self) -> None:
        """Close; what the client has not taken by now it will not get."""
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            super().timeout_keep_alive_handler()

    def _watch_head(self) -> None:
        if self.conn.their_state is not h11.IDLE:
            self._cancel_head()
        else:
            self._head = self._head or self.loop.call_later(HEAD_TIMEOUT_S, self.timeout_keep_alive_handler)

    def _cancel_head(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None

    def _cancel_take(self) -> None:
        if self._take is not None:
            self._take.cancel()
            self._take = None
