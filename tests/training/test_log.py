import fcntl
import json
import math
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

from babyllm.errors import UserError
from babyllm.training.recording.log import RunLog
from babyllm.training.recording.plot import plot_losses
from babyllm.training.recording.records import read_metrics
from tests.support.disk_fixtures import files_up_to

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"


def new_log(run_dir: Path, start_step: int = 0, live: bool = False) -> RunLog:
    return RunLog(run_dir, start_step=start_step, total_steps=100, live=live)


def tensorboard(run_dir: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(run_dir), size_guidance={"scalars": 0, "tensors": 0}).Reload()


def scalars(run_dir: Path, name: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in tensorboard(run_dir).Scalars(name)]


def stored_scalar_steps(run_dir: Path, name: str) -> list[int]:
    """Every step at which any event file holds the scalar, without TensorBoard's own purging."""
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

    files = sorted(run_dir.glob("events.out.tfevents.*"))
    events = [event for path in files for event in LegacyEventFileLoader(str(path)).Load()]
    return [event.step for event in events for value in event.summary.value if value.tag == name]


def event_bytes(run_dir: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(run_dir.glob("events.out.tfevents.*")))


def run_of(run_dir: Path, steps: range, start_step: int = 0, offset: float = 0.0) -> None:
    """Record a run whose loss at step s is s + offset, with an evaluation every fifth step."""
    log = new_log(run_dir, start_step)
    for step in steps:
        log.record(step, {"loss": step + offset, "lr": 1e-3})
        if step % 5 == 0:
            log.record(step, {"val/wiki/loss": step + offset})
    log.close(summary=False)


def test_records_of_one_step_are_one_object(tmp_path):
    """Training metrics and an evaluation of the same step are one JSON object, even across a flush."""
    log = new_log(tmp_path)
    log.record(1, {"loss": 9.0, "tokens": 8192})
    log.record(2, {"loss": 8.0})
    log.flush()
    log.record(2, {"val/wiki/bpb": 2.5})
    log.record(2, {"loss": 7.0})
    log.record(3, {"loss": 6.0})
    log.close(summary=False)
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert all(abs(record.pop("time") - time.time()) < 60 for record in records)
    assert records == [
        {"step": 1, "loss": 9.0, "tokens": 8192},
        {"step": 2, "loss": 8.0, "val/wiki/bpb": 2.5},
        {"step": 3, "loss": 6.0},
    ]
    assert scalars(tmp_path, "loss") == [(1, 9.0), (2, 8.0), (3, 6.0)]
    assert scalars(tmp_path, "val/wiki/bpb") == [(2, 2.5)]


