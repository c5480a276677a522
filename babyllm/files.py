"""Files that are whole or absent: written under a temporary name, flushed to disk, renamed."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file so that a reader, or a crash at any moment, finds all of it or what was there before."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(content)
    fsync(temporary)
    os.replace(temporary, path)
    fsync(path.parent)


def write_json(path: Path, value: object) -> None:
    """Like `write_bytes`, for a JSON value a person can read."""
    write_bytes(path, (json.dumps(value, ensure_ascii=False, indent=1) + "\n").encode())


def fsync(path: Path) -> None:
    """Wait until a file or directory is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
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
