"""An endpoint in a thread, whose answers are functions: honest ones, and ones that err, stall, lie and break off."""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SECRET = "sk-open-sesame-0123456789"
Answer = Callable[["Handler"], None]


class FakeEndpoint(ThreadingHTTPServer):
    """An endpoint that answers each request with what `choose` returns for its last message and how often it came."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, choose: Callable[[str, int], Answer]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.choose = choose
        self.asked: Counter[str] = Counter()
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.times: list[float] = []
        self.lock = threading.Lock()
        self.n_busy = self.most_busy = 0
        self.is_open = threading.Event()  # cleared, no answer begins
        self.is_open.set()

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # a killed client

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    server: FakeEndpoint
    body: dict[str, Any]  # of the request that is answered
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        server = self.server
        self.body = body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        said = body["messages"][-1]["content"]
        with server.lock:
            server.asked[said] += 1
            n = server.asked[said]
            server.bodies.append(body)
            server.headers.append(dict(self.headers))
            server.times.append(time.monotonic())
            server.n_busy += 1
            server.most_busy = max(server.most_busy, server.n_busy)
        try:
            server.is_open.wait(20)
            server.choose(said, n)(self)
        except (BrokenPipeError, ConnectionResetError):
            pass
        finally:
            with server.lock:
                server.n_busy -= 1

    def send(self, status: int, body: bytes, *, length: int | None = None, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)


def value_of(text: str | None, finish: str = "stop", usage: tuple[int, int] | None = (10, 5)) -> dict[str, Any]:
    """The JSON object of an honest answer."""
    value: dict[str, Any] = {"choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": finish}]}
    return value | ({"usage": {"prompt_tokens": usage[0], "completion_tokens": usage[1]}} if usage else {})


def says(text: str | None, finish: str = "stop", usage: tuple[int, int] | None = (10, 5)) -> Answer:
    return sends(value_of(text, finish, usage))


def sends(value: Any, status: int = 200, **headers: str) -> Answer:
    """An answer with any body: bytes as they are, other values as JSON."""
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    return lambda handler: handler.send(status, body, **headers)


def fails(status: int, message: str = "no", **headers: str) -> Answer:
    return sends({"error": {"message": message}}, status, **headers)


def cut(handler: Handler) -> None:
    """Half a body, and the connection is closed."""
    body = json.dumps(value_of("whole")).encode()
    handler.send(200, body[: len(body) // 2], length=len(body))
    handler.close_connection = True


def hangs_up(handler: Handler) -> None:
    """No answer at all."""
    handler.close_connection = True
    handler.connection.close()


def drips(handler: Handler) -> None:
    """A byte at a time, so that something always comes and nothing is ever complete."""
    handler.send(200, b"", length=10_000)
    for _ in range(200):
        handler.wfile.write(b" ")
        handler.wfile.flush()
        time.sleep(0.05)


@contextmanager
def faking(choose: Callable[[str, int], Answer]) -> Iterator[FakeEndpoint]:
    """An endpoint until the end of the block."""
    with FakeEndpoint(choose) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()