def test_a_record_is_on_disk_when_record_returns(tmp_path):
    """A process killed right after `record()` has written that record to metrics.jsonl and for TensorBoard."""
    code = (
        "import os, pathlib, sys; from babyllm.training.recording.log import RunLog\n"
        "log = RunLog(pathlib.Path(sys.argv[1]), start_step=0, total_steps=9)\n"
        "log.record(1, {'loss': 2.0}); log.record(1, {'val/wiki/loss': 3.0}); os._exit(9)"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (9, "")
    (record,) = read_metrics(str(tmp_path))
    assert (record["loss"], record["val/wiki/loss"]) == (2.0, 3.0)
    assert scalars(tmp_path, "val/wiki/loss") == [(1, 3.0)]


def test_resume_cuts_what_came_after_the_resumed_step(tmp_path):
    """After a resume at step 12 every curve has one value per step: the old one up to 12, the new one from 13."""
    run_of(tmp_path, range(1, 21))
    run_of(tmp_path, range(13, 24), start_step=12, offset=100.0)
    expected = [(step, float(step)) for step in range(1, 13)] + [(step, step + 100.0) for step in range(13, 24)]
    assert [(record["step"], record["loss"]) for record in read_metrics(tmp_path)] == expected
    assert scalars(tmp_path, "loss") == expected
    assert scalars(tmp_path, "val/wiki/loss") == [(5, 5.0), (10, 10.0), (15, 115.0), (20, 120.0)]


def test_curves_without_newer_values_are_cut_too(tmp_path):
    """A value after the resumed step is removed from the event files at once, before its curve gets a new value."""
    run_of(tmp_path, range(1, 21))
    new_log(tmp_path, 12).close(summary=False)
    assert stored_scalar_steps(tmp_path, "val/wiki/loss") == [5, 10]
    assert stored_scalar_steps(tmp_path, "loss") == list(range(1, 13))


def test_an_open_tensorboard_drops_the_dead_branch(tmp_path):
    """A reader that saw step 20 before the resume at 12 shows one value per step after it."""
    run_of(tmp_path, range(1, 21))
    reader = tensorboard(tmp_path)
    assert len(reader.Scalars("loss")) == 20
    run_of(tmp_path, range(13, 15), start_step=12, offset=100.0)
    reader.Reload()
    assert [event.step for event in reader.Scalars("loss")] == list(range(1, 15))


def test_many_resumes_within_a_second_keep_their_order(tmp_path):
    """Event files sort in their order of creation, however fast a run is restarted."""
    for start in range(12):
        run_of(tmp_path, range(start + 1, start + 3), start_step=start, offset=start / 10)
    assert [step for step, _ in scalars(tmp_path, "loss")] == list(range(1, 14))
    assert len(list(tmp_path.glob("events.out.tfevents.*"))) == 12


def test_a_resume_from_the_newest_step_changes_nothing_old(tmp_path):
    """If nothing has to be cut the old files keep their bytes, and the step's object can still grow."""
    run_of(tmp_path, range(1, 4))
    before, events_before = (tmp_path / "metrics.jsonl").read_bytes(), event_bytes(tmp_path)
    log = new_log(tmp_path, 3)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before
    assert event_bytes(tmp_path).startswith(events_before)
    log.record(3, {"loss": 55.0, "val/wiki/loss": 7.0})
    log.record(4, {"loss": 4.0})
    log.close(summary=False)
    assert [record["step"] for record in read_metrics(tmp_path)] == [1, 2, 3, 4]
    assert (read_metrics(tmp_path)[2]["loss"], read_metrics(tmp_path)[2]["val/wiki/loss"]) == (3.0, 7.0)
    assert scalars(tmp_path, "loss") == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0)]


def test_a_new_run_in_an_old_directory_starts_empty(tmp_path):
    """At start step 0 the old records are cut, step 0 included."""
    run_of(tmp_path, range(0, 11))
    run_of(tmp_path, range(0, 3), offset=50.0)
    assert [(record["step"], record["loss"]) for record in read_metrics(tmp_path)] == [(0, 50.0), (1, 51.0), (2, 52.0)]
    assert scalars(tmp_path, "loss") == [(0, 50.0), (1, 51.0), (2, 52.0)]
    assert scalars(tmp_path, "val/wiki/loss") == [(0, 50.0)]


@pytest.mark.parametrize("ending", ["", "   \n"])
def test_a_last_line_edited_by_hand_is_a_record(tmp_path, ending):
    """A whole record without its line end, or followed by blanks, is kept and continued."""
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "time": 0.0}\n{"step":    2,       "loss":     2.0}' + ending)
    assert [record["step"] for record in read_metrics(tmp_path)] == [1, 2]
    log = new_log(tmp_path, 2)
    log.record(2, {"lr": 0.1})
    log.record(3, {"loss": 3.0})
    log.close(summary=False)
    assert read_metrics(tmp_path)[:2] == [{"step": 1, "time": 0.0}, {"step": 2, "loss": 2.0, "lr": 0.1}]
    assert len(read_metrics(tmp_path)) == 3
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 4.0}' + ending)
    run_of(tmp_path, range(2, 3), start_step=1)
    assert [record["step"] for record in read_metrics(tmp_path)] == [1, 2]


