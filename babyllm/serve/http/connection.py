"""A client's connection: uvicorn's, with limits on the number of connections and on slow clients.

more connections than the limit    -> the one that has waited longest for a request is closed
the head of a request is not whole -> it must be whole in time, else the connection is closed
the client reads too slowly        -> little is buffered; the client must read some of it in time, else the connection
                                      is aborted and the request ends
"""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass, field
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from babyllm.serve.api.problem import Problem, to_json
from babyllm.serve.http.notices import Notices

HEAD_TIMEOUT_S = 10.0
TAKE_TIMEOUT_S = 60.0
NO_HTTP = "this is not a valid HTTP request; for https a proxy must stand before the server"
PENDING_BYTES = 64 << 10
"""Largest number of unread bytes of a response that wait here; about as many wait in the system's buffer."""


@dataclass
class ConnectionLimit:
    """All connections of a server.

    Attributes:
        max_connections: largest number of connections.
        notices: log of the connections that are closed.
        waiting: connections without a whole request; the first is the one that has waited longest.
    """

    max_connections: int
    notices: Notices
    waiting: dict[Connection, None] = field(default_factory=dict)

    def close_oldest(self) -> None:
        """Close the connection that has waited longest for a request."""
        self.notices.log(
            f"more than {self.max_connections} connections: the ones that wait longest for a request are closed"
        )
        oldest = next(iter(self.waiting), None)
        if oldest is not None:
            del self.waiting[oldest]
            oldest.transport.abort()


class Connection(H11Protocol):
    """uvicorn's HTTP protocol, with time limits for a request's head to arrive and for a response to be read."""

    _head: asyncio.TimerHandle | None = None
    _take: asyncio.TimerHandle | None = None

    def __init__(self, *, limit: ConnectionLimit, **settings: Any) -> None:
        """Make the protocol of a new connection.

        Args:
            limit: all connections of the server.
            settings: settings of uvicorn's protocol.
        """
        super().__init__(**settings)
        self._limit = limit

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the head of the first request."""
        super().connection_made(transport)
        # Some systems would buffer a whole answer, and then it would not be noticed that the client reads nothing.
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, PENDING_BYTES)
        transport.set_write_buffer_limits(high=PENDING_BYTES)
        self._watch()
        if len(self.connections) > self._limit.max_connections:
            self._limit.close_oldest()

    def data_received(self, data: bytes) -> None:
        """Process a part of a request."""
        super().data_received(data)
        self._watch()

    def eof_received(self) -> bool:  # type: ignore[override]
        """Close the connection of a client that has closed its side; requests other than POST are answered first.

        A client that waits for a model's answer and closes its side counts as disconnected.
        """
        is_looking = self.cycle is not None and self.scope["method"] != "POST"
        if is_looking and not self.cycle.response_complete:
            self.cycle.keep_alive = False
            return True
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget everything."""
        super().connection_lost(exc)
        self._limit.waiting.pop(self, None)
        self._cancel_head()
        self._cancel_take()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        if not self.transport.is_closing():
            self._note_waiting()

    def send_400_response(self, msg: str) -> None:
        """Answer invalid HTTP with an error in the API's format and close the connection."""
        self._limit.notices.log(f"400 from {self.client[0] if self.client else '?'}: {NO_HTTP}")
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            content = to_json(Problem(400, NO_HTTP).body())
            headers = [("content-type", "application/json"), ("content-length", str(len(content)))]
            head = h11.Response(status_code=400, headers=[*headers, ("connection", "close")], reason=b"Bad Request")
            for event in (head, h11.Data(data=content), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def pause_writing(self) -> None:
        """Stop sending until the client has read some of the waiting bytes."""
        super().pause_writing()
        self._take = self._take or self.loop.call_later(TAKE_TIMEOUT_S, self.transport.abort)

    def resume_writing(self) -> None:
        """Continue sending."""
        super().resume_writing()
        self._cancel_take()

    def timeout_keep_alive_handler(self) -> None:
        """Close the connection; bytes that the client has not read by now are lost."""
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            super().timeout_keep_alive_handler()

    def _watch(self) -> None:
        self._note_waiting()
        if self.conn.their_state is not h11.IDLE:
            self._cancel_head()
        else:
            self._head = self._head or self.loop.call_later(HEAD_TIMEOUT_S, self.timeout_keep_alive_handler)

    def _note_waiting(self) -> None:
        if self.conn.their_state in (h11.IDLE, h11.SEND_BODY):
            self._limit.waiting.setdefault(self)
        else:
            self._limit.waiting.pop(self, None)

    def _cancel_head(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None

    def _cancel_take(self) -> None:
        if self._take is not None:
            self._take.cancel()
            self._take = None
