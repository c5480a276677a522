"""A server whose answers are written down, and a real browser that shows the chat page to it."""

from __future__ import annotations

import json
import math
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from babyllm.serve.page import document

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = next(filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"])), None)
ATTACK = """<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>
`<b onclick="hacked=1">` **<i>bold</i>** [link](javascript:window.hacked=1)

```html
<img src=x onerror="window.hacked=1">
```
done"""
SECRET = "open sesame"


class StandIn(ThreadingHTTPServer):
    """Serves the page, and answers what is asked by name: the last word the user said chooses the behaviour."""

    daemon_threads = True

    def __init__(self, port: int = 0, *, delay: float = 0.002) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.delay = delay
        self.asked: list[dict[str, Any]] = []
        self.rated: list[dict[str, Any]] = []
        self.n_busy = 1
        self.n_lost = 1
        self.n_left = 0
        self.room = 100
        self.model = "tiny"
        self.others: list[str] = []  # more models
        self.examples: list[str] | None = None
        self.answers: dict[str, str] = {}  # to what is said
        self.reasonings: dict[str, str] = {}  # before the answer to what is said
        self.calls: dict[str, list[dict[str, Any]]] = {}  # deltas of tool calls after it
        self.by_model: dict[str, dict[str, str]] = {}  # answers of some models to what is said
        self.refusals: dict[str, tuple[int, str, str]] = {}  # of what is said: status, message, code
        self.finish, self.usage = "stop", None
        self.is_open = threading.Event()  # cleared, no answer goes past its first `n_free` pieces
        self.n_free = 0
        self.is_open.set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/"


def said_in(messages: list[dict[str, str]]) -> str:
    """What the user said last."""
    return next(message["content"] for message in reversed(messages) if message["role"] == "user")


def pieces_of(messages: list[dict[str, str]], answers: dict[str, str]) -> list[str]:
    """The pieces of an answer; of one that the last message begins, the rest."""
    said = said_in(messages)
    if messages[-1]["role"] == "assistant":
        whole = "".join(pieces_of(messages[:-1], answers))
        return re.findall(r"[\s\S]{1,7}", whole[len(messages[-1]["content"]) :])
    if said in answers:
        return re.findall(r"[\s\S]{1,7}", answers[said])
    if said == "attack":
        return re.findall(r"[\s\S]{1,7}", ATTACK)
    if said == "long":
        return [f"{i} " for i in range(2000)]
    if said == "wide":
        return ["x" * 400, "\n\n```python\n", "y = 1  # " + "z" * 400, "\n```\n\n", "字" * 300]
    return [*re.findall(r"\s?\w+|\W", f"You said {said!r} in message {len(messages)}."), "\n\n", "好", "！"]


class Handler(BaseHTTPRequestHandler):
    server: StandIn
    protocol_version = "HTTP/1.1"
    n_sent = 0  # pieces of the answer

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def answer(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def refuse(self, status: int, message: str, code: str = "") -> None:
        self.answer(status, "application/json", json.dumps({"error": {"message": message, "code": code}}).encode())

    def do_GET(self) -> None:
        if self.path == "/v1/models":
            name = self.server.model
            about = {"feedback": True, "name": f"{name} chat", "examples": self.server.examples}
            known = {"data": [{"id": one} for one in (name, *self.server.others)], "babyllm": about}
            self.answer(200, "application/json", json.dumps(known).encode())
        else:
            self.answer(200, "text/html; charset=utf-8", document())

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/v1/feedback":
            self.server.rated.append(request)
            self.answer(200, "application/json", b"{}")
            return
        said = said_in(request["messages"])
        self.server.asked.append(request)
        if request.get("model", self.server.model) not in (self.server.model, *self.server.others):
            self.refuse(404, "The model is not here.", "model_not_found")
        elif said in self.server.refusals:
            self.refuse(*self.server.refusals[said])
        elif len(request["messages"]) > self.server.room:
            self.refuse(400, "Make it shorter.", "context_length_exceeded")
        elif said == "busy" and self.server.n_busy:
            self.server.n_busy -= 1
            self.refuse(429, "The queue is full.")
        elif said == "secret" and self.headers["Authorization"] != f"Bearer {SECRET}":
            self.refuse(401, "Give a key.")
        else:
            self.stream(request["messages"], request.get("model", ""))

    def stream(self, messages: list[dict[str, str]], model: str) -> None:
        said = said_in(messages)
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.close_connection = True
        try:
            for piece in re.findall(r"[\s\S]{1,7}", self.server.reasonings.get(said, "")):
                self.event({"choices": [{"delta": {"reasoning_content": piece}, "finish_reason": None}]})
            for number, piece in enumerate(
                pieces_of(messages, self.server.answers | self.server.by_model.get(model, {}))
            ):
                if number == 4 and said == "cut":
                    self.chunk(b"")
                    return
                if number == 4 and said == "lost" and self.server.n_lost:
                    self.server.n_lost -= 1
                    time.sleep(0.1)
                    return
                time.sleep(self.server.delay)
                top = [(piece, 0.6), (" other", 0.25), ("\n", 0.1), ("别", 0.04), (" ", 0.000001)]
                top_logprobs = [{"token": text, "logprob": math.log(p)} for text, p in top]
                logprobs = {"content": [{**top_logprobs[number % 2], "token": piece, "top_logprobs": top_logprobs}]}
                self.event({"choices": [{"delta": {"content": piece}, "logprobs": logprobs, "finish_reason": None}]})
            for call in self.server.calls.get(said, []):
                self.event({"choices": [{"delta": {"tool_calls": [call]}, "finish_reason": None}]})
            self.event({"choices": [{"delta": {}, "logprobs": None, "finish_reason": self.server.finish}]})
            if self.server.usage:
                self.event({"choices": [], "usage": self.server.usage})
            self.chunk(b"data: [DONE]\n\n")
            self.chunk(b"")
        except (BrokenPipeError, ConnectionResetError):
            self.server.n_left += 1

    def event(self, value: dict[str, Any]) -> None:
        if self.n_sent >= self.server.n_free:
            self.server.is_open.wait(20)
        self.n_sent += 1
        data = f"data: {json.dumps(value, ensure_ascii=False)}\n\n".encode()
        cut = next((i for i, byte in enumerate(data) if byte > 127), 20) + 1  # in the middle of a character
        self.chunk(data[:cut])
        time.sleep(self.server.delay)
        self.chunk(data[cut:])

    def chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    api = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def standing_in(port: int = 0, **options: Any) -> Iterator[StandIn]:
    """A stand-in that serves until the end of the block."""
    with StandIn(port, **options) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def server() -> Iterator[StandIn]:
    with standing_in() as server:
        yield server


Open = Callable[..., "Page"]


@pytest.fixture
def visit(browser: Browser, server: StandIn) -> Iterator[Open]:
    """Opens the page in a new browser profile; fails if the page logged an error or asked another server."""
    contexts, wrong = [], []

    def visit(url: str = server.url, name: str = "tiny chat", script: str = "", **options: Any) -> Page:
        context = browser.new_context(**{"locale": "en-US", "viewport": {"width": 1100, "height": 750}, **options})
        context.set_default_timeout(10_000)
        page = context.new_page()
        page.add_init_script(script)
        contexts.append(context)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda said: wrong.append(said.text) if "Content Security" in said.text else None)
        page.on("request", lambda sent: None if sent.url.startswith((url, "data:")) else wrong.append(sent.url))
        page.goto(url)
        page.get_by_text(name).wait_for()
        return page

    yield visit
    for context in contexts:
        context.close()
    assert wrong == []


def say(page: Page, text: str) -> None:
    page.locator("#input").fill(text)
    page.locator("#input").press("Enter")


def finished(page: Page, n_answers: int = 1) -> str:
    """The last answer, once so many of them are complete."""
    page.locator(".stats").nth(n_answers - 1).wait_for()
    return page.locator(".assistant .body").nth(n_answers - 1).inner_text()


def answer_to(text: str, number: int = 1) -> str:
    return f"You said {text!r} in message {number}.\n\n好！"