@pytest.mark.parametrize("torn", [b'{"step": 4, "loss"', b'{"step": 4, "name": "\xe6', b"\0\0\0\0\0\0", b"[4"])
def test_a_torn_last_line_is_dropped(tmp_path, torn):
    """An incomplete last line, left by a kill or a power cut, is ignored and removed at the next start."""
    run_of(tmp_path, range(1, 4))
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(torn)
    assert [record["step"] for record in read_metrics(tmp_path)] == [1, 2, 3]
    run_of(tmp_path, range(4, 6), start_step=3)
    assert [record["step"] for record in read_metrics(tmp_path)] == [1, 2, 3, 4, 5]
    assert torn not in (tmp_path / "metrics.jsonl").read_bytes()


@pytest.mark.parametrize("kept", [-1, -20])
def test_a_torn_event_is_dropped(tmp_path, kept):
    """An event file cut in the middle of an event, or followed by zeros, keeps its whole events after a resume."""
    run_of(tmp_path, range(1, 4))
    (path,) = tmp_path.glob("events.out.tfevents.*")
    path.write_bytes(path.read_bytes()[:kept] + (b"\0" * 64 if kept == -20 else b""))
    run_of(tmp_path, range(3, 6), start_step=2)
    assert [step for step, _ in scalars(tmp_path, "loss")] == [1, 2, 3, 4, 5]
    assert stored_scalar_steps(tmp_path, "loss") == [1, 2, 3, 4, 5]


def test_values_that_are_not_finite_are_null(tmp_path):
    """NaN and infinities become null, valid JSON, while TensorBoard receives them unchanged."""
    log = new_log(tmp_path)
    log.record(1, {"loss": math.nan, "grad_norm": math.inf, "lr": 0.1})
    log.close()

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    record = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=refuse)
    assert (record["loss"], record["grad_norm"], record["lr"]) == (None, None, 0.1)
    assert read_metrics(tmp_path) == [record]
    assert math.isnan(scalars(tmp_path, "loss")[0][1])
    assert scalars(tmp_path, "grad_norm") == [(1, math.inf)]


