"""Logs of sessions as `babyllm serve --log` stores them, and a scripted judge."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from babyllm.store.sessions.session_log import Retention, SessionLog

KEPT = Retention(30, 1 << 30)
Json = dict[str, Any]


def turns(*texts: str) -> list[Json]:
    """Messages of a user and an assistant in turn."""
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]


def answered(name: str, *texts: str, finish: str | None = "stop", **more: Any) -> Json:
    """A line with an answer, which is the last of the texts."""
    *before, said = turns(*texts)
    return {
        "kind": "answer",
        "id": name,
        "model": "m",
        "messages": before,
        "answers": [said | {"finish": finish}],
        **more,
    }


def rated(name: str, rating: int, **more: Any) -> Json:
    """A line with a rating of an answer."""
    return {"kind": "rating", "answer": name, "rating": rating, **more}


def write_log(directory: Path, *lines: Json) -> Path:
    """A log with these lines."""
    log = SessionLog(directory, KEPT)
    written = [log.add(line) for line in lines]
    log.close()
    assert all(one.result(10) for one in written)
    return directory


def records(file: Path) -> list[Json]:
    """The records of a file of JSON lines."""
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


@contextmanager
def scripted_judge(reply: Callable[[str], str]) -> Iterator[tuple[str, list[str]]]:
    """An endpoint whose replies are a function of the prompt: its address, and the prompts it was sent."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            asked.append(body["messages"][-1]["content"])
            choice = {
                "message": {"role": "assistant", "content": reply(asked[-1])},
                "finish_reason": "stop",
                "index": 0,
            }
            usage = {"prompt_tokens": 10, "completion_tokens": 5}
            content = json.dumps({"choices": [choice], "usage": usage}).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
