"""Step times by rank: who works longest, without what the others wait for it."""

from pathlib import Path

import pytest
from training_fixtures import Worker

from babyllm.training.recording.records import read_metrics


@pytest.mark.slow
def test_a_rank_that_is_always_slower_is_named(worker: Worker, data: Path, tmp_path: Path) -> None:
    """The records show the step time of each rank's own work, and after some of them a line names the slow one."""
    worker.load("tests.machines.machine_jobs")
    worker.run("unequal_steps", ranks=2, data=str(data), out=str(tmp_path / "run"), slow=1)
    output = worker.output.read_text()
    records = [record for record in read_metrics(tmp_path / "run") if "step_s/ratio" in record]
    assert len(records) == 8
    for record in records:
        assert record["step_s/slowest"] == 1 and record["step_s/rank_1"] > 0.05
        assert record["step_s/ratio"] == pytest.approx(record["step_s/rank_1"] / record["step_s/median"])
        assert record["step_s/median"] == record["step_s/rank_0"]
    (line,) = [line for line in output.splitlines() if "times the median's time" in line]
    assert line.startswith("rank 1 (") and ", cpu) takes " in line and "`babyllm doctor`" in line


def test_a_rank_alone_reports_nothing(worker: Worker, data: Path, tmp_path: Path) -> None:
    """With one rank there is nobody to compare with."""
    worker.load("tests.machines.machine_jobs")
    worker.run("unequal_steps", data=str(data), out=str(tmp_path / "run"), slow=-1)
    assert not any(name.startswith("step_s/") for record in read_metrics(tmp_path / "run") for name in record)
