"""Takedowns: documents that no later stage may use, each recorded as a line of a `takedowns.jsonl`.

DIR/takedowns.jsonl of inputs, of an index or named by a setting -> Takedowns -> names(ids, urls, texts) -> refused

A line is an object with any of these keys, and each names documents by itself; other keys, such as "why", are kept for
people:

    {"id": "wiki/a.jsonl:12"}    {"url": "https://example.org/a"}    {"hash": "0123..."}    {"text": "the whole text"}

A hash is that of the exact form (`content_hash`), so a text is recognised after changes of whitespace and line breaks.
Lines are only ever appended. A stage obeys those that a list holds when the stage starts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from babyllm.documents import Document
from babyllm.errors import UserError
from babyllm.files import fsync, locked
from babyllm.ragged import U64, hash_rows
from babyllm.text.dedup.exact import exact_forms
from babyllm.text.readers import Rejected

LIST = "takedowns.jsonl"
REASON = "taken down"
KEYS = ("id", "url", "hash", "text")
_BATCH = 256  # documents whose hashes are computed together
_LOCK_PATIENCE_S = 30.0


class _Lines(NamedTuple):
    ids: frozenset[str]
    urls: frozenset[str]
    hashes: frozenset[str]


@dataclass(frozen=True)
class Takedowns:
    """The documents that are taken down.

    Attributes:
        lists: path of each list and the bytes of it that count; lines appended later do not.
        digest: hexadecimal sha256 of all that the lists say; empty if they say nothing.
    """

    lists: tuple[tuple[str, int], ...] = ()
    digest: str = ""

    def __bool__(self) -> bool:
        return bool(self.digest)

    def about(self) -> dict[str, str]:
        """What the lists say, as a part of what determines a result; empty if they say nothing."""
        return {"takedowns": self.digest} if self else {}

    def names(
        self, ids: Sequence[str], urls: Sequence[str | None], texts: Sequence[str] | pa.Array
    ) -> NDArray[np.bool_]:
        """(documents,) bool: whether each document is taken down, by its id, its url or its text."""
        found = self.names_hashed(ids, urls, ())
        if self and _lines(self).hashes and len(texts):
            strings = texts if isinstance(texts, pa.Array) else pa.array(texts, pa.large_string())
            found |= self.names_hashed((), (), content_hashes(strings.cast(pa.large_string())))
        return found

    def names_hashed(self, ids: Sequence[str], urls: Sequence[str | None], hashes: Sequence[str]) -> NDArray[np.bool_]:
        """The same from hashes of the texts; a column without values names none."""
        found = np.zeros(max(len(ids), len(urls), len(hashes)), bool)
        if self:
            for values, known in zip((ids, urls, hashes), _lines(self), strict=True):
                if known and len(values):
                    found |= np.fromiter((value in known for value in values), bool, len(values))
        return found

    def refuse(self, records: Iterable[Document | Rejected]) -> Iterator[Document | Rejected]:
        """The records in order; a document that is taken down is a rejected record, without its text."""
        if not self:
            yield from records
            return
        source = iter(records)
        while batch := list(islice(source, _BATCH)):
            documents = [record for record in batch if isinstance(record, Document)]
            is_taken = iter(
                self.names([d.id for d in documents], [d.url for d in documents], [d.text for d in documents]).tolist()
            )
            for record in batch:
                is_refused = isinstance(record, Document) and next(is_taken)
                yield Rejected(record.id, REASON, "") if isinstance(record, Document) and is_refused else record


NO_TAKEDOWNS = Takedowns()


def find_takedowns(inputs: Iterable[Path], named: Iterable[str | Path] = ()) -> Takedowns:
    """The takedowns that a stage obeys.

    Args:
        inputs: directories that may hold a `takedowns.jsonl`, such as those that the stage reads.
        named: lists, or directories that must hold one.

    Raises:
        UserError: a named list does not exist, or a line of a list is not valid.
    """
    paths = [path / LIST for path in inputs if (path / LIST).is_file()]
    for place in map(Path, named):
        path = place / LIST if place.is_dir() else place
        if not path.is_file():
            raise UserError(f"--takedowns={place}: holds no {LIST}; give such a file, or a directory with one")
        paths.append(path)
    lists = tuple((str(path), _whole_bytes(path)) for path in dict.fromkeys(paths))
    lines = _read(lists)
    said = json.dumps([sorted(part) for part in lines])
    return Takedowns(lists, hashlib.sha256(said.encode()).hexdigest() if any(lines) else "")


def take_down(directory: Path, lines: Sequence[Mapping[str, Any]]) -> Path:
    """Append lines to the list of a directory; returns the path of the list.

    Args:
        directory: directory of a corpus, of an index or of raw files.
        lines: records with at least one of the keys id, url, hash and text; of a text only the hash is recorded.

    Raises:
        UserError: the directory does not exist, a line names no document, or the list cannot be written.
    """
    if not directory.is_dir():
        raise UserError(f"{directory}: no such directory; give a corpus, an index or a folder of raw files")
    path = directory / LIST
    said = []
    for number, line in enumerate(lines, 1):
        _require_valid(line, f"takedown {number}")
        kept = {key: value for key, value in line.items() if key != "text"}
        said.append(kept | ({"hash": content_hash(line["text"])} if "text" in line else {}))
    try:
        with locked(path.with_name(f".{LIST}.lock"), _LOCK_PATIENCE_S), path.open("ab+") as file:
            file.seek(max(0, file.seek(0, 2) - 1))
            start = "" if file.read(1) in (b"", b"\n") else "\n"  # the last line was cut off
            file.write((start + "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in said)).encode())
        fsync(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error}); mend that and repeat it") from error
    return path


def content_hash(text: str) -> str:
    """The hash by which a takedown names a text: 32 hexadecimal digits, equal for texts with the same exact form."""
    return content_hashes(pa.array([text], pa.large_string()))[0]


def content_hashes(texts: pa.Array) -> list[str]:
    """The same for each of some texts, large strings without nulls."""
    return as_hexadecimal(*hash_rows(exact_forms(texts, [])))


def as_hexadecimal(first: U64, second: U64) -> list[str]:
    """The two (n,) uint64 hashes of each text in hexadecimal."""
    return [f"{a:016x}{b:016x}" for a, b in zip(first.tolist(), second.tolist(), strict=True)]


def _whole_bytes(path: Path) -> int:
    """The bytes of a list up to the end of its last whole line: the one after it is still being written."""
    content = path.read_bytes()
    return content.rfind(b"\n") + 1 if not _is_json(content[content.rfind(b"\n") + 1 :]) else len(content)


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


@lru_cache(maxsize=2)
def _lines(takedowns: Takedowns) -> _Lines:
    return _read(takedowns.lists)


def _read(lists: Sequence[tuple[str, int]]) -> _Lines:
    ids, urls, hashes, texts = set[str](), set[str](), set[str](), list[str]()
    for name, size in lists:
        with open(name, "rb") as file:
            content = file.read(size)
        for number, line in enumerate(content.splitlines(), 1):
            if not line.strip():
                continue
            value = _parsed(line, f"{name}:{number}")
            ids |= {value["id"]} if "id" in value else set()
            urls |= {value["url"]} if "url" in value else set()
            hashes |= {value["hash"].lower()} if "hash" in value else set()
            texts += [value["text"]] if "text" in value else []
    hashes.update(content_hashes(pa.array(texts, pa.large_string())))
    return _Lines(frozenset(ids), frozenset(urls), frozenset(hashes))


def _parsed(line: bytes, place: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise UserError(f"{place}: not a line of JSON ({error}); mend it") from None
    _require_valid(value, place)
    return dict(value)


def _require_valid(value: Any, place: str) -> None:
    found = [value[key] for key in KEYS if key in value] if isinstance(value, Mapping) else []
    if not found or not all(isinstance(item, str) and item for item in found):
        raise UserError(f'{place}: names no document; write an object such as {{"id": "..."}}, with {", ".join(KEYS)}')
    if "hash" in value and (len(value["hash"]) != 32 or set(value["hash"].lower()) - set("0123456789abcdef")):
        raise UserError(
            f"{place}: hash {value['hash']} is not one of 32 hexadecimal digits; `babyllm takedown` writes it"
        )