def test_texts_are_kept_and_cut(tmp_path):
    """Sampled texts are lines of samples.jsonl and TensorBoard texts; a resume cuts the later ones."""
    log = new_log(tmp_path)
    log.text(5, "sample", "春眠不覺曉\n處處聞啼鳥")
    log.text(10, "sample", "later")
    log.close(summary=False)
    log = new_log(tmp_path, 5)
    log.text(10, "sample", "again")
    log.close(summary=False)
    lines = (tmp_path / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    assert "春眠不覺曉" in lines[0]
    assert [json.loads(line) for line in lines] == [
        {"step": 5, "name": "sample", "text": "春眠不覺曉\n處處聞啼鳥"},
        {"step": 10, "name": "sample", "text": "again"},
    ]
    board = tensorboard(tmp_path)
    shown = [(event.step, event.tensor_proto.string_val[0].decode()) for event in board.Tensors("sample")]
    assert shown == [(5, "春眠不覺曉  \n處處聞啼鳥"), (10, "again")]
    assert board.SummaryMetadata("sample").plugin_data.plugin_name == "text"


@pytest.mark.parametrize("line", ["{broken", "17", '{"loss": 3.0}', '{"step": "one"}'])
def test_a_damaged_line_is_named(tmp_path, line):
    """An invalid line in the middle is an error that names file and line, on reading and on resuming."""
    run_of(tmp_path, range(1, 4))
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    (tmp_path / "metrics.jsonl").write_text("\n".join([lines[0], line, *lines[2:]]) + "\n")
    with pytest.raises(UserError, match=r"metrics\.jsonl, line 2"):
        read_metrics(tmp_path)
    with pytest.raises(UserError, match=r"metrics\.jsonl, line 2"):
        new_log(tmp_path, 3)


def test_a_missing_file_is_named(tmp_path):
    """Reading or plotting a directory without a run is an error that names the missing file."""
    with pytest.raises(UserError, match=re.escape(str(tmp_path / "metrics.jsonl"))):
        read_metrics(tmp_path)
    with pytest.raises(UserError, match=r"other/metrics\.jsonl"):
        run_of(tmp_path, range(1, 4))
        plot_losses(tmp_path, reference=tmp_path / "other" / "metrics.jsonl")


@pytest.mark.parametrize(("name", "write"), [("metrics.jsonl", "record"), ("samples.jsonl", "text")])
def test_a_full_disk_is_an_error_that_names_the_file(tmp_path, name, write):
    """When a file cannot grow the error names it; afterwards the run can be resumed."""
    log = new_log(tmp_path)
    log.record(1, {"loss": 1.0})
    log.text(1, "sample", "a")
    size = (tmp_path / name).stat().st_size
    with files_up_to(size + 20), pytest.raises(UserError, match=re.escape(str(tmp_path / name))):
        log.record(2, {"loss": 1.0}) if write == "record" else log.text(2, "sample", "b" * 100)
    run_of(tmp_path, range(2, 4), start_step=1)
    assert [record["step"] for record in read_metrics(tmp_path)] == [1, 2, 3]


def test_a_full_disk_under_tensorboard_is_an_error_too(tmp_path):
    """An event file that cannot grow ends the run with an error that names it."""
    log = new_log(tmp_path)
    log.record(1, {"loss": 1.0})
    (path,) = tmp_path.glob("events.out.tfevents.*")
    for step in range(2, 200):
        (tmp_path / "metrics.jsonl").write_bytes(b"")  # leaves the event file the largest one
        log.record(step, {"loss": 1.0})
    with files_up_to(path.stat().st_size + 3), pytest.raises(UserError, match=re.escape(str(path))):
        log.record(200, {"loss": 1.0})


def test_closing_draws_the_losses(tmp_path):
    """A resumed run with gaps, evaluations, Chinese names and dollar signs is plotted as a PNG of readable size."""
    run_dir = tmp_path / "100$ no \\frac$"
    run_of(run_dir, range(1, 21))
    log = new_log(run_dir, 10)
    for step in range(11, 31):
        log.record(step, {"loss": math.nan if step == 15 else 3.0, "lr": 1e-3, "val/唐诗 $\\frac$/loss": 2.0})
    log.close()
    picture = (run_dir / "loss.png").read_bytes()
    assert picture.startswith(PNG_MAGIC)
    width, height = (int.from_bytes(picture[at : at + 4], "big") for at in (16, 20))
    assert 600 <= width <= 2000 and 400 <= height <= 2000
    assert 10_000 < len(picture) < 1_000_000


def test_the_picture_shows_records_and_reference(tmp_path):
    """The plot changes with the records from before a resume, and with a reference run."""
    run_of(tmp_path / "a", range(1, 21))
    run_of(tmp_path / "b", range(1, 41), offset=2.0)
    whole = plot_losses(tmp_path / "a").read_bytes()
    assert plot_losses(tmp_path / "a").read_bytes() == whole
    assert plot_losses(tmp_path / "a", reference=tmp_path / "b" / "metrics.jsonl").read_bytes() != whole
    lines = (tmp_path / "a" / "metrics.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "a" / "metrics.jsonl").write_text("".join(lines[10:]))
    assert plot_losses(tmp_path / "a").read_bytes() != whole


def test_the_picture_of_a_policy_shows_rewards(tmp_path):
    """A policy's plot depends on rewards, their held-out errors and the divergence, and not on its loss."""
    rows = [
        {"loss": 0.1 * step, "lr": 1e-4, "rollout/reward": step, "rollout/answer_kl": 2 * step} for step in range(5)
    ]
    rows[-1] |= {"val/all/reward": 3.0, "val/all/reward_stderr": 0.5}

    def drawn(rows):
        log = new_log(tmp_path / "policy")
        for step, row in enumerate(rows):
            log.record(step, row)
        log.close()
        return (tmp_path / "policy" / "loss.png").read_bytes()

    first = drawn(rows)
    assert drawn([row | {"loss": 7.0} for row in rows]) == first
    for name in ("rollout/reward", "rollout/answer_kl", "val/all/reward", "val/all/reward_stderr"):
        assert drawn([*rows[:-1], rows[-1] | {name: 9.0}]) != first


def test_a_run_without_records_can_be_closed(tmp_path):
    """A run stopped before its first record still ends without an error."""
    new_log(tmp_path / "deep" / "run").close()
    assert read_metrics(tmp_path / "deep" / "run") == []


def test_plain_progress_prints_few_lines(tmp_path, capsys):
    """Without a terminal the first and last progress are whole lines; those in quick succession are omitted."""
    log = RunLog(tmp_path, start_step=0, total_steps=50)
    for step in range(1, 51):
        log.progress(step, 3.25, 45_200.0, note="eval" if step == 50 else "")
    log.message("saved")
    log.close(summary=False)
    out = capsys.readouterr().out
    assert "\r" not in out
    first, last, message = out.splitlines()
    assert first.startswith("step 1/50 2% | loss 3.2500 | 45,200 tok/s | 0 s elapsed, ")
    assert last.startswith("step 50/50 100% |") and last.endswith("0 s left | eval")
    assert message == "saved"


def test_live_progress_rewrites_one_line(tmp_path):
    """On a terminal the line is rewritten in place, no wider than the terminal, with messages above it."""
    code = (
        "import pathlib, sys; from babyllm.training.recording.log import RunLog\n"
        "log = RunLog(pathlib.Path(sys.argv[1]), start_step=0, total_steps=100)\n"
        "log.progress(1, 3.0, 1000.0, note='a note that makes the line longer than this terminal is wide')\n"
        "log.message('saved'); log.progress(50, 2.0, 1000.0); log.close(summary=False)"
    )
    ours, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 90, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], stdout=terminal, env=environment, check=True)
    os.close(terminal)
    with open(ours, "rb", buffering=0) as screen:
        above, live, rest = screen.read(10_000).decode().split("\r\n")
    assert above.endswith("\rsaved")
    assert live.startswith("step 1/100") and rest == ""
    lines = live.split("\r")
    assert {len(line) for line in lines} == {89}
    bar = re.match(r"step 50/100 \[(=+)( +)\] 50% \| loss 2.0000", lines[-1])
    assert bar and abs(len(bar[1]) - len(bar[2])) <= 1


def test_time_left_comes_from_recent_steps(tmp_path, capsys):
    """The time left is estimated from this process's steps, without the first interval, at any rate of calls."""
    log = RunLog(tmp_path, start_step=1000, total_steps=41_020, live=True)
    time.sleep(1.0)
    log.progress(1010, 3.0, 1.0)
    for step in (1011, 1014, 1020):
        time.sleep(0.1)
        log.progress(step, 3.0, 1.0)
    log.close(summary=False)
    left = re.findall(r"elapsed, (.*?) left", capsys.readouterr().out)
    assert re.fullmatch(r"1:\d\d:\d\d", left[0])  # 40,010 steps of 0.1 s, all that is known after the first interval
    minutes, seconds = re.fullmatch(r"(\d+) min (\d\d) s", left[-1]).groups()
    assert 1200 <= int(minutes) * 60 + int(seconds) < 2400  # 40,000 steps of 0.03 s or a little more


def test_importing_the_log_is_light():
    """Neither torch nor matplotlib nor TensorBoard is loaded before it is used."""
    code = (
        "import sys, babyllm.training.recording.log; print({'torch', 'matplotlib', 'tensorboard'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
