"""Where the records of a file are, and what they can be chosen by, without holding them in memory.

FILE -> offsets of its lines, and of each record its task, score and language -> LineIndex -> one record at a time
"""

from __future__ import annotations

import json
import math
import threading
from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from babyllm.errors import UserError

TITLE = 160
LANGUAGES = ("zh", "en", "other")
SAMPLED = 2000  # characters that decide the language of a record
_TASKS, _SCORES = ("task", "recipe", "domain", "category"), ("score", "reward", "rating", "quality")


class Facets(NamedTuple):
    """What a record can be chosen by.

    Attributes:
        task: value of its field `task`, `recipe`, `domain` or `category`; empty without one.
        score: value of its field `score`, `reward`, `rating` or `quality`; NaN without one.
        language: "zh", "en" or "other", by its characters.
    """

    task: str
    score: float
    language: str


class LineIndex:
    """The lines of a JSONL file, read at their offsets.

    Attributes:
        path: the file.
        numbers: number of each record's line in the file, from 1; empty lines are left out.
    """

    def __init__(self, path: Path) -> None:
        """Read the file once.

        Raises:
            UserError: it cannot be read, or is not JSON lines.
        """
        self.path = path
        self.numbers: array[int] = array("q")
        self._offsets: array[int] = array("q")
        self._lengths: array[int] = array("q")
        self._tasks: list[str] = []
        self._task_numbers: dict[str, int] = {}
        self._task: array[int] = array("i")
        self._score: array[float] = array("d")
        self._language = bytearray()
        self._lock = threading.Lock()
        try:
            self._file = path.open("rb")
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror})") from error
        try:
            self._read()
        except BaseException as error:
            self._file.close()
            if isinstance(error, OSError):
                raise UserError(f"{path}: cannot be read ({error.strerror})") from error
            raise

    def _read(self) -> None:
        n_bad, offset = 0, 0
        for number, line in enumerate(self._file, 1):
            if line.strip():
                record = parsed(line)
                n_bad += record is None
                if n_bad > 100 and n_bad == len(self.numbers) + 1:
                    raise UserError(f"{self.path}: not JSON lines; write one record per line")
                self.numbers.append(number)
                self._offsets.append(offset)
                self._lengths.append(len(line))
                self._add(facets(record))
            offset += len(line)

    def _add(self, found: Facets) -> None:
        if found.task not in self._task_numbers:
            self._task_numbers[found.task] = len(self._tasks)
            self._tasks.append(found.task)
        self._task.append(self._task_numbers[found.task])
        self._score.append(found.score)
        self._language.append(LANGUAGES.index(found.language))

    def __len__(self) -> int:
        """The number of records."""
        return len(self.numbers)

    def line(self, index: int) -> bytes:
        """The line of a record, without its end."""
        with self._lock:
            self._file.seek(self._offsets[index])
            return self._file.read(self._lengths[index]).rstrip(b"\r\n")

    def lines(self) -> Iterator[bytes]:
        """The lines of all records."""
        return map(self.line, range(len(self)))

    def facets(self, index: int) -> Facets:
        """What a record of the file can be chosen by."""
        return Facets(self._tasks[self._task[index]], self._score[index], LANGUAGES[self._language[index]])

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def parsed(line: bytes) -> dict[str, Any] | None:
    """The record in a line; None if it is not a JSON object."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def facets(record: Mapping[str, Any] | None) -> Facets:
    """What a record can be chosen by; nothing is known of a line that is not a record."""
    record = record or {}
    task = next((record[name] for name in _TASKS if isinstance(record.get(name), str)), "")
    score = next((found for name in _SCORES if (found := _number(record.get(name))) is not None), math.nan)
    return Facets(task[:100], score, _language("".join(_beginnings(record))))


def title(record: Any) -> str:
    """The beginning of the first longer text of a record, in one line."""
    texts = list(_beginnings(record))
    text = next((text for text in texts if len(text) > 12), texts[0] if texts else "")
    return " ".join(text[: 2 * TITLE].split())[:TITLE]


def leaves(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """The values of a record that hold no others, each with the names and numbers that lead to it, in order."""
    left: list[tuple[tuple[str | int, ...], Any]] = [(path, value)]
    while left:
        at, found = left.pop()
        if isinstance(found, dict) and found:
            left += [((*at, key), inner) for key, inner in reversed(found.items())]
        elif isinstance(found, list) and found:
            left += [((*at, number), inner) for number, inner in reversed(list(enumerate(found)))]
        else:
            yield at, found


def _beginnings(record: Any) -> Iterator[str]:
    """Beginnings of the texts of a record, a few thousand characters together; without the names of roles."""
    size = 0
    for path, value in leaves(record):
        if isinstance(value, str) and not (path and path[-1] in ("role", "from", *_TASKS, "id")):
            yield value[:SAMPLED]
            size += len(value)
            if size > SAMPLED:
                return


def _language(text: str) -> str:
    """The language of most of a text; a Chinese character counts as two letters."""
    n_chinese = sum("\u3400" <= character <= "\u9fff" for character in text)
    n_latin = sum(character.isascii() and character.isalpha() for character in text)
    if not n_chinese and not n_latin:
        return "other"
    return "zh" if 2 * n_chinese >= n_latin else "en"


def _number(value: Any) -> float | None:
    """A finite number; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None
