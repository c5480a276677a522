"""Local copies of remote files and directories, within a limit of bytes.

address -> look -> files that differ in size or time -> download, several at a time -> CACHE/copies/HASH/bucket/key

A finished corpus is copied as its manifest describes it: with the sha256 of each file. One whose upload has not ended
is refused. While a command works on copies it has their lock, and others delete copies without one only.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

from babyllm.errors import UserError
from babyllm.files import locked
from babyllm.object_store.object_addresses import Address
from babyllm.object_store.transfers import RemoteFile, download, look, read
from babyllm.progress import ProgressLine
from babyllm.runtime.config import CacheConfig
from babyllm.runtime.measured import cache_directory

COPIES = "copies"
UPLOADING = ".uploading"
"""A file in a remote directory whose upload has begun and not ended."""
MANIFESTS = {"corpus.json": "parts", "manifest.json": "shards", "chats.json": "files"}
"""The commit marks, and the key of the list of files in each."""
N_TRANSFERS = 8
DAY_S = 86_400.0
_SILENT_BYTES = 1 << 24


def root_of(cache: CacheConfig) -> Path:
    """The directory of all copies."""
    return Path(cache.directory) if cache.directory else cache_directory() / "objects"


@dataclass(frozen=True)
class Copy:
    """The place of the files of an address on this machine.

    Attributes:
        address: address of the files.
        root: directory of all copies.
        kind: folder of `root` in which it lies.
    """

    address: Address
    root: Path
    kind: str = COPIES

    @property
    def folder(self) -> Path:
        """The folder that holds nothing else."""
        name = hashlib.sha256(f"{self.address.service()} {self.address}".encode()).hexdigest()[:16]
        return self.root / self.kind / name

    @property
    def path(self) -> Path:
        """The copied file or directory; ids of documents have the last of its names, which are those of the address."""
        return self.folder / self.address.path.replace(":", "_")

    @property
    def lock(self) -> Path:
        """The lock file."""
        return _lock_of(self.folder)


def _lock_of(folder: Path) -> Path:
    folder.parent.mkdir(parents=True, exist_ok=True)
    return folder.with_name(f".{folder.name}.lock")


def whole_files(address: Address) -> dict[str, RemoteFile]:
    """The files at an address by name, as `look`.

    Raises:
        UserError: there are none, their upload has not ended, or the store cannot be read.
    """
    files = look(address)
    if not files:
        raise UserError(f"{address}: does not exist; give a file or a folder with files")
    if UPLOADING in files:
        raise UserError(
            f"{address}: is being written, or its upload was stopped; run the command that makes it again, which goes "
            "on with what is left"
        )
    return files


@contextmanager
def copied(addresses: Sequence[Address], cache: CacheConfig) -> Iterator[list[Path]]:
    """Complete local copies of what lies at the addresses, which nobody deletes while the body runs.

    Raises:
        UserError: an address does not exist or cannot be read, or the copies need more room than there may be.
    """
    with ExitStack() as stack:
        yield [stack.enter_context(_held(Copy(address, root_of(cache)), cache)) for address in addresses]


@contextmanager
def _held(copy: Copy, cache: CacheConfig) -> Iterator[Path]:
    while True:
        files = whole_files(copy.address)
        with locked(copy.lock, DAY_S, is_shared=True):
            if not missing(files, copy.path) and not _others(files, copy.path):
                os.utime(copy.folder)
                yield copy.path
                return
        with locked(copy.lock, DAY_S):  # after the commands that still read the copy as it was
            fetch(copy, files, cache)


def missing(files: Mapping[str, RemoteFile], path: Path) -> list[str]:
    """The names of files that a copy lacks or has in another version."""
    return [name for name, remote in files.items() if not remote.is_copied(path / name)]


def fetch(copy: Copy, files: Mapping[str, RemoteFile], cache: CacheConfig) -> None:
    """Bring a copy up to date: download what it lacks, delete what the store no longer has.

    Raises:
        UserError: a file cannot be read, has changed, or there is no room.
    """
    for file in _others(files, copy.path):
        file.unlink()
    wanted = missing(files, copy.path)
    n_bytes = sum(files[name].size for name in wanted)
    if wanted:
        _make_room(cache, n_bytes, copy.folder)
    expected = _checksums(copy.address, files) if wanted else {}
    progress = Transferred(copy.address, n_bytes)

    def one(name: str) -> None:
        place = copy.address / name if name else copy.address
        download(place, files[name], copy.path / name if name else copy.path, expected.get(name, ""))
        progress.add(files[name].size)

    try:
        in_parallel(one, wanted)
    except OSError as error:
        raise UserError(
            f"{error.filename or copy.path}: cannot be written ({error.strerror or error}); free some space or choose "
            "another directory for copies"
        ) from error
    progress.end()


class Transferred:
    """The progress of a transfer by several threads; a short one shows nothing."""

    def __init__(self, address: Address, n_bytes: int) -> None:
        self._line = ProgressLine(f"{address}: bytes", n_bytes, output=sys.stderr) if n_bytes > _SILENT_BYTES else None
        self._lock, self._done = threading.Lock(), 0

    def add(self, n_bytes: int) -> None:
        """Count bytes that have arrived."""
        with self._lock:
            self._done += n_bytes
            if self._line:
                self._line.show(self._done)

    def end(self) -> None:
        """End the line."""
        if self._line:
            self._line.end()


def in_parallel(act: Callable[[str], None], names: Sequence[str]) -> None:
    """Call a function with every name, several at a time; the first error ends the rest."""
    with ThreadPoolExecutor(max(1, min(N_TRANSFERS, len(names)))) as pool:
        futures = [pool.submit(act, name) for name in names]
        done, left = wait(futures, return_when=FIRST_EXCEPTION)
        for future in left:
            future.cancel()
        for future in done:
            future.result()


def _checksums(address: Address, files: Mapping[str, RemoteFile]) -> dict[str, str]:
    """The sha256 of each file that a manifest names."""
    found: dict[str, str] = {}
    for manifest, key in MANIFESTS.items():
        if manifest in files:
            with suppress(ValueError, KeyError, TypeError, FileNotFoundError):  # whoever uses it reports the damage
                described = json.loads(read(address / manifest))[key]
                found |= {str(entry["file"]): str(entry.get("sha256", "")) for entry in described}
    return found


def _others(files: Mapping[str, RemoteFile], path: Path) -> list[Path]:
    """The files of a copy that the store does not have, without hidden ones."""
    return [
        file
        for file in (path.rglob("*") if path.is_dir() else ())
        if file.relative_to(path).as_posix() not in files and not file.name.startswith(".") and not file.is_dir()
    ]


# ---- room


def _make_room(cache: CacheConfig, n_bytes: int, keep: Path) -> None:
    """Delete the copies that were not used for longest until `n_bytes` more fit into the limit.

    Raises:
        UserError: they do not fit after all copies that nobody uses are deleted.
    """
    folders = [path for path in (root_of(cache) / COPIES).glob("*") if path.is_dir()]
    sizes = {folder: _size(folder) for folder in folders}
    used = sum(sizes.values())
    for folder in sorted(sizes, key=_last_use):
        if used + n_bytes <= cache.bytes:
            return
        with locked(_lock_of(folder), 0) if folder != keep else nullcontext(False) as is_free:
            if is_free:
                shutil.rmtree(folder, ignore_errors=True)
                used -= sizes[folder]
    if used + n_bytes > cache.bytes:
        raise UserError(
            f"{root_of(cache)}: {n_bytes:,} more bytes do not fit beside {used:,} in use; set --work.cache.bytes to at "
            f"least {used + n_bytes:,}, or another --work.cache.directory"
        )


def _last_use(folder: Path) -> float:
    with suppress(OSError):
        return folder.stat().st_mtime
    return 0.0


def _size(folder: Path) -> int:
    total = 0
    for file in folder.rglob("*"):
        with suppress(OSError):
            total += 0 if file.is_dir() else file.stat().st_size
    return total
