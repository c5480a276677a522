"""The watchdog of one rank, with a store that has troubles of its own."""

import errno
import socket
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from babyllm.errors import UserError
from babyllm.runtime import RuntimeConfig, start
from babyllm.runtime.launching.verdict import DONE, STOPPING
from babyllm.runtime.rendezvous import FolderStore
from babyllm.runtime.signals import StopSignal
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
    """A store that can be reached only until the first records are there."""

    n_read = 0

    def multi_get(self, keys: Sequence[str]) -> list[bytes]:
        self.n_read += 1
        if self.n_read == 1:
            return super().multi_get(keys)
        raise RuntimeError("gone")


def test_what_keeps_the_store_is_named_when_it_is_lost(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A store of no rank is named as what it is: a folder is not taken for torchrun."""
    watchdog = Watchdog(Lost(tmp_path / "store"), 0, 1, TIMEOUT_S, str(tmp_path), f"the folder {tmp_path}")
    watchdog.join(StopSignal())
    watchdog.run()
    assert watchdog.explain()
    watchdog.close(STOPPING)
    assert f"the folder {tmp_path} is gone: it keeps the store" in capfd.readouterr().err


def test_ranks_that_lost_their_store_tell_it_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Rank 0 took the store with it, so nobody can claim the line: the lowest rank that is there reports it."""
    ranks = [Watchdog(Lost(tmp_path / "store"), rank, 4, TIMEOUT_S, "localhost:1", 0) for rank in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda rank: rank.join(StopSignal()), ranks))
        for rank in ranks[1:]:
            rank.run()
        assert list(pool.map(Watchdog.explain, ranks[1:])) == [True] * 3
        list(pool.map(lambda rank: rank.close(STOPPING), ranks[1:]))
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "rank 0 (" in lines[0]


class Silent(FolderStore):
    """The store of a process that is suspended: it takes what it receives, and never answers."""

    def check(self, keys: Sequence[str]) -> bool:
        threading.Event().wait()
        return True


def test_a_store_that_does_not_answer_ends_the_joining(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody watches yet while ranks join, so joining has an end of its own."""
    monkeypatch.setattr("babyllm.runtime.rendezvous.GRACE_S", 0.5)
    watchdog = Watchdog(Silent(tmp_path / "store"), 1, 2, 0.5, "localhost:1", 0)
    with pytest.raises(UserError, match=r"rank 1 of 2 could not meet .* within 0\.5 s: rank 0 keeps the store .* not"):
        watchdog.join(StopSignal())


def test_an_address_that_never_answers_ends_the_joining(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system takes connections for a process that is suspended; PyTorch's client waits without end."""
    monkeypatch.setattr("babyllm.runtime.rendezvous.GRACE_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        for name, value in {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(UserError, match=f"rank 1 of 2 could not meet .*:{port} within 1 s: rank 0 keeps the store"):
            start(RuntimeConfig(device="cpu", timeout_s=1)).__enter__()
        monkeypatch.setenv("MASTER_PORT", "no port")
        with pytest.raises(UserError, match=r"could not meet the others at 127\.0\.0\.1:no port"):
            start(RuntimeConfig(device="cpu", timeout_s=1)).__enter__()


def test_ranks_that_are_stopped_while_they_join_tell_it_once(tmp_path: Path) -> None:
    """Of the ranks that were asked to stop before all had come, the first one says who had not."""
    ranks = [Watchdog(FolderStore(tmp_path / "store"), rank, 4, 60.0, "localhost:1", 0) for rank in (0, 1, 3)]
    stop = StopSignal()
    stop.is_set = True

    def joined(rank: Watchdog) -> str:
        try:
            rank.join(stop)
        except (UserError, SystemExit) as error:
            return str(error)
        return "joined"

    told = sorted(map(joined, ranks))
    assert told[:2] == ["1", "1"] and "was asked to stop while it waited for rank" in told[2]
