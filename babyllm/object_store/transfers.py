"""Transfers of whole files and of ranges, repeated after errors that pass.

A store that is busy, a connection that breaks and an answer that is cut short are tried again, each time after a longer
wait. What arrives is complete or the transfer fails: its size is compared, and its sha256 where one is known.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

from babyllm.errors import UserError
from babyllm.files import fsync
from babyllm.object_store.object_addresses import Address

T = TypeVar("T")
BLOCK_BYTES = 8 << 20
PARTIAL = ".partial"
ATTEMPTS = 8
FIRST_WAIT_S, LONGEST_WAIT_S = 0.25, 20.0
_FINAL = re.compile(
    r"ACCESS_DENIED|NO_SUCH_BUCKET|INVALID_ACCESS_KEY|SIGNATURE|INVALID_CLIENT_TOKEN|EXPIRED|credential"
    r"|HTTP status 40[13]|bucket does not exist|Bucket .* not found|libhdfs|libjvm",
    re.IGNORECASE,
)


class Broken(OSError):
    """What arrived is not what the store holds."""


@dataclass(frozen=True)
class RemoteFile:
    """A file in a store.

    Attributes:
        size: bytes.
        mtime_ns: time of its last change, in nanoseconds since 1970.
    """

    size: int
    mtime_ns: int

    def is_copied(self, path: Path) -> bool:
        """Whether a local file has its size and time, which `download` and `upload` set."""
        try:
            found = path.stat()
        except OSError:
            return False
        return (found.st_size, found.st_mtime_ns) == (self.size, self.mtime_ns)

    def mark(self, path: Path) -> None:
        """Set the time of a local copy; its time of access is now."""
        os.utime(path, ns=(time.time_ns(), self.mtime_ns))


def patiently(address: Address, act: Callable[[], T]) -> T:
    """The result of `act`, which is called again after errors that may pass.

    Args:
        address: address for the message.
        act: function to call, without effects that a second call could not repeat.

    Raises:
        UserError: it fails for good; the message names the address.
        FileNotFoundError: there is no such file.
    """
    for attempt in range(ATTEMPTS):
        try:
            return act()
        except FileNotFoundError:
            raise
        except OSError as error:
            reason = " ".join(str(error).split())
            if _FINAL.search(reason):
                raise UserError(
                    f"{address}: cannot be reached ({reason}); check the address, and the credentials in the "
                    "environment"
                ) from error
            if attempt == ATTEMPTS - 1:
                raise UserError(
                    f"{address}: failed {ATTEMPTS} times ({reason}); start the same command again later, it goes on "
                    "with what is left"
                ) from error
        time.sleep(min(LONGEST_WAIT_S, FIRST_WAIT_S * 2**attempt) * random.uniform(0.5, 1))
    raise AssertionError


def look(address: Address) -> dict[str, RemoteFile]:
    """The files at an address by their names in it, "" for the file that it is itself; empty if there are none.

    Raises:
        UserError: the store cannot be read, or a name cannot be that of a local file.
    """

    def listed() -> dict[str, RemoteFile]:
        from pyarrow import fs

        system, path = address.file_system()
        info = system.get_file_info(path)
        if info.type == fs.FileType.File:
            return {"": RemoteFile(info.size, info.mtime_ns)}
        if info.type == fs.FileType.NotFound:
            return {}
        found = system.get_file_info(fs.FileSelector(path, recursive=True, allow_not_found=True))
        start = len(path.strip("/")) + 1
        return {f.path.lstrip("/")[start:]: RemoteFile(f.size, f.mtime_ns) for f in found if f.type == fs.FileType.File}

    files = patiently(address, listed)
    for name in files:
        if name and any(part in ("", ".", "..") or "\\" in part for part in name.split("/")):
            raise UserError(f"{address}: holds {name!r}, which cannot be the name of a local file; leave it out")
    return dict(sorted(files.items()))


def read(address: Address, start: int = 0, stop: int | None = None, sha256: str = "") -> bytes:
    """The bytes of a file from `start` up to `stop`, or to its end.

    Args:
        address: address of the file.
        start: first byte.
        stop: byte after the last one; None for the end of the file.
        sha256: sha256 that the bytes must have, in hexadecimal; "" if none is known.

    Raises:
        UserError: they cannot be read, or the file ends before `stop`.
        FileNotFoundError: there is no such file.
    """
    seen = set[str]()

    def once() -> bytes:
        system, path = address.file_system()
        with system.open_input_file(path) as file:
            size = file.size()
            end = size if stop is None else stop
            borders = [start, random.randint(start, end), end] if seen else [start, end]  # as in `download`
            content = b"".join(file.read_at(b - a, a) for a, b in pairwise(borders))
        if len(content) != end - start:
            raise Broken(f"{len(content):,} bytes came instead of {end - start:,}")
        if (start, end) == (0, size) and not sha256:
            with system.open_input_stream(path, buffer_size=0) as tagged:  # a file for ranges has no tag
                _require_tag(_stored_md5(tagged), hashlib.md5(content, usedforsecurity=False), seen)
        if sha256 and hashlib.sha256(content).hexdigest() != sha256:
            raise Broken("its sha256 is not the one that its manifest names")
        return content

    return patiently(address, once)


def download(address: Address, remote: RemoteFile, path: Path, sha256: str = "") -> None:
    """Copy a file of a store to a local path, where it is complete or absent.

    Args:
        address: address of the file.
        remote: its size and time.
        path: place of the copy.
        sha256: sha256 that it must have, in hexadecimal; "" if none is known.

    Raises:
        UserError: it cannot be read, or has changed.
        OSError: the local file cannot be written.
    """
    temporary = path.with_name(f".{secrets.token_hex(8)}{PARTIAL}")  # no other process has this name
    path.parent.mkdir(parents=True, exist_ok=True)

    seen = set[str]()

    def once() -> None:
        system, where = address.file_system()
        digest, md5, size = hashlib.sha256(), hashlib.md5(usedforsecurity=False), 0
        # Of an answer that ends early, pyarrow returns as many bytes as were asked for, the last of them made up. Asked
        # for in other blocks it ends elsewhere, so no wrong bytes come twice.
        share = remote.size // random.randint(2, 9) if seen else BLOCK_BYTES
        n_bytes = max(1, min(share, random.randint(BLOCK_BYTES // 2, BLOCK_BYTES)))
        with _local(lambda: temporary.open("wb")) as target, system.open_input_stream(where, buffer_size=0) as source:
            stored = _stored_md5(source)
            while block := source.read(n_bytes):
                _local(partial(target.write, block))
                digest.update(block)
                if not sha256:
                    md5.update(block)
                size += len(block)
        if size != remote.size:
            raise Broken(f"{size:,} bytes came instead of {remote.size:,}")
        if sha256 and digest.hexdigest() != sha256:
            raise Broken("its sha256 is not the one that its manifest names")
        if not sha256:
            _require_tag(stored, md5, seen)

    try:
        try:
            patiently(address, once)
        except FileNotFoundError as error:
            raise UserError(f"{address}: was deleted while it was read; start the same command again") from error
        except _Unwritten as error:
            raise error.cause from None
        fsync(temporary)
        remote.mark(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _stored_md5(source: Any) -> str:
    """The md5 that a store names for an open file, in hexadecimal; "" if it names none, as of files sent in parts."""
    tag = source.metadata().get("ETag", b"").decode("ascii", "replace").strip('"').lower()
    return tag if re.fullmatch("[0-9a-f]{32}", tag) else ""


def _require_tag(stored: str, md5: hashlib._Hash, seen: set[str]) -> None:
    """Refuse bytes that a store's tag does not name, the first time that they come.

    An encrypting store's tag is not an md5 but looks like one, so bytes that come twice are taken.

    Raises:
        Broken: `stored` is another md5, and that of the bytes is not in `seen`, to which it is added.
    """
    found = md5.hexdigest()
    if stored not in ("", found) and found not in seen:
        seen.add(found)
        raise Broken("its bytes are not those that the store's tag names")


class _Unwritten(Exception):
    """The local disk, not the store, has failed."""

    def __init__(self, cause: OSError) -> None:
        super().__init__(str(cause))
        self.cause = cause


def _local(act: Callable[[], T]) -> T:
    try:
        return act()
    except OSError as error:
        raise _Unwritten(error) from error


def upload(path: Path, address: Address) -> RemoteFile:
    """Copy a local file to a store, look at what is there, and give the local file its time.

    Raises:
        UserError: it cannot be written, or the store holds fewer bytes afterwards.
        OSError: the local file cannot be read.
    """
    from pyarrow import fs

    def once() -> RemoteFile:
        system, where = address.file_system()
        if address.scheme == "hdfs":
            system.create_dir(where.rpartition("/")[0])
        size = 0
        with path.open("rb") as source, system.open_output_stream(where, buffer_size=0) as target:
            while block := source.read(BLOCK_BYTES):
                target.write(block)
                size += len(block)
        info = system.get_file_info(where)
        if info.type != fs.FileType.File or info.size != size:
            raise Broken(f"the store holds {info.size} bytes instead of {size:,}")
        return RemoteFile(info.size, info.mtime_ns)

    try:
        remote = patiently(address, once)
    except FileNotFoundError as error:
        raise UserError(f"{address}: cannot be written ({error.strerror or error})") from error
    remote.mark(path)
    return remote


def delete(address: Address) -> None:
    """Delete a file of a store, if it is there.

    Raises:
        UserError: it cannot be deleted.
    """

    def once() -> None:
        system, path = address.file_system()
        try:
            system.delete_file(path)
        except FileNotFoundError:
            return

    patiently(address, once)
