"""An S3-compatible server, and a proxy before it that throttles, fails and cuts answers as a plan says."""

import http.client
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

BUSY = b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
BROKEN = b"<?xml version='1.0'?><Error><Code>InternalError</Code><Message>We had an error.</Message></Error>"

Plan = Callable[[int, str, str], str]
"""The fault of a request from its number, method and path.

busy, broken, cut (the connection breaks in the middle of the answer), short (half the bytes of an object, as if that
were all), garbled (its bytes from the last to the first), encrypted (a tag that is not its md5) or none ("").
"""


def no_fault(number: int, method: str, path: str) -> str:
    return ""


def many_faults(number: int, method: str, path: str) -> str:
    """A fault in more than a quarter of the requests, but never four in a row."""
    return {2: "busy", 5: "broken", 6: "cut", 9: "short", 12: "cut"}.get(number % 18, "")


@dataclass
class Store:
    """A running server and its proxy.

    Attributes:
        plan: faults of the requests to come.
        seen: method and path of each request so far, and its fault.
    """

    address: tuple[str, int]
    plan: Plan = no_fault
    seen: list[tuple[str, str, str]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def fault(self, method: str, path: str) -> str:
        with self.lock:
            found = self.plan(len(self.seen), method, path)
            self.seen.append((method, path, found))
            return found

    def puts(self) -> list[str]:
        """The paths of the objects that were written, in order."""
        return [path.split("?")[0] for method, path, fault in self.seen if method == "PUT" and not fault]


def proxy_for(store: Store) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def forward(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if "chunked" in self.headers.get("Transfer-Encoding", ""):
                body = self.chunks()
            fault = store.fault(self.command, self.path)
            if fault in ("busy", "broken"):
                self.answer(503 if fault == "busy" else 500, {}, BUSY if fault == "busy" else BROKEN)
                return
            connection = http.client.HTTPConnection(*store.address, timeout=30)
            headers = {k: v for k, v in self.headers.items() if k.lower() not in ("host", "transfer-encoding")}
            connection.request(self.command, self.path, body, headers | {"Content-Length": str(len(body))})
            reply = connection.getresponse()
            content, sent = reply.read(), dict(reply.getheaders())
            is_object = self.command == "GET" and "list-type" not in self.path
            if fault == "cut" and content:
                self.answer(reply.status, sent, content[: len(content) // 2], size=len(content))
                self.close_connection = True
            elif fault == "garbled" and is_object:
                self.answer(reply.status, sent, content[::-1])
            elif fault == "encrypted" and is_object:
                self.answer(reply.status, sent | {"ETag": f'"{"0" * 32}"'}, content)
            elif fault == "short" and is_object:
                self.answer(reply.status, sent, content[: len(content) // 2])
            else:
                self.answer(reply.status, sent, content, sent.get("Content-Length") if self.command == "HEAD" else None)
            connection.close()

        def chunks(self) -> bytes:
            found = b""
            while n := int(self.rfile.readline().split(b";")[0], 16):
                found += self.rfile.read(n)
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
            return found

        def answer(self, status: int, headers: dict[str, str], content: bytes, size: object = None) -> None:
            self.send_response_only(status)
            for name, value in headers.items():
                if name.lower() not in ("content-length", "connection", "transfer-encoding"):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(content) if size is None else size))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = forward

        def log_message(self, format: str, *values: object) -> None:
            pass

    return ThreadingHTTPServer(("127.0.0.1", 0), Handler)
