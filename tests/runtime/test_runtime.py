"""Ranks are real processes here: all scenarios run at the same time, and each test looks at how one of them ended."""

import json
import os
import signal
import threading
import time

import pytest
from runtime_fixtures import Ended

from babyllm.errors import UserError
from babyllm.runtime import RuntimeConfig, start
from babyllm.runtime.machine import cores


@pytest.mark.slow
def test_ranks_work_together(ended: dict[str, Ended]) -> None:
    """Ranks add exactly, divide the cores, wait for rank 0 and hear of each other's signals."""
    seen = [json.loads(ended[f"everything/{rank}"].text) for rank in range(2)]
    for rank in range(2):
        assert seen[rank]["sum"] == [2, 2**53 - 1, 1]
        assert seen[rank]["threads"] == max(1, cores() // 2)
        assert (seen[rank]["stop_before"], seen[rank]["stop_after"]) == ([0], [1])
        assert seen[rank]["worker"] == -signal.SIGTERM
    assert seen[0]["before"] == []
    assert seen[1]["before"] == ["0.mark"]


@pytest.mark.slow
def test_a_rank_that_hangs_is_named_once(ended: dict[str, Ended]) -> None:
    """A rank that sleeps while others wait in a collective ends the run with one line: who, at which step, where."""
    (line,) = ended["everything"].said
    assert line.startswith("job.py: rank 1 (")
    assert "has not gone beyond step 57 for 4 s (it is at job.py:" in line
    assert line.endswith(" steps): stopping")
    assert ended["everything"].status == 1


@pytest.mark.slow
def test_a_rank_that_is_suspended_is_named(ended: dict[str, Ended]) -> None:
    """When a rank's process stops running without ending, the other one says so and ends."""
    (line,) = ended["stop/0"].said
    assert f"pid {ended['stop/1'].pid}) has given no sign of life for 4 s, last seen at step " in line
    assert ended["stop/0"].status == 1


@pytest.mark.slow
def test_a_suspended_keeper_of_the_store_is_named_whatever_the_patience(ended: dict[str, Ended]) -> None:
    """Where rank 0 keeps the store and is stopped while the other one evaluates, that one says so and ends."""
    (line,) = ended["keeper/1"].said
    assert "rank 0 (" in line and f"pid {ended['keeper/0'].pid}) has" in line and line.endswith(": stopping")
    assert ended["keeper/1"].status == 1


@pytest.mark.slow
def test_a_rank_that_dies_is_named(ended: dict[str, Ended]) -> None:
    """When a rank is killed, the other one names it in one line instead of showing the collective's traceback."""
    (line,) = ended["kill/0"].said
    assert f"pid {ended['kill/1'].pid}) died, last seen at step " in line
    assert "Traceback" not in ended["kill/0"].text
    assert ended["kill/0"].status == 1


@pytest.mark.slow
def test_a_failing_first_rank_stops_the_others_quietly(ended: dict[str, Ended]) -> None:
    """When rank 0 fails in main_first it says why, and the others exit with status 1 without a word."""
    assert ended["first/0"].said == ["job.py: corpus.txt: empty on rank 0"]
    assert ended["first/1"].text == ""
    assert [ended[f"first/{rank}"].status for rank in range(2)] == [1, 1]


@pytest.mark.slow
def test_an_error_of_all_ranks_appears_once(ended: dict[str, Ended]) -> None:
    """An error that all ranks meet under torchrun is printed once, and its report shows it too."""
    assert ended["shared"].said == ["job.py: data/x.bin: not there"]
    assert "traceback : data/x.bin: not there" in ended["shared"].text


def test_ranks_that_cannot_meet_say_where(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rank that stays alone says within the timeout where it waited for the others."""
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}.items():
        monkeypatch.setenv(name, value)
    begin = time.monotonic()
    with pytest.raises(UserError, match=r"rank 0 of 2 could not meet the others at 127\.0\.0\.1:0 within 1 s"):
        start(RuntimeConfig(device="cpu", timeout_s=1)).__enter__()
    assert time.monotonic() - begin < 20
    monkeypatch.delenv("MASTER_PORT")
    with pytest.raises(UserError, match="MASTER_PORT is not set"):
        start(RuntimeConfig(device="cpu")).__enter__()


def test_a_rank_that_waits_for_others_hears_a_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGTERM to a rank whose others have not come, as torchrun sends it when one of them died: it ends and says so."""
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}.items():
        monkeypatch.setenv(name, value)
    timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM))
    before = signal.signal(signal.SIGTERM, lambda signum, frame: None)  # it may come too late
    timer.start()
    try:
        with pytest.raises(UserError, match="rank 0 of 2 was asked to stop while it waited for rank 1, which had not"):
            start(RuntimeConfig(device="cpu", timeout_s=60)).__enter__()
    finally:
        timer.join()
        signal.signal(signal.SIGTERM, before)
