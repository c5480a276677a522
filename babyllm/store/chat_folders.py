"""Chat files that a command has written: files of conversations in any format, described by `chats.json`.

files of records -> write_chat_files -> chats.json (written last: the commit mark)
directory        -> open_chat_files  -> the files, checked
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from babyllm.errors import UserError
from babyllm.files import begins_with, read_sealed_json, write_sealed_json
from babyllm.integrity import digests, require_whole

FORMAT_VERSION = 1
CHATS = "chats.json"
TEST = "test"
"""The name of the part of a split that is for the end."""
_USES = ".uses.jsonl"
_BEGINNING = re.compile(rb'\s*\{\s*"version":\s*\d+,\s*"files":')


@dataclass(frozen=True)
class ChatFile:
    """One file of conversations.

    Attributes:
        file: path of the file, relative to the directory.
        records: number of its records.
        sha256: sha256 of the file, in hexadecimal.
    """

    file: str
    records: int
    sha256: str


@dataclass(frozen=True)
class ChatFiles:
    """A directory of chat files that has been checked.

    Attributes:
        directory: directory of `chats.json`.
        files: files of the directory, in order.
        about: origin of the files as JSON values: the command and its configuration.
    """

    directory: Path
    files: tuple[ChatFile, ...]
    about: dict[str, Any]


def write_chat_files(directory: Path, records: Mapping[str, int], about: dict[str, Any]) -> ChatFiles:
    """Describe the files of a directory in `chats.json`.

    Args:
        directory: directory of the files.
        records: number of records of each file, by its path relative to the directory.
        about: origin of the files.

    Raises:
        UserError: a file cannot be read.
    """
    sha256 = digests(directory, records)
    files = tuple(ChatFile(name, n, sha256[name]) for name, n in records.items())
    value = {"version": FORMAT_VERSION, "files": [asdict(file) for file in files], "about": about}
    write_sealed_json(directory / CHATS, value)
    return ChatFiles(directory, files, about)


def is_chat_files(directory: Path) -> bool:
    """Whether a directory holds finished chat files, damaged or not: only the start of its `chats.json` is read."""
    return begins_with(directory / CHATS, _BEGINNING)


def about_chat_files(directory: Path) -> dict[str, Any] | None:
    """What the chat files in a directory were made with, as JSON values; None if there are none.

    Raises:
        UserError: a file is missing or damaged.
    """
    return open_chat_files(directory).about if is_chat_files(directory) else None


def open_chat_files(directory: Path) -> ChatFiles:
    """The chat files in a directory; the sha256 of each file is verified once and then recorded.

    Raises:
        UserError: a file is missing or damaged.
    """
    path = directory / CHATS
    advice = "make the files again, or name them one by one to read them as they are"
    try:
        raw = read_sealed_json(path)
        if raw["version"] != FORMAT_VERSION:
            raise UserError(f"{path}: format version {raw['version']}, this babyllm reads {FORMAT_VERSION}")
        found = ChatFiles(directory, tuple(ChatFile(**file) for file in raw["files"]), raw["about"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a description of chat files ({error}); {advice}") from error
    for file in found.files:
        if not (directory / file.file).is_file():
            raise UserError(f"{directory / file.file}: missing, though {CHATS} names it; {advice}")
    require_whole(directory, {file.file: file.sha256 for file in found.files}, advice)
    return found


def earlier_uses(path: Path, model: str) -> int | None:
    """The number of earlier uses of a test set, to which this one is added; None if the path is not in a test set.

    A test set is a part of that name that `babyllm split` made. Its result is honest as long as nothing is chosen by
    it, so each use is written down in `.uses.jsonl` beside its files; a directory that is read-only counts as new.

    Args:
        path: the directory of the test set, or a file or folder in it.
        model: model that is tested.
    """
    directory = next((folder for folder in (path, *path.resolve().parents) if is_chat_files(folder)), None)
    if directory is None or open_chat_files(directory).about.get("part") != TEST:
        return None
    uses, before = directory / _USES, 0
    with suppress(OSError):
        before = len(uses.read_text(encoding="utf-8").splitlines())
    with suppress(OSError), uses.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"model": model, "time": int(time.time())}, ensure_ascii=False) + "\n")
    return before
