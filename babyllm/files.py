"""Files that are complete or absent: written under a temporary name, flushed to disk, then renamed.

A JSON file can contain its own sha256, so that reading it detects damage.
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

from babyllm.errors import UserError

SEAL = "sha256"


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file so that a reader, or a crash at any moment, finds either the old contents or all of the new.

    Raises:
        OSError: the file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(content)
    fsync(temporary)
    os.replace(temporary, path)
    fsync(path.parent)


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """A new folder for the body to fill; it replaces `target` if the body succeeds, else it is deleted.

    Args:
        target: folder to create or replace; of an old one only the hidden files are kept, and moved to the new one.

    Yields:
        The path of the new folder.
    """
    saving = target.with_name(f".{target.name}.saving")
    try:
        shutil.rmtree(saving, ignore_errors=True)
        saving.mkdir(parents=True)
        yield saving
        for file in saving.iterdir():
            if os.access(file, os.W_OK):  # a hard link to somebody else's file is on disk already
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
def new_folder(target: Path) -> Iterator[Path]:
    """As `whole_folder`, for a target that must be new or empty but for hidden files.

    Raises:
        UserError: the target exists or cannot be written.
    """
    if target.exists() and (not target.is_dir() or any(not file.name.startswith(".") for file in target.iterdir())):
        raise UserError(f"{target}: already exists; choose another directory, new or empty")
    try:
        with whole_folder(target.absolute()) as folder:
            yield folder
    except OSError as error:
        raise UserError(f"{target}: cannot be written ({error.strerror or error})") from error


@contextmanager
def path_as_text(path: Path) -> Iterator[str]:
    """The path as valid text while the body runs, for libraries that need it; invalid text works on Linux alone."""
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
    """Like `write_bytes`, for a JSON value, indented for people to read."""
    text = json.dumps(value, ensure_ascii=False, indent=1) + "\n"
    # File names need not be valid text; invalid characters become JSON escapes.
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_sealed_json(path: Path, value: dict[str, Any]) -> None:
    """Like `write_json`, with the sha256 of the object as one more key, which `read_sealed_json` verifies."""
    write_json(path, {**value, SEAL: json_digest(value)})


def read_sealed_json(path: Path) -> dict[str, Any]:
    """The object that `write_sealed_json` wrote; an object of another tool, without a sha256, is not verified.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not a JSON object, or its contents do not match its sha256.
    """
    value = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(value, dict):
        raise ValueError("it is not a JSON object")
    seal = value.pop(SEAL, None)
    if seal not in (None, json_digest(value)):
        raise ValueError("its contents are not what its sha256 says")
    return value


def begins_with(path: Path, pattern: re.Pattern[bytes]) -> bool:
    """Whether a file can be read and its first 256 bytes at most match a pattern, as a check of the file's kind."""
    try:
        with path.open("rb") as file:
            return pattern.match(file.read(256)) is not None
    except OSError:
        return False


def json_digest(value: object) -> str:
    """The hexadecimal sha256 of a JSON value, independent of the order of keys and of layout."""
    # Round-tripped, since a reader must compute the same hash: keys become strings, tuples become lists.
    canonical = json.dumps(json.loads(json.dumps(value)), sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


@contextmanager
def locked(path: Path, patience_s: float, is_shared: bool = False) -> Iterator[bool]:
    """Hold the lock file at `path` while the body runs.

    The process releases the lock however it ends. On a system or file system without locks it always counts as free.

    Args:
        path: lock file, created if missing.
        patience_s: longest wait for the lock, in seconds.
        is_shared: whether others may hold the lock in this way at the same time.

    Yields:
        Whether the lock became free in time; if not, the body runs without it.
    """
    try:
        import fcntl
    except ImportError:
        yield True
        return
    with path.open("a", encoding="utf-8") as file:
        kind = fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX
        yield _acquired(lambda: fcntl.flock(file, kind | fcntl.LOCK_NB), patience_s)


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
    """Wait until a file or directory is on disk; does nothing for directories on a system that cannot open them."""
    is_directory = path.is_dir()
    try:
        # Windows flushes only files that are open for writing.
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
    """The hexadecimal sha256 of a file, read in blocks.

    Raises:
        OSError: the file cannot be read.
    """
    digest = hashlib.sha256()
    with open(path, "rb") as f:
        while block := f.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()
