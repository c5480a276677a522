"""The watchdog of one rank, with a store that has troubles of its own."""

import errno
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from babyllm.runtime.signals import StopSignal
from babyllm.runtime.store import FolderStore
from babyllm.runtime.verdict import DONE, STOPPING
from babyllm.runtime.watchdog import Watchdog

TIMEOUT_S = 2.0


class Full(FolderStore):
    """A folder on a disk that is full for the second to the fifth record."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.n_set, self.is_over = 0, threading.Event()

    def set(self, key: str, value: str) -> None:
        self.n_set += 1
        if 2 <= self.n_set <= 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        super().set(key, value)
        if self.n_set > 6:
            self.is_over.set()


def test_a_disk_that_is_full_for_a_moment_ends_nothing(tmp_path: Path) -> None:
    """Records that could not be written for a while are written again as soon as they can be."""
    store = Full(tmp_path / "store")
    watchdog = Watchdog(store, 0, 1, TIMEOUT_S, str(tmp_path), f"the folder {tmp_path}")
    watchdog.join(StopSignal())
    watchdog.run()
    assert store.is_over.wait(timeout=60)
    watchdog.close(DONE)
    assert b'"state": "done"' in store.get("watchdog/0")


class Lost(FolderStore):
    """A store that can be reached only until the first record is there."""

    def multi_get(self, keys: Sequence[str]) -> list[bytes]:
        if threading.current_thread() is threading.main_thread():
            return super().multi_get(keys)
        raise RuntimeError("gone")


def test_what_keeps_the_store_is_named_when_it_is_lost(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A store of no rank is told as what it is: a folder is not taken for torchrun."""
    watchdog = Watchdog(Lost(tmp_path / "store"), 0, 1, TIMEOUT_S, str(tmp_path), f"the folder {tmp_path}")
    watchdog.join(StopSignal())
    watchdog.run()
    assert watchdog.explain()
    watchdog.close(STOPPING)
    assert f"the folder {tmp_path} is gone: it keeps the store" in capfd.readouterr().err
