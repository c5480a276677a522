"""Files that are whole or absent: written under a temporary name, flushed to disk, renamed.

A JSON file can carry its own sha256, so that damage to it is noticed when it is read.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SEAL = "sha256"


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file so that a reader, or a crash at any moment, finds all of it or what was there before."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(content)
    fsync(temporary)
    os.replace(temporary, path)
    fsync(path.parent)


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """A new folder for the body to fill, which takes the place of `target` when the body ends well; else it is deleted.

    Args:
        target: the folder of that name is deleted with what it holds, but for hidden files, which are moved.
    """
    saving = target.with_name(f".{target.name}.saving")
    try:
        shutil.rmtree(saving, ignore_errors=True)
        saving.mkdir(parents=True)
        yield saving
        for file in saving.iterdir():
            if os.access(file, os.W_OK):  # a link to another one's file has long been on disk
                fsync(file)
        for hidden in list(target.glob(".*")):
            os.replace(hidden, saving / hidden.name)
        shutil.rmtree(target, ignore_errors=True)
        os.rename(saving, target)
        fsync(target.parent)
    except BaseException:
        shutil.rmtree(saving, ignore_errors=True)
        raise


@contextmanager
def path_as_text(path: Path) -> Iterator[str]:
    """A path to the same file for libraries that take only valid text, while the body runs; on Linux for every path."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            yield f"/proc/self/fd/{folder}/{path.name}"
        finally:
            os.close(folder)
    else:
        yield str(path)


def write_json(path: Path, value: object) -> None:
    """Like `write_bytes`, for a JSON value a person can read."""
    text = json.dumps(value, ensure_ascii=False, indent=1) + "\n"
    # Names of files need not be valid text; what of them is not becomes an escape that JSON knows.
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_sealed_json(path: Path, value: dict[str, Any]) -> None:
    """Like `write_json`, with the sha256 of the object as one more key of it, which `read_sealed_json` compares."""
    write_json(path, {**value, SEAL: json_digest(value)})


def read_sealed_json(path: Path) -> dict[str, Any]:
    """The object that `write_sealed_json` wrote; one that has no sha256, of another tool, is taken as it is.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not a JSON object, or its contents are not what its sha256 says.
    """
    value = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(value, dict):
        raise ValueError("it is no JSON object")
    seal = value.pop(SEAL, None)
    if seal not in (None, json_digest(value)):
        raise ValueError("its contents are not what its sha256 says")
    return value


def begins_with(path: Path, pattern: re.Pattern[bytes]) -> bool:
    """Whether a file can be read and its first bytes match a pattern, by which one's own is told from others'."""
    try:
        with path.open("rb") as file:
            return pattern.match(file.read(256)) is not None
    except OSError:
        return False


def json_digest(value: object) -> str:
    """The hexadecimal sha256 of a JSON value, whatever the order of its keys and the layout of its text."""
    # Once through JSON, since what is hashed must be what a reader finds: keys become strings, tuples lists.
    canonical = json.dumps(json.loads(json.dumps(value)), sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


@contextmanager
def locked(path: Path, patience_s: float) -> Iterator[bool]:
    """Hold the lock file at `path` while the body runs, and give whether it was free within `patience_s` seconds.

    The lock ends with the process, however that ends. Where the system or the file system has none, it is always free.
    """
    try:
        import fcntl
    except ImportError:
        yield True
        return
    with path.open("a", encoding="utf-8") as file:
        yield _acquired(lambda: fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB), patience_s)


def _acquired(lock: Callable[[], None], patience_s: float) -> bool:
    deadline = time.monotonic() + patience_s
    while True:
        try:
            lock()
            return True
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.2)
        except OSError:  # a network disk without locks
            return True


def fsync(path: Path) -> None:
    """Wait until a file or directory is on disk; a directory is left alone where the system opens none."""
    is_directory = path.is_dir()
    try:
        # A file's descriptor must be one that could write: Windows flushes no other.
        descriptor = os.open(path, os.O_RDONLY if is_directory else os.O_RDWR)
    except PermissionError:
        if is_directory:
            return
        raise
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    """The hexadecimal sha256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with open(path, "rb") as f:
        while block := f.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()
