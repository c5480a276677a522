"""Stored sessions, read and joined: an answer goes on with the one whose conversation its prompt begins with.

    lines -> answers, ratings -> each rating to its answer, by id or by what was said
          -> answers of one person that go on with each other -> Session: a tree of answers

Only places and hashes are in memory, about 300 bytes an answer; contents are read again, a session at a time.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from babyllm.errors import UserError
from babyllm.store.sessions.session_log import ANSWER, RATING, session_files

Json = dict[str, Any]


@dataclass(frozen=True)
class LoggedAnswer:
    """An answer of a server.

    Attributes:
        id: id of the response and, after #, the number of its answer.
        session: name of the session, which is the id of its first answer or what the client called it.
        messages: messages before the answer, with role, content and possibly more.
        answer: message of the answer.
        finish: how it ended: stop, length or tool_calls; null if the client left.
        model: name of the model.
        time: time of the answer, in ISO 8601.
        rating: sum of the signs of its ratings; 0 without any.
        correction: what a person says that the answer should have been; empty for nothing.
        is_last: whether nothing goes on from it.
        tools: functions that could be called, as JSON values.
    """

    id: str
    session: str
    messages: Sequence[Json]
    answer: Json
    finish: str | None
    model: str
    time: str
    rating: int
    correction: str
    is_last: bool
    tools: Sequence[Any] = ()

    @property
    def text(self) -> str:
        """What the answer says."""
        return str(self.answer.get("content") or "")

    @property
    def is_rated(self) -> bool:
        """Whether a person said whether it is good."""
        return bool(self.rating or self.correction)


class _Place(NamedTuple):
    file: int
    offset: int
    number: int


@dataclass
class _Known:
    """What is known of an answer without its contents."""

    id: str
    place: _Place
    before: bytes
    session: str
    rating: int = 0
    correction: str = ""
    is_last: bool = True

    @property
    def is_rated(self) -> bool:
        return bool(self.rating or self.correction)


@dataclass
class SessionReader:
    """The sessions of a log.

    Attributes:
        n: numbers of answers, ratings, ratings without an answer, sessions, and lines that could not be read.
    """

    directory: Path
    n: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        """Read the places of all answers and join them.

        Raises:
            UserError: the directory has no stored sessions.
        """
        if not self.directory.is_dir() or not (files := session_files(self.directory)):
            raise UserError(f"{self.directory}: has no stored sessions; `babyllm serve --log=DIR` stores them")
        # What is written while the log is read belongs to the next reading.
        self._sizes = {file: size for file in files if (size := _size(file)) is not None}
        self._files = files = list(self._sizes)
        self._answers: dict[str, _Known] = {}
        self._ends: dict[tuple[str, bytes], _Known] = {}  # by who asks, and what was said including the answer
        self._by_end: dict[bytes, list[_Known]] = {}
        ratings: list[Json] = []
        for number in range(len(files)):
            for offset, line in self._lines(number):
                if line.get("kind") == ANSWER:
                    self._join(line, number, offset)
                elif line.get("kind") == RATING:
                    ratings.append({**line, "messages": said_digest(_messages(line.get("messages")))})
        for rating in ratings:
            self._rate(rating)
        sessions = {known.session for known in self._answers.values()}
        self.n.update(answers=len(self._answers), ratings=len(ratings), sessions=len(sessions))

    @property
    def digest(self) -> str:
        """A hash of the names of the files and of how much of them was read; they only grow."""
        sizes = [f"{file.name} {size}" for file, size in self._sizes.items()]
        return blake2b("\n".join(sizes).encode(), digest_size=16).hexdigest()

    def sessions(self) -> Iterator[list[LoggedAnswer]]:
        """The answers of each session, in the order of time; sessions with ratings first, then by their beginning."""
        of_session: dict[str, list[_Known]] = {}
        for known in self._answers.values():
            of_session.setdefault(known.session, []).append(known)
        rated_first = sorted(of_session.values(), key=lambda answers: not any(one.is_rated for one in answers))
        for answers in rated_first:
            yield [self._read(known) for known in answers]

    def _lines(self, number: int) -> Iterator[tuple[int, Json]]:
        """The place and the value of each line of a file; what a crash has cut short is counted and left out."""
        with self._open(number) as file:
            offset, size = 0, self._sizes[self._files[number]]
            while offset < size and (content := file.readline(size - offset)):
                value = _value(content)
                if value is None:
                    self.n["lines that cannot be read"] += 1
                else:
                    yield offset, value
                offset += len(content)

    def _open(self, number: int) -> BinaryIO:
        """A file of the log.

        Raises:
            UserError: the server deleted it in the meantime, since it expired.
        """
        try:
            return self._files[number].open("rb")
        except FileNotFoundError:
            raise UserError(f"{self._files[number]}: expired while the log was read; run the command again") from None

    def _join(self, line: Json, file: int, offset: int) -> None:
        messages, who = _messages(line.get("messages")), f"{line.get('user', '')}\0{line.get('session', '')}"
        answers: Any = line.get("answers")
        is_whole = isinstance(answers, list) and all(isinstance(one, Mapping) for one in answers)
        if not messages or not is_whole or not isinstance(line.get("id"), str):
            self.n["lines that cannot be read"] += 1
            return
        before = said_digest(messages)
        parent = self._parent(who, messages)
        asked_again = self._ends.get((who, b"?" + before))
        first = f"{line['id']}#0"
        session = parent.session if parent else asked_again.session if asked_again else line.get("session") or first
        for number, answer in enumerate(answers):
            known = _Known(f"{line['id']}#{number}", _Place(file, offset, number), before, str(session))
            self._answers[known.id] = known
            end = said_digest([*messages, *_messages([answer])])
            self._ends[who, end] = known
            self._by_end.setdefault(end, []).append(known)
            self._ends.setdefault((who, b"?" + before), known)
        if parent:
            parent.is_last = False

    def _parent(self, who: str, messages: Sequence[Json]) -> _Known | None:
        """The answer with which a conversation ends before its last question."""
        for n in range(len(messages) - 1, 0, -1):
            if messages[n - 1].get("role") == "assistant":
                return self._ends.get((who, said_digest(messages[:n])))
        return None

    def _rate(self, rating: Json) -> None:
        name = str(rating.get("answer") or "")
        known = self._answers.get(name if "#" in name else f"{name}#{rating.get('number') or 0}")
        if known is None:
            same = self._by_end.get(rating["messages"], [])
            known = same[-1] if same else None
        if known is None or rating.get("rating") not in (1, -1):
            self.n["ratings without an answer"] += 1
            return
        known.rating += rating["rating"]
        known.correction = str(rating.get("correction") or known.correction)

    def _read(self, known: _Known) -> LoggedAnswer:
        with self._open(known.place.file) as file:
            file.seek(known.place.offset)
            line = _value(file.readline()) or {}
        answer = line["answers"][known.place.number]
        return LoggedAnswer(
            id=known.id,
            session=known.session,
            messages=line["messages"],
            answer={name: value for name, value in answer.items() if name != "finish"},
            finish=answer.get("finish"),
            model=str(line.get("model", "")),
            time=str(line.get("time", "")),
            rating=(known.rating > 0) - (known.rating < 0),
            correction=known.correction,
            is_last=known.is_last,
            tools=line.get("tools") or (),
        )


def _size(file: Path) -> int | None:
    """The size of a file in bytes; None if it has expired."""
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return None


def _value(content: bytes) -> Json | None:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) and content.endswith(b"\n") else None


def _messages(value: Any) -> list[Json]:
    """The messages of a line; none if one of them is not a message."""
    if not isinstance(value, list) or not all(isinstance(one, Mapping) for one in value):
        return []
    return [dict(one) for one in value]


def said_digest(messages: Sequence[Mapping[str, Any]]) -> bytes:
    """A 16-byte hash of who said what; system messages and white space at the ends do not count.

    A client may send an answer back without the white space at its ends, and change its system message.
    """
    said = [
        [one.get("role"), str(one.get("content") or "").strip(), _calls(one)]
        for one in messages
        if one.get("role") != "system"
    ]
    return blake2b(json.dumps(said).encode(), digest_size=16).digest()


def _calls(message: Mapping[str, Any]) -> list[Any]:
    calls = message.get("tool_calls")
    return [one.get("function") for one in calls if isinstance(one, Mapping)] if isinstance(calls, list) else []
