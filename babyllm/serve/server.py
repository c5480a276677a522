"""The running server: a socket with uvicorn, the thread of the model, and an orderly shutdown.

SIGINT, SIGTERM -> new requests get 503 -> running answers have `grace_s` to finish, then are cut -> socket, thread end
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import signal
import socket
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NamedTuple

import uvicorn

from babyllm.errors import UserError
from babyllm.serve.api.feedback.feedback_file import FeedbackFile
from babyllm.serve.api.problem import Problem
from babyllm.serve.app import make_app
from babyllm.serve.catalog import Catalog
from babyllm.serve.endpoints.service import Service
from babyllm.serve.engine_thread import CLOSING, EngineThread, Loading
from babyllm.serve.http.connection import Connection, ConnectionLimit
from babyllm.serve.http.middleware import Access
from babyllm.serve.http.notices import Notices
from babyllm.serve.http.open_files import max_connections
from babyllm.serve.http.request_log import RequestLog
from babyllm.serve.metrics import Metrics
from babyllm.store.sessions.session_log import Retention, SessionLog

if TYPE_CHECKING:
    from starlette.types import ASGIApp

BACKLOG = 1024  # connections that the system holds until they are accepted
ACCEPTED_AT_ONCE = 64  # connections accepted before any other work, such as closing those beyond the limit
NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
KEEP_ALIVE_S = 60
THREAD_END_S = 5.0


KEPT = Retention(days=30, max_bytes=1 << 30)


@dataclass(frozen=True)
class Settings:
    """The address, access and limits of a server.

    Attributes:
        access: hosts and API key that are accepted; its `host` is the name or address to bind to.
        port: port to listen at; 0 takes a free one.
        max_body_bytes: largest size of a request's body, in bytes.
        feedback: path of the file for ratings; None stores no ratings.
        request_log: path of the file for a line about each request; None logs none.
        logs_contents: whether these lines hold what clients and the model say.
        log: path of the directory for sessions; None stores none.
        retention: how long sessions are stored.
        grace_s: seconds that running answers have to finish when the server shuts down.
    """

    access: Access
    port: int
    max_body_bytes: int
    feedback: Path | None
    grace_s: float
    request_log: Path | None = None
    logs_contents: bool = False
    log: Path | None = None
    retention: Retention = KEPT


class Ready(NamedTuple):
    """A server whose models are loaded.

    Attributes:
        url: address of the server.
        catalog: descriptions of the models.
        stop: function that ends the server as SIGTERM does; may be called from any thread.
    """

    url: str
    catalog: Catalog
    stop: Callable[[], None]


def serve(settings: Settings, loading: Loading, on_ready: Callable[[Ready], None]) -> None:
    """Serve until SIGINT or SIGTERM, or until `Ready.stop` is called.

    Args:
        settings: address, limits and files of the server.
        loading: settings by which the model is loaded and run.
        on_ready: function called when the model is loaded.

    Raises:
        UserError: the address is not available, a file is not writable, or the model cannot be loaded.
    """
    with ExitStack() as files:
        feedback = files.enter_context(closing(FeedbackFile(settings.feedback))) if settings.feedback else None
        request_log = None
        if settings.request_log:
            request_log = files.enter_context(closing(RequestLog(settings.request_log, settings.logs_contents)))
        log = files.enter_context(closing(SessionLog(settings.log, settings.retention))) if settings.log else None
        listener = files.enter_context(closing(bound(settings.access.host, settings.port)))
        app_of = partial(make_app, feedback=feedback, access=settings.access, request_log=request_log, log=log)
        failure = asyncio.run(_serve(settings, loading, app_of, listener, on_ready))
    if failure is not None:
        raise failure


async def _serve(
    settings: Settings,
    loading: Loading,
    app_of: Callable[..., ASGIApp],
    listener: socket.socket,
    on_ready: Callable[[Ready], None],
) -> BaseException | None:
    """Serve on a socket; return the error that kept the model from loading, or None."""
    metrics, loop = Metrics(), asyncio.get_running_loop()

    def stop() -> None:
        loop.call_soon_threadsafe(server.handle_exit, signal.SIGTERM, None)

    def on_change() -> None:
        if engine.failure is not None and engine.catalog is None:
            server.should_exit = True
        elif engine.failure is None and engine.catalog is not None and not service.is_closing:
            on_ready(Ready(url_of(listener), engine.catalog, stop))

    engine = EngineThread(loading, metrics, on_change)
    service, notices = Service(engine, metrics, settings.max_body_bytes), Notices()
    limit = ConnectionLimit(max_connections(), notices)
    server = _Server(app_of(service, notices=notices), limit, service, settings.grace_s)
    loop.set_exception_handler(partial(_log_failure, notices))
    await server.serve(sockets=[listener])
    failure = None if engine.catalog is not None else engine.failure
    await asyncio.to_thread(engine.stop, THREAD_END_S)
    return failure


def _log_failure(notices: Notices, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log an error of the event loop; accepting a connection is retried, so its failure needs no traceback."""
    error = context.get("exception")
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        notices.log(f"no more connections can be accepted for now: {error.strerror}")
    else:
        loop.default_exception_handler(context)


class _Server(uvicorn.Server):
    """uvicorn with an orderly shutdown: running answers are finished first."""

    def __init__(self, app: object, limit: ConnectionLimit, service: Service, grace_s: float) -> None:
        super().__init__(
            uvicorn.Config(
                app,  # type: ignore[arg-type]
                http=partial(Connection, limit=limit),  # type: ignore[arg-type]
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="error",  # `notices` logs the rest, at a limited rate
                access_log=False,
                server_header=False,
                proxy_headers=False,
                backlog=ACCEPTED_AT_ONCE,
                timeout_keep_alive=KEEP_ALIVE_S,
                # For connections still open after all answers were cut, such as those of clients that do not read.
                timeout_graceful_shutdown=int(grace_s) + 2,
            )
        )
        self._service, self._grace_s = service, grace_s

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen."""
        await super().startup(sockets)
        for listener in sockets or []:
            listener.listen(BACKLOG)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Refuse new requests; at the second signal, cut the running answers."""
        if self._service.is_closing:
            self._cut_in(0)
        self._service.is_closing = True
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Wait for the running answers, at most `grace_s` seconds, then shut down."""
        self._service.is_closing = True
        self._cut_in(self._grace_s)
        await super().shutdown(sockets)

    def _cut_in(self, seconds: float) -> None:
        problem = Problem(503, CLOSING, code="shutting_down")
        self._service.engine.cut_in(seconds, problem)


def bound(host: str, port: int) -> socket.socket:
    """A socket that listens at an address.

    Raises:
        UserError: the address is not available.
    """
    try:
        is_v6 = ipaddress.ip_address(host).version == 6
    except ValueError:
        is_v6 = False
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if is_v6 else socket.AF_INET, backlog=1024)
    except OSError as error:
        raise UserError(f"cannot listen at --host={host} --port={port}: {error.strerror or error}") from None


def url_of(listener: socket.socket) -> str:
    """The URL of a listening socket."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
