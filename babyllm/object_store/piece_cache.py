"""A bounded local cache of pieces of remote files, which many processes of a machine share and threads fill ahead.

get(name, i) -> CACHE/pieces/KEY/NAME.I, fetched if it is not there -> its bytes
within asked(): get(name, i) -> the piece is fetched in the background

A piece has its name when it is complete. Nothing keeps one open, so the pieces not used for longest can be deleted at
any time; whoever needs one again fetches it again.
"""

from __future__ import annotations

import hashlib
import os
import queue
import secrets
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from babyllm.errors import UserError
from babyllm.files import locked

PIECES = "pieces"
N_FETCHERS = 8
_PATIENCE_S = 3600.0
# Each process looks at the whole cache after it has added this share of the limit, and then leaves this share.
_LOOK_SHARE, _LEFT_SHARE = 1 / 32, 3 / 4
_N_LOCKS = 64
_LEFT_S = 86_400.0
_END_S = 2.0  # for which the end of the process waits for a transfer

Fetch = Callable[[str, int, Path], None]


class Pieces:
    """The pieces of some files.

    Args:
        root: directory of all copies.
        key: name of the files and their version; pieces of equal keys are the same.
        limit: bytes that the pieces of all keys may take.
        fetch: function that writes a piece of a file to a path, checked and whole.
    """

    def __init__(self, root: Path, key: str, limit: int, fetch: Fetch) -> None:
        self._all = root / PIECES
        self._folder = self._all / hashlib.sha256(key.encode()).hexdigest()[:16]
        self._limit, self._fetch = limit, fetch
        self._added, self._lock = 0, threading.Lock()
        self._running: dict[tuple[str, int], Future[None]] = {}
        self._here = threading.local()
        self._fetchers = _Fetchers()
        weakref.finalize(self, self._fetchers.stop)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._unwritten(error) from error

    @contextmanager
    def asking(self) -> Iterator[None]:
        """In the body, this thread's `get` only begins to fetch pieces, and returns None."""
        self._here.is_asking = True
        try:
            yield
        finally:
            self._here.is_asking = False

    def get(self, name: str, i: int, start: int, stop: int) -> bytes | None:
        """The bytes from `start` up to `stop` of piece `i` of a file; None while asking.

        Raises:
            UserError: the piece cannot be fetched or stored.
        """
        path = self._folder / f"{name.replace('/', '%2F')}.{i}"
        if getattr(self._here, "is_asking", False):
            self._ask(name, i, path)
            return None
        while True:
            with self._lock:
                running = self._running.pop((name, i), None)
            if running:
                running.result()
            with suppress(FileNotFoundError):  # not there yet, or not any more
                content = _read(path, start, stop)
                if len(content) == stop - start:
                    return content
                path.unlink(missing_ok=True)  # somebody has cut it
            self._bring(name, i, path)

    def _ask(self, name: str, i: int, path: Path) -> None:
        with self._lock:
            if (name, i) not in self._running and not path.exists():
                self._running[name, i] = self._fetchers.submit(partial(self._bring, name, i, path))

    def _bring(self, name: str, i: int, path: Path) -> None:
        """Fetch a piece unless another thread or process has."""
        number = int(hashlib.sha256(path.name.encode()).hexdigest()[:8], 16) % _N_LOCKS
        with locked(self._folder / f".lock{number}", _PATIENCE_S):
            if path.exists():
                return
            temporary = path.with_name(f".{secrets.token_hex(8)}")
            try:
                self._fetch(name, i, temporary)
                os.utime(temporary)  # its last use is now
                n_bytes = temporary.stat().st_size
                os.replace(temporary, path)
            except OSError as error:
                raise self._unwritten(error) from error
            finally:
                temporary.unlink(missing_ok=True)
        self._count(n_bytes)

    def _unwritten(self, error: OSError) -> UserError:
        return UserError(
            f"{error.filename or self._folder}: cannot be written ({error.strerror or error}); free some space, or set "
            "--data.cache.directory or a smaller --data.cache.bytes"
        )

    def _count(self, n_bytes: int) -> None:
        with self._lock:
            self._added += n_bytes
            if self._added < self._limit * _LOOK_SHARE:
                return
            self._added = 0
        delete_unused(self._all, int(self._limit * _LEFT_SHARE))


class _Fetchers:
    """Threads that do not keep the process from ending, unlike those of a `ThreadPoolExecutor`."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[tuple[Future[None], Callable[[], None]] | None] = queue.SimpleQueue()
        self._is_over = threading.Event()
        arguments = (self._jobs, self._is_over)
        self._threads = [threading.Thread(target=_work, args=arguments, daemon=True) for _ in range(N_FETCHERS)]
        for thread in self._threads:
            thread.start()

    def submit(self, job: Callable[[], None]) -> Future[None]:
        """Do a job in one of the threads."""
        future = Future[None]()
        self._jobs.put((future, job))
        return future

    def stop(self) -> None:
        """End the threads after what each is doing; what they have not begun is left."""
        self._is_over.set()
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(_END_S)


def _work(jobs: queue.SimpleQueue[tuple[Future[None], Callable[[], None]] | None], is_over: threading.Event) -> None:
    while (entry := jobs.get()) is not None and not is_over.is_set():
        future, job = entry
        del entry
        try:
            job()
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(None)
        del future, job


def _read(path: Path, start: int, stop: int) -> bytes:
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        content = bytearray()
        while len(content) < stop - start and (block := file.read(stop - start - len(content))):
            content += block
    with suppress(OSError):
        os.utime(path)
    return bytes(content)


def delete_unused(folder: Path, limit: int) -> None:
    """Delete the pieces that were not used for longest until the others take at most `limit` bytes."""
    found = []
    for file in folder.rglob("*"):
        with suppress(OSError):
            stat = file.stat()
            # A hidden file is a lock, or a piece that is just arriving unless a killed process has left it.
            if not file.is_dir() and (not file.name.startswith(".") or stat.st_ctime < time.time() - _LEFT_S):
                found.append((stat.st_mtime_ns, stat.st_size, file))
    used = sum(size for _, size, _ in found)
    for _, size, file in sorted(found, key=lambda entry: entry[:2]):
        if used <= limit:
            return
        file.unlink(missing_ok=True)
        used -= size
