"""Systems that have less than Linux, imitated."""

import os
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
from training_fixtures import FLAGS, SCRIPT

from babyllm.runtime.machine import cores, lacking, physical_cores


def test_a_system_without_unix_trains(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without file locks, memory statistics, directory flushes and core sets a run begins, says so, saves, goes on."""

    def open_no_directories(path: Any, *arguments: Any, **named: Any) -> int:
        if os.path.isdir(path):
            raise PermissionError(13, "Permission denied", str(path))
        return original(path, *arguments, **named)

    def flush_what_could_be_written(descriptor: int) -> None:
        os.write(descriptor, b"")  # fails with EBADF where it is open for reading alone
        flush(descriptor)

    original, flush = os.open, os.fsync
    monkeypatch.setattr(os, "open", open_no_directories)
    monkeypatch.setattr(os, "fsync", flush_what_could_be_written)
    for module in ("fcntl", "resource"):
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    for steps in (2, 3):
        arguments = [*FLAGS, f"--data.path={data}", f"--run_dir={tmp_path}/run", f"--plan.steps={steps}"]
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *arguments])
        runpy.run_path(str(SCRIPT), run_name="__main__")
    told = capsys.readouterr().out
    assert told.count("no file locks here") == told.count("memory_bytes is 0") == 1
    assert f"resuming from {tmp_path}/run/step_00000002" in told and "finished at step 3 of 3" in told


def test_cores_are_counted_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Physical cores are at most the logical ones; where a system does not say, all logical ones count."""
    assert 1 <= physical_cores() <= cores()
    assert lacking() == [] or sys.platform == "win32"
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(sys, "platform", "win32")
    assert physical_cores() == cores() == (os.cpu_count() or 1)
