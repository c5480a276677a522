"""The command `babyllm compare` with real runs."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from training_fixtures import ONE_THREAD, ROOT

from babyllm.__main__ import run
from babyllm.errors import UserError
from babyllm.training.recording.records import read_metrics

BASE: dict[str, Any] = {
    "data": {"seq_len": 16, "global_batch": 8, "micro_batch": 4},
    "model": {"n_layers": 1, "d_model": 32, "n_heads": 4, "n_kv_heads": 2, "max_seq_len": 64},
    "runtime": {"device": "cpu", "dtype": "float32", "threads": 1, "processes": 1},
    "plan.steps": 160,
    "prompts": [],
    "save_every": 30,
    "eval_every": 80,
}


def write_study(folder: Path, data: Path, **keys: Any) -> Path:
    """A study of the two orders of two domains."""
    arms = {"random": {}, "left first": {"data.concat": ["left", "right"]}}
    value = {"out": str(folder / "out"), "base": BASE | {"data.path": str(data)}, "seeds": [1, 2], "arms": arms}
    file = folder / "study.yaml"
    file.write_text(yaml.safe_dump(value | {"results": ["all/bpb"]} | keys, sort_keys=False), encoding="utf-8")
    return file


def start(file: Path) -> subprocess.Popen[str]:
    """The command as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "babyllm", "compare", str(file), "--jobs=2"],
        env={**os.environ, **ONE_THREAD, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


@pytest.mark.slow
def test_a_study_is_stopped_resumed_and_compared(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C saves the runs in progress; the same command resumes them, ends all, and writes table, page and curves."""
    file, out = write_study(tmp_path, data), tmp_path / "out"
    process = start(file)
    first = [out / arm / "seed_1" for arm in ("random", "left_first")]
    while not all(list(directory.glob("step_*")) for directory in first):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    text = process.communicate()[0]
    assert process.returncode == 130 and "stopped; the same command goes on from here" in text, text
    assert "Traceback" not in text and not (out / "report.json").exists()
    with pytest.raises(UserError, match="no run is finished"):
        run(["compare", str(file), "--table"])
    capsys.readouterr()
    run(["compare", str(file), "--jobs=2"])
    printed = capsys.readouterr().out
    assert all("resuming from" in (out / arm / "seed_1.log").read_text() for arm in ("random", "left_first"))
    assert [record["step"] for record in read_metrics(first[0])][-1] == 160
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    rows = report["tables"][0]["rows"]
    assert [row[:2] for row in rows] == [["random", 2], ["left first", 2]]
    assert rows[1][4] == pytest.approx(rows[1][2] - rows[0][2])
    assert all(row[1] == pytest.approx(160 * 8 * 16, rel=0.01) for row in report["tables"][1]["rows"])
    assert rows[1][-1] in printed and (out / "curves.png").stat().st_size > 10_000
    assert "left first" in (out / "report.html").read_text(encoding="utf-8")
    run(["compare", str(file)])
    assert "4 of 4 runs are finished already" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"seed_1: was run with other flags \(plan.peak_lr: \(absent\) -> 0.1\)"):
        run(["compare", str(write_study(tmp_path, data, base=BASE | {"data.path": str(data), "plan.peak_lr": 0.1}))])


@pytest.mark.slow
def test_a_run_fails_with_its_own_last_line(data: Path, tmp_path: Path) -> None:
    """What a run says about its data ends the study, with the path of its log."""
    file = write_study(tmp_path, data, arms={"a": {"data.mix": {"left": 1, "nothing": 1}}, "b": {}}, seeds=[1])
    with pytest.raises(UserError, match=r"a, seed 1: failed: .*nothing.*; its output is in .*seed_1.log"):
        run(["compare", str(file)])


def test_a_directory_of_others_is_left_alone(data: Path, tmp_path: Path) -> None:
    """OUT may be new, empty or of a study, and nothing else; a wrong study makes no directory."""
    file = write_study(tmp_path, data)
    other = tmp_path / "other"
    other.mkdir()
    (other / "mine").write_text("x", encoding="utf-8")
    with pytest.raises(UserError, match="other: has files that are not of a study; choose another OUT"):
        run(["compare", str(file), str(other)])
    with pytest.raises(UserError, match="unknown key"):
        run(["compare", str(write_study(tmp_path, data, arms={"a": {"plan.stepz": 1}, "b": {}}))])
    assert not (tmp_path / "out").exists()
