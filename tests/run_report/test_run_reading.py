"""What a report reads: thinned curves, chosen samples, kept messages."""

import json
import tracemalloc
from pathlib import Path

import pytest
from run_report_fixtures import lines, record

from babyllm.run_report.figures import draw, main_figures
from babyllm.run_report.metric_curves import MAX_NAMES, POINTS, read_curves
from babyllm.run_report.run_texts import MESSAGES, NAMES, STEPS, read_messages, read_samples
from babyllm.training.recording.log import RunLog


def test_curves_are_thinned_to_what_was_recorded(tmp_path: Path) -> None:
    """Each part has the mean and the range of its records; first, last and best results are exact."""
    values = [(step * 7919) % 101 / 10 for step in range(1, 5001)]
    records = [
        record(step, noise=value, **({"val/all/loss": abs(step - 3000) / 1000 + 1} if step % 100 == 0 else {}))
        for step, value in enumerate(values, 1)
    ]
    lines(tmp_path / "metrics.jsonl", records)
    metrics = read_curves(tmp_path)
    points = metrics.curves["noise"]
    assert metrics.records == 5000 and metrics.step == 5000 and POINTS / 2 < len(points) <= POINTS
    assert min(p.low for p in points) == min(values) and max(p.high for p in points) == max(values)
    assert all(p.low <= p.mean <= p.high for p in points)
    assert sum(p.mean for p in points) / len(points) == pytest.approx(sum(values) / 5000, rel=0.02)
    assert metrics.held_out["all/loss"].step == 5000 and metrics.best["all/loss"] == (3000, 1.0, None)
    assert metrics.seconds == pytest.approx(5_000_000 / 500) and metrics.waited == pytest.approx(metrics.seconds / 4)
    assert metrics.wall == 4999


def test_a_long_log_takes_little_memory(tmp_path: Path) -> None:
    """Reading and drawing it takes a fraction of its size."""
    line = json.dumps(record(1, **{f"loss/task{i}": 1.0 / 3 for i in range(30)}))
    with (tmp_path / "metrics.jsonl").open("w") as file:
        for step in range(1, 20_001):
            file.write(line.replace('"step": 1,', f'"step": {step},') + "\n")
    tracemalloc.start()
    metrics = read_curves(tmp_path)
    drawn = [draw(figure, str) for figure in main_figures(metrics, {}, {})]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert drawn and peak < (tmp_path / "metrics.jsonl").stat().st_size / 2


def test_lines_that_are_no_records_are_counted(tmp_path: Path) -> None:
    """A damaged line, one that is too long or of another kind costs itself; a cut last line is not counted."""
    odd = ["[]", "{}", '{"step": "3"}', '{"step": -1}', '{"step": true}', "\xff", '{"step": NaN}', "x" * (3 << 20)]
    good = [json.dumps({"step": step, "loss": value}) for step, value in ((1, 3.0), (2, None), (3, 1e999))]
    (tmp_path / "metrics.jsonl").write_text("\n".join([*good, *odd, json.dumps({"step": 4, "loss": 2.0})]) + '\n{"st')
    metrics = read_curves(tmp_path)
    assert (metrics.records, metrics.damaged, metrics.nulls, metrics.step) == (4, len(odd), 1, 4)
    assert [(p.step, p.mean) for p in metrics.curves["loss"]] == [(1, 3.0), (4, 2.0)]


def test_names_without_end_are_counted(tmp_path: Path) -> None:
    """A log of thousands of names keeps the first ones."""
    lines(tmp_path / "metrics.jsonl", [{"step": 1, **{f"n{i}": 1.0 for i in range(MAX_NAMES + 50)}}])
    metrics = read_curves(tmp_path)
    assert len(metrics.curves) <= MAX_NAMES and metrics.more_names > 0


def test_samples_are_those_of_steps_spread_over_the_run(tmp_path: Path) -> None:
    """The first and the last step are among them."""
    texts = [
        {"step": step, "name": f"sample/{i}", "text": f"{i} {step}"} for step in range(0, 1000, 10) for i in range(9)
    ]
    lines(tmp_path / "samples.jsonl", texts)
    samples = read_samples(tmp_path)
    assert (samples.steps, samples.names, len(samples.texts)) == (100, 9, NAMES)
    steps = [sample.step for sample in samples.texts["sample/0"]]
    assert len(steps) == STEPS and steps[0] == 0 and steps[-1] == 990
    assert [sample.text.text for sample in samples.texts["sample/3"]] == [f"3 {step}" for step in steps]


def test_messages_are_kept_once_the_first_and_the_last(tmp_path: Path) -> None:
    """A run that warns at each of its steps has a report of a bounded size."""
    log = RunLog(tmp_path, start_step=0, total_steps=9, live=False)
    for step in range(5 * MESSAGES):
        log.message(f"step {step}: a spike")
        log.message("always the same")
        log.message("not kept", is_kept=False)
    messages = read_messages(tmp_path)
    texts = [message.text.text for message in messages.texts]
    assert len(texts) == 2 * MESSAGES and texts[:2] == ["step 0: a spike", "always the same"]
    assert texts[-1] == f"step {5 * MESSAGES - 1}: a spike" and "not kept" not in texts
    assert messages.total_steps == 9 and messages.end is None and messages.left_out == 3 * MESSAGES + 1


def test_a_resumed_run_keeps_what_was_said_and_a_new_one_does_not(tmp_path: Path) -> None:
    """A line that a kill has cut is removed."""
    log = RunLog(tmp_path, start_step=0, total_steps=9, live=False)
    log.record(1, {"loss": 1.0})
    log.message("first \udc80")
    log.end("stopped at step 1 of 9")
    assert read_messages(tmp_path).end == "stopped at step 1 of 9"
    with (tmp_path / "messages.jsonl").open("a") as file:
        file.write('{"step": 1, "te')
    RunLog(tmp_path, start_step=1, total_steps=12, live=False).message("second")
    messages = read_messages(tmp_path)
    assert [one.text.text for one in messages.texts] == ["first \udc80", "second"]
    assert (messages.total_steps, messages.end) == (12, None)
    RunLog(tmp_path, start_step=0, total_steps=12, live=False)
    assert read_messages(tmp_path).texts == []
