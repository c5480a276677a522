"""The log of requests, which is off unless it is asked for."""

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from model_fixtures import Tiny
from serve_fixtures import CHAT, NAME, asking, load_of, serving, talkative, until

from babyllm.chat.load import ChatTemplate
from babyllm.commands.use.serve import Flags, run
from babyllm.errors import UserError
from babyllm.serve.http.request_log import RequestLog, RequestRecord


def lines_of(path: Path, n: int) -> list[dict[str, Any]]:
    """The lines of a log, once there are `n`."""
    until(lambda: path.exists() and path.read_bytes().count(b"\n") >= n, f"{n} lines")
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


@pytest.mark.parametrize("has_contents", [False, True])
def test_every_request_has_a_line(tmp_path: Path, tiny: Tiny, template: ChatTemplate, has_contents: bool) -> None:
    """With status, model, counts and times, streamed or refused; what is said is there only if asked for."""
    log = tmp_path / "requests.jsonl"
    load = load_of(talkative(tiny(max_seq_len=256)), template.tokenizer, template)
    with serving(load, request_log=log, logs_contents=has_contents) as server:
        whole = server.post(CHAT, asking("今天"))
        server.post(CHAT, asking("今天", stream=True, n=2))
        server.post(CHAT, asking("secret", tempo=1))
        server.post("/v1/embeddings", {"input": "the model"})
        server.get("/v1/models")
        first, streamed, refused, embedded, models = lines_of(log, 5)
    told = whole.json()
    assert (first["method"], first["path"], first["status"], first["model"]) == ("POST", CHAT, 200, NAME)
    assert first["prompt_tokens"] == told["usage"]["prompt_tokens"] == streamed["prompt_tokens"]
    assert first["completion_tokens"] == told["usage"]["completion_tokens"] > 0
    assert streamed["completion_tokens"] == 2 * first["completion_tokens"]
    assert 0 < first["first_token_s"] <= first["seconds"] and "T" in first["time"]
    assert (refused["status"], refused["model"], refused["first_token_s"]) == (400, None, None)
    assert (embedded["status"], embedded["path"]) == (200, "/v1/embeddings") and embedded["prompt_tokens"] > 0
    assert (models["method"], models["path"], models["status"]) == ("GET", "/v1/models", 200)
    if has_contents:
        assert json.loads(first["request"]) == asking("今天")
        assert first["answers"] == [told["choices"][0]["message"]["content"]]
        assert streamed["answers"] == first["answers"] * 2
    else:
        assert "今天" not in log.read_text("utf-8") and "secret" not in log.read_text("utf-8")


def test_a_log_that_is_moved_begins_again(tmp_path: Path) -> None:
    """Lines of many threads are whole, also after the file has been renamed or removed."""
    path = tmp_path / "requests.jsonl"
    log = RequestLog(path)

    def work(name: str) -> None:
        for _ in range(50):
            log.add("GET", f"/{name}", 200, 0.1, RequestRecord())

    work("before")
    lines_of(path, 50)
    path.rename(tmp_path / "old.jsonl")
    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close()
    assert len(lines_of(tmp_path / "old.jsonl", 50)) == 50
    found = [line["path"] for line in lines_of(path, 200)]
    assert sorted(found) == sorted(f"/{name}" for name in "abcd" for _ in range(50))


def test_a_log_that_cannot_be_written(tmp_path: Path) -> None:
    """At the start it is one line that names the flag; later the server goes on without it."""
    with pytest.raises(UserError, match=r"--request_log=.*cannot be written"):
        RequestLog(tmp_path / "absent" / "log")
    with pytest.raises(UserError, match="--request_log=FILE"):
        run(Flags(log_contents=True), str(tmp_path))
    folder = tmp_path / "logs"
    folder.mkdir()
    log = RequestLog(folder / "log")
    (folder / "log").unlink()
    folder.rmdir()
    log.add("GET", "/", 200, 0.1, RequestRecord())
    log.close()
