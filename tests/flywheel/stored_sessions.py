"""Logs of sessions as `babyllm serve --log` stores them."""

import json
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
