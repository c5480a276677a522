"""The records of several files with their edits: chosen by filters, shown in part, changed, and written out.

files -> LineIndex, EditLog -> Collection.chosen(filters) -> Collection.shown(id) -> Collection.change(id, ...)
"""

from __future__ import annotations

import json
import math
import os
import threading
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from babyllm.errors import UserError
from babyllm.records.edit_log import KEEP, REJECT, STATUSES, EditLog, State, digest_of, editing
from babyllm.records.line_index import Facets, LineIndex, facets, leaves, parsed, title

SHOWN_CHARACTERS, SHOWN_LEAVES = 20_000, 400
MAX_TASKS = 200


class BadChange(ValueError):
    """A change that cannot be made; the message says why."""


@dataclass(frozen=True)
class Filters:
    """Which records are chosen; empty ones choose all.

    Attributes:
        text: text that a value of the record has, whatever its case.
        task: name of the task.
        language: "zh", "en" or "other".
        status: "keep", "reject", "open" for neither, "edited" for mended ones.
        low: lowest score.
        high: highest score.
    """

    text: str = ""
    task: str | None = None
    language: str = ""
    status: str = ""
    low: float | None = None
    high: float | None = None


class Collection:
    """The records of files, numbered through from 0; safe for use by threads.

    Args:
        files: an index and a log of edits for each file.
    """

    def __init__(self, files: Sequence[tuple[LineIndex, EditLog]]) -> None:
        self._files = list(files)
        self._begins = [0]
        for index, _ in self._files:
            self._begins.append(self._begins[-1] + len(index))
        self._lock = threading.Lock()
        self._found: tuple[Filters, int, list[int]] | None = None
        self._n_changes = 0

    def __len__(self) -> int:
        """The number of records."""
        return self._begins[-1]

    def _at(self, id: int) -> tuple[LineIndex, EditLog, int]:
        if not 0 <= id < len(self):
            raise BadChange("there is no such record")
        number = bisect_right(self._begins, id) - 1
        return *self._files[number], id - self._begins[number]

    def _facets(self, id: int) -> Facets:
        index, log, at = self._at(id)
        return index.facets(at) if log.state(at).line is None else facets(parsed(log.line(at)))

    def _line(self, id: int) -> bytes:
        _, log, at = self._at(id)
        return log.line(at)

    def _state(self, id: int) -> State:
        _, log, at = self._at(id)
        return log.state(at)

    def summary(self) -> dict[str, Any]:
        """What the page can choose by: files, tasks, languages, range of scores, and how many are kept and rejected."""
        tasks, languages, scores = Counter[str](), Counter[str](), []
        for id in range(len(self)):
            found = self._facets(id)
            tasks[found.task] += 1
            languages[found.language] += 1
            if not math.isnan(found.score):
                scores.append(found.score)
        return {
            "files": [index.path.name for index, _ in self._files],
            "n": len(self),
            "tasks": tasks.most_common(MAX_TASKS),
            "languages": languages.most_common(),
            "scores": [min(scores), max(scores)] if scores else None,
            **self.progress(),
        }

    def progress(self) -> dict[str, int]:
        """How many records are kept, rejected and mended."""
        states = [state for _, log in self._files for state in log.states.values()]
        statuses = Counter(state.status for state in states)
        n_edited = sum(state.line is not None for state in states)
        return {"keep": statuses[KEEP], "reject": statuses[REJECT], "edited": n_edited}

    def chosen(self, filters: Filters) -> list[int]:
        """The numbers of the records that the filters choose, in the order of the files."""
        with self._lock:
            if self._found is None or self._found[:2] != (filters, self._n_changes):
                self._found = (filters, self._n_changes, [id for id in range(len(self)) if self._fits(id, filters)])
            return self._found[2]

    def _fits(self, id: int, filters: Filters) -> bool:
        state, found = self._state(id), self._facets(id)
        if filters.status and not _has_status(state, filters.status):
            return False
        if filters.task is not None and found.task != filters.task:
            return False
        if filters.language and found.language != filters.language:
            return False
        if filters.low is not None and not found.score >= filters.low:
            return False
        if filters.high is not None and not found.score <= filters.high:
            return False
        return not filters.text or _has_text(self._line(id), filters.text.casefold())

    def row(self, id: int) -> dict[str, Any]:
        """A record in a list: its first text in one line, and what it is chosen by."""
        found, state = self._facets(id), self._state(id)
        score = None if math.isnan(found.score) else found.score
        about = {"id": id, "task": found.task, "score": score, "language": found.language}
        record = parsed(self._line(id))
        shown = title(record) if record is not None else self._line(id)[:200].decode("utf-8", "replace")
        return {**about, "title": shown, "status": state.status, "edited": state.line is not None}

    def shown(self, id: int, whole: bool = False) -> dict[str, Any]:
        """A record to look at: the values that it holds, each with its path; long texts are cut unless `whole`.

        Raises:
            BadChange: there is no such record.
        """
        index, log, at = self._at(id)
        line, state = log.line(at), log.state(at)
        record = parsed(line)
        about = {**self.row(id), "file": index.path.name, "line": index.numbers[at], "version": digest_of(line)}
        about["n_edits"] = state.n_edits
        if record is None:
            text = line.decode("utf-8", "replace")
            return {
                **about,
                "broken": True,
                "leaves": [],
                "more": 0,
                "text": text if whole else text[:SHOWN_CHARACTERS],
            }
        every = list(leaves(record))
        found = [_leaf(path, value, whole) for path, value in every[: None if whole else SHOWN_LEAVES]]
        more = {"text": json.dumps(record, ensure_ascii=False, indent=2)} if whole else {}
        return {**about, "broken": False, "leaves": found, "more": len(every) - len(found), **more}

    def change(self, id: int, version: str, change: dict[str, Any]) -> dict[str, Any]:
        """Store a change of a record; returns it as `shown`.

        Args:
            id: number of the record.
            version: version that was looked at, as in `shown`.
            change: `status`; or `leaves`, a list of {"path", "text"}; or `text`, the whole record as JSON.

        Raises:
            BadChange: the record has changed meanwhile, or this is not a change.
            OSError: the disk cannot store it.
        """
        with self._lock:
            _, log, at = self._at(id)
            line = log.line(at)
            if version != digest_of(line):
                raise BadChange("the record has changed meanwhile; look at it again")
            log.add(at, _edit(line, change))
            self._n_changes += 1
            if set(change) == {"status"} and self._found and not self._found[0].status:
                self._found = (self._found[0], self._n_changes, self._found[2])  # nobody chose by it
        return self.shown(id)

    def result(self, only_kept: bool) -> Iterator[bytes]:
        """The lines of the resulting file: mended ones in place of theirs, without rejected ones.

        Args:
            only_kept: whether records that nobody kept are left out too.
        """
        for id in range(len(self)):
            status = self._state(id).status
            if status != REJECT and (status == KEEP or not only_kept):
                yield self._line(id)


