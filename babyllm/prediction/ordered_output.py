"""A file that is written window by window, by several ranks, and has its name only once it is complete.

    OUT.settings.json             what the content depends on; another value is refused
    OUT.partial/done.jsonl        the windows 0 .. n - 1, in order
    OUT.partial/position.json     n, and the size of done.jsonl up to their end; what comes after it is cut off
    OUT.partial/window_000000042  a window that was finished before those before it were

Windows become files, and rank 0 moves the next ones to the end of done.jsonl. A process may be killed at any moment:
a window that is neither in done.jsonl nor a file is computed again.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from babyllm.config.json_fields import read_json
from babyllm.errors import UserError
from babyllm.files import fsync, locked, write_bytes, write_json
from babyllm.runtime import Runtime

_DONE, _POSITION, _WINDOW = "done.jsonl", "position.json", "window_"
_HASH = re.compile(r"[0-9a-f]{64}")
_LOOK_S = 0.1  # time between two looks for the windows of other ranks


@dataclass
class OrderedOutput:
    """The windows of a file that is being written; rank 0 puts them in order.

    Attributes:
        out: path of the complete file.
        runtime: ranks that write.
        is_complete: whether the file was complete when this process began.
    """

    out: Path
    runtime: Runtime
    is_complete: bool = False
    _n_done: int = 0
    _size: int = 0
    _finished: frozenset[int] = frozenset()

    @property
    def folder(self) -> Path:
        """The folder with what is written so far."""
        return self.out.with_name(f"{self.out.name}.partial")

    def make(self, settings: Mapping[str, Any]) -> None:
        """Make the folder, unless an earlier process has made it or the file; rank 0 calls it.

        Args:
            settings: JSON values that the content depends on.

        Raises:
            UserError: another file has the name, or the settings differ from those of the earlier process.
        """
        file = self.out.with_name(f"{self.out.name}.settings.json")
        if self.out.exists() and not file.exists():
            raise UserError(f"{self.out}: already exists; delete it or choose another name")
        if self.out.exists() or self.folder.exists():
            _require_equal(read_json(file), json.loads(json.dumps(settings)), self.out)
        else:
            write_json(file, settings)
        if self.out.exists():
            shutil.rmtree(self.folder, ignore_errors=True)  # the earlier process was killed after it named the file
        else:
            self.folder.mkdir(exist_ok=True)
            (self.folder / _DONE).touch()

    def look(self) -> None:
        """Find out what is written."""
        self.is_complete = self.out.exists()
        position = self.folder / _POSITION
        if position.exists():
            value = read_json(position)
            self._n_done, self._size = int(value["windows"]), int(value["bytes"])
        self._finished = frozenset(int(path.name.removeprefix(_WINDOW)) for path in self.folder.glob(f"{_WINDOW}*"))

    def is_missing(self, number: int) -> bool:
        """Whether a window had not been written when this process began."""
        return number >= self._n_done and number not in self._finished

    def put(self, number: int, content: bytes) -> None:
        """Write a window; on rank 0 also put those that come next in order."""
        with _writing(self.out):
            write_bytes(self._window(number), content)
            if self.runtime.is_main:
                self._collect()

    def complete(self, n_windows: int) -> None:
        """Put all windows in order, including those that other ranks have yet to write, and give the file its name.

        Args:
            n_windows: number of windows of the file.
        """
        with _writing(self.out):
            while self._collect() < n_windows:
                time.sleep(_LOOK_S)
            os.replace(self.folder / _DONE, self.out)
            fsync(self.out.absolute().parent)
            shutil.rmtree(self.folder)

    def _window(self, number: int) -> Path:
        return self.folder / f"{_WINDOW}{number:09}"

    def _collect(self) -> int:
        """Move the windows that come next to the end of the file; returns the number of windows in it."""
        while (window := self._window(self._n_done)).exists():
            with (self.folder / _DONE).open("r+b") as file:
                file.seek(self._size)
                file.write(window.read_bytes())
                file.truncate()
                file.flush()
                os.fsync(file.fileno())
                self._size = file.tell()
            self._n_done += 1
            write_json(self.folder / _POSITION, {"windows": self._n_done, "bytes": self._size})
            window.unlink()
        return self._n_done


@contextmanager
def ordered_output(out: Path, settings: Mapping[str, Any], runtime: Runtime) -> Iterator[OrderedOutput]:
    """A file to write, from where an earlier process stopped; every rank must call it.

    Args:
        out: path of the file.
        settings: JSON values that the content depends on.
        runtime: ranks that write.

    Raises:
        UserError: another process is writing the file, its settings differ, or it cannot be written.
    """
    output = OrderedOutput(out, runtime)
    with ExitStack() as held:
        with runtime.main_first():
            if runtime.is_main:
                with _writing(out):
                    output.make(settings)
                if output.folder.exists() and not held.enter_context(locked(output.folder / ".lock", 0)):
                    raise UserError(f"{out}: another process is writing it; wait for it, or choose another name")
            output.look()
        runtime.barrier()  # nothing changes before all ranks have looked
        yield output


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{out}: cannot be written ({error.strerror or error}); the same command goes on once it can be"
        ) from error


def _require_equal(stored: Mapping[str, Any], settings: Mapping[str, Any], out: Path) -> None:
    """Refuse to go on with other settings.

    Raises:
        UserError: a setting differs; the message names it.
    """
    for name in settings:
        was, now = stored.get(name), settings[name]
        if was != now:
            change = f"another {name}" if _HASH.fullmatch(str(was)) else f"{name}={was!r}, which is {now!r} now"
            raise UserError(f"{out}: was begun with {change}; give the same, or choose another name for the file")
