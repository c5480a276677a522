"""Sessions that a server stores: what a line holds, how turns and ratings are joined, how long files are kept."""

import json
import os
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from model_fixtures import Tiny
from serve_fixtures import CHAT, Server, asking, chatml, load_of, serving, talkative

from babyllm.errors import UserError
from babyllm.store.sessions.session_log import Retention, SessionLog, session_files
from babyllm.store.sessions.session_reader import LoggedAnswer, SessionReader
from babyllm.tokenizer import Tokenizer

KEPT = Retention(30, 1 << 20)


def lines_of(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for file in session_files(directory) for line in file.read_text("utf-8").splitlines()]


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def said(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def answer(name: str, *texts: str, **more: Any) -> dict[str, Any]:
    """A line with an answer; the texts alternate between user and assistant, the last one answers."""
    roles = (user, said)
    messages = [roles[i % 2](text) for i, text in enumerate(texts[:-1])]
    return {
        "kind": "answer",
        "id": name,
        "messages": messages,
        "answers": [said(texts[-1]) | {"finish": "stop"}],
        **more,
    }


def stored(directory: Path, *lines: dict[str, Any]) -> SessionReader:
    log = SessionLog(directory, KEPT)
    for line in lines:
        assert log.add(line).result(10)
    log.close()
    return SessionReader(directory)


def read(directory: Path, *lines: dict[str, Any]) -> list[list[LoggedAnswer]]:
    return list(stored(directory, *lines).sessions())


def test_a_server_stores_what_is_said_and_rated(tmp_path: Path, tiny: Tiny, tokenizer: Tokenizer) -> None:
    """Answers, whole and streamed, are on the disk before the client has them; requests that decline are not."""
    load = load_of(talkative(tiny(max_seq_len=256)), tokenizer, chatml(tokenizer))
    with serving(load, log=tmp_path) as server:
        assert (
            server.get("/v1/models").json()["babyllm"] | {"feedback": True, "stored_days": 30}
            == server.get("/v1/models").json()["babyllm"]
        )
        first = server.post(CHAT, asking("你好", user="anna@example.com", n=2, temperature=1.0, seed=3)).json()
        _rate(server, {"answer": first["id"], "number": 1, "rating": -1, "correction": "好的"})
        server.post(CHAT, asking("private", store=False))
        chat = [user("你好"), said(first["choices"][0]["message"]["content"]), user("再来")]
        streamed = server.post(
            CHAT, {"messages": chat, "max_tokens": 8, "stream": True, "user": "anna@example.com"}
        ).text
        assert "[DONE]" in streamed
        response = server.post("/v1/responses", {"input": "hi", "max_output_tokens": 8}).json()
        found = lines_of(tmp_path)
        assert [line.get("id") for line in found[:1]] == [first["id"]] and found[-1]["id"] == response["id"]
        assert server.post("/v1/feedback", {"rating": 1}).status_code == 400
    text = "".join(file.read_text("utf-8") for file in session_files(tmp_path))
    assert "anna" not in text and "private" not in text
    reader = SessionReader(tmp_path)
    answers = [one for session in reader.sessions() for one in session]
    assert reader.n == {"answers": 4, "ratings": 1, "sessions": 2}
    assert [one.rating for one in answers] == [0, -1, 0, 0] and answers[1].correction == "好的"
    assert [one.is_last for one in answers] == [False, True, True, True] and answers[2].session == answers[0].id
    assert [one.answer["content"] for one in answers[:2]] == [c["message"]["content"] for c in first["choices"]]
    with pytest.raises(UserError, match="no stored sessions"):
        SessionReader(tmp_path / "absent")


def _rate(server: Server, body: dict[str, Any]) -> None:
    assert server.post("/v1/feedback", body).json() == {"stored": True}


def test_turns_are_joined_by_what_was_said(tmp_path: Path) -> None:
    """A turn goes on with the answer that its prompt ends in; people and sessions with names are kept apart."""
    sessions = read(
        tmp_path,
        answer("a", "hi", "hello"),
        answer("b", "hi", "hello", user="u2"),
        answer("a2", "hi", " hello\n", "and?", "well"),
        answer("a2again", "hi", "hello", "and?", "so"),
        answer("b2", "hi", "hello", "and?", "u2 only", user="u2"),
        answer("s1", "x", "y", session="s"),
        answer("s2", "later", "z", session="s"),
    )
    assert [[one.id[:-2] for one in session] for session in sessions] == [
        ["a", "a2", "a2again"],
        ["b", "b2"],
        ["s1", "s2"],
    ]
    assert [one.is_last for one in sessions[0]] == [False, True, True]


def test_ratings_are_joined_by_id_or_text(tmp_path: Path) -> None:
    """A rating counts for its answer by id, else by what was said; opposite ones cancel, strange ones are counted."""
    rated = [user("q"), said("two")]
    reader = stored(
        tmp_path,
        answer("a", "q", "one"),
        answer("b", "q", "two"),
        answer("c", "q", "three"),
        {"kind": "rating", "answer": "a", "rating": 1, "messages": []},
        {"kind": "rating", "answer": "", "rating": -1, "messages": rated},
        {"kind": "rating", "answer": "c", "rating": 1},
        {"kind": "rating", "answer": "c", "rating": -1},
        {"kind": "rating", "answer": "nobody", "rating": 1},
        {"kind": "rating", "answer": "a", "rating": 5},
    )
    assert [one.rating for session in reader.sessions() for one in session] == [1, -1, 0]
    assert reader.n["ratings without an answer"] == 2


def test_a_crash_loses_one_line_at_most(tmp_path: Path) -> None:
    """What a crash cut short is left out and counted, and the next process writes a file of its own."""
    assert stored(tmp_path, answer("a", "q", "one")).n["answers"] == 1
    (file,) = session_files(tmp_path)
    with file.open("ab") as lines:
        lines.write(b'{"kind": "answer", "id": "b", "mess')
    reader = stored(tmp_path, answer("c", "q", "lone \ud800 surrogate"))
    assert reader.n == {"answers": 2, "ratings": 0, "sessions": 1, "lines that cannot be read": 1}
    assert len(session_files(tmp_path)) == 2 and (file.stat().st_mode & 0o077) == 0


def test_files_expire(tmp_path: Path) -> None:
    """Files older than the days go, and the oldest ones while all together are larger than allowed."""
    now = datetime(2026, 3, 1, tzinfo=timezone.utc)
    clock: list[datetime] = [now - timedelta(days=40)]
    tell: Callable[[], datetime] = lambda: clock[0]  # noqa: E731
    log = SessionLog(tmp_path, KEPT, tell)
    log.add(answer("old", "q", "a")).result(10)
    clock[0] = now - timedelta(days=29)
    log.add(answer("kept", "q", "a")).result(10)
    clock[0] = now
    log.add(answer("new", "q", "a")).result(10)
    with pytest.raises(UserError, match="another server"):
        SessionLog(tmp_path, KEPT, tell)
    log.close()
    assert [line["id"] for line in lines_of(tmp_path)] == ["kept", "new"]
    small = SessionLog(tmp_path, Retention(30, 8000), tell)
    for i in range(100):
        small.add(answer(str(i), "q" * 50, "a" * 50)).result(10)
        assert sum(file.stat().st_size for file in session_files(tmp_path)) <= 8000
    small.close()
    names = [line["id"] for line in lines_of(tmp_path)]
    assert names == [str(i) for i in range(100 - len(names), 100)] and len(names) > 20


def test_a_directory_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    """A wrong directory is named before the model is loaded."""
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--log=.*cannot be written"):
        SessionLog(tmp_path / "file" / "log", KEPT)
    assert os.listdir(tmp_path) == ["file"]


def test_a_client_that_no_longer_waits_stops_nothing(tmp_path: Path) -> None:
    """A line whose caller has gone is stored all the same, and so are the ones after it."""
    log = SessionLog(tmp_path, KEPT)
    gone = [log.add(answer(f"gone{i}", "q" * 10_000, "a")) for i in range(50)]
    for one in gone:
        one.cancel()
    assert log.add(answer("last", "q", "a")).result(10)
    log.close()
    assert [line["id"] for line in lines_of(tmp_path)] == [*(f"gone{i}" for i in range(50)), "last"]


def test_a_torn_line_that_stays_tears_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If neither a write succeeds nor what was written of it can be taken back, the next line has another file."""
    log = SessionLog(tmp_path, KEPT)
    assert log.add(answer("first", "q", "a")).result(10)
    write = os.write
    with monkeypatch.context() as broken:
        parts = iter([20])

        def part_of(descriptor: int, content: Any) -> int:
            if (n := next(parts, 0)) == 0:
                raise OSError(5, "Input/output error")
            return write(descriptor, content[:n])

        def refuse(descriptor: int, size: int) -> None:
            raise OSError(5, "Input/output error")

        broken.setattr(os, "write", part_of)
        broken.setattr(os, "ftruncate", refuse)
        assert not log.add(answer("torn", "q", "a")).result(10)
    assert log.add(answer("next", "q", "a")).result(10)
    log.close()
    reader = SessionReader(tmp_path)
    assert [one.id for session in reader.sessions() for one in session] == ["first#0", "next#0"]
    assert reader.n["lines that cannot be read"] == 1


def test_what_is_written_while_the_log_is_read_is_left_for_the_next_time(tmp_path: Path) -> None:
    """The digest is that of what was read, so lines that come later make another harvest; an expired file is named."""
    reader = stored(tmp_path, answer("a", "q", "one"))
    (file,) = session_files(tmp_path)
    digest = reader.digest
    with file.open("ab") as lines:
        lines.write(json.dumps(answer("b", "q", "two")).encode() + b"\n")
    assert [one.id for session in reader.sessions() for one in session] == ["a#0"] and reader.digest == digest
    later = SessionReader(tmp_path)
    assert later.n["answers"] == 2 and later.digest != digest
    file.unlink()
    with pytest.raises(UserError, match="expired while the log was read"):
        list(later.sessions())


def test_strange_lines_are_counted(tmp_path: Path) -> None:
    """Values of other kinds than a server writes are left out."""
    strange: list[dict[str, Any]] = [
        answer("a", "q", "one") | {"answers": ["text"]},
        answer("b", "q", "one") | {"answers": None},
        answer("c", "q", "one") | {"messages": ["text"]},
        answer("d", "q", "one") | {"id": 5},
    ]
    reader = stored(tmp_path, *strange, answer("e", "q", "one"))
    assert [one.id for session in reader.sessions() for one in session] == ["e#0"]
    assert reader.n["lines that cannot be read"] == 4