@contextmanager
def opened(paths: Sequence[Path]) -> Iterator[Collection]:
    """The records of files, which no other program edits meanwhile.

    Raises:
        UserError: a file cannot be read, is given twice, or is being edited.
    """
    twice = [path for path, n in Counter(path.resolve() for path in paths).items() if n > 1]
    if twice:
        raise UserError(f"{twice[0]}: is given twice; give each file once")
    with ExitStack() as stack:
        files = []
        for path in paths:
            index = LineIndex(path)
            stack.callback(index.close)
            files.append((index, stack.enter_context(editing(index))))
        yield Collection(files)


def write_result(collection: Collection, out: Path, only_kept: bool) -> int:
    """Write the resulting file; returns its number of records.

    Raises:
        UserError: it exists, or cannot be written.
    """
    if out.exists():
        raise UserError(f"--write={out}: exists; remove it or give another name")
    temporary, n = out.with_name(f".{out.name}.tmp"), 0
    try:
        with temporary.open("wb") as file:
            for line in collection.result(only_kept):
                file.write(line + b"\n")
                n += 1
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, out)
    except OSError as error:
        raise UserError(f"--write={out}: cannot be written ({error.strerror})") from error
    return n


def _has_status(state: State, status: str) -> bool:
    if status == "edited":
        return state.line is not None
    return not state.status if status == "open" else state.status == status


def _has_text(line: bytes, text: str) -> bool:
    record = parsed(line)
    if record is None:
        return text in line.decode("utf-8", "replace").casefold()
    return any(text in value.casefold() for _, value in leaves(record) if isinstance(value, str))


def _leaf(path: Sequence[str | int], value: Any, whole: bool) -> dict[str, Any]:
    text = value if isinstance(value, str) else json.dumps(value)
    cut = text if whole else text[:SHOWN_CHARACTERS]
    return {"path": list(path), "is_text": isinstance(value, str), "text": cut, "length": len(text)}


def _edit(line: bytes, change: dict[str, Any]) -> dict[str, Any]:
    """What the log stores of a change.

    Raises:
        BadChange: this is not a change.
    """
    if change.get("status") in STATUSES and isinstance(change["status"], str):
        return {"status": change["status"]}
    if isinstance(change.get("text"), str):
        record = parsed(change["text"].encode("utf-8", "surrogatepass"))
        if record is None:
            raise BadChange("the text is not a JSON object")
        return {"record": record}
    record = parsed(line)
    if record is None or not isinstance(change.get("leaves"), list) or not change["leaves"]:
        raise BadChange("a change has a status, leaves or a text")
    for leaf in change["leaves"]:
        _replace(record, leaf)
    return {"record": record}


def _replace(record: Any, leaf: Any) -> None:
    """Put a text in the place of a text of the record."""
    try:
        *way, last = leaf["path"]
        for step in way:
            record = record[step]
        if not isinstance(record[last], str) or not isinstance(leaf["text"], str):
            raise BadChange("only texts can be changed one by one; change the JSON of the record")
        record[last] = leaf["text"]
    except (KeyError, IndexError, TypeError, ValueError):
        raise BadChange("the record has no such text; look at it again") from None
