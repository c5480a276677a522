"""Steps with an unusual loss or gradient: reported, skipped, rolled back, or the end of the run."""

import json
import math
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from training_fixtures import Kill, Killer, Worker, tiny_config, tiny_state, weights

from babyllm import run_directory
from babyllm.config.values import check
from babyllm.data.batch import Batch
from babyllm.data.token_data import open_pretraining_data
from babyllm.errors import UserError
from babyllm.objectives import Loss, LossTerms
from babyllm.objectives.lm import language_model
from babyllm.runtime import Runtime
from babyllm.training import checkpoint
from babyllm.training.loop import train
from babyllm.training.recording.records import read_metrics
from babyllm.training.run import open_run
from babyllm.training.stages.pretraining import new_state
from babyllm.training.stages.pretraining_config import PretrainConfig
from babyllm.training.state import TrainState, Watch
from babyllm.training.watch import Memory, WatchConfig, judge, remember

ROWS_PER_STEP = 8


def remembered(config: WatchConfig, n: int, seed: int = 0) -> Memory:
    """A memory of losses around 2 with a standard deviation of 0.1."""
    rng, memory = random.Random(seed), Memory()
    for _ in range(n):
        remember(config, memory, rng.gauss(2.0, 0.1), True)
    return memory


def test_a_spike_is_a_loss_far_above_those_before() -> None:
    """A spike lies more than `spike` deviations above the mean of a full window; a low loss never is one."""
    config = WatchConfig(spike=6, window=32)
    assert judge(config, remembered(config, 31), 9.0, 1.0, None).action == "take"
    memory = remembered(config, 100)
    assert len(memory.losses) == 32
    assert judge(config, memory, 2.5, 1.0, None) == ("take", "")
    assert judge(config, memory, 0.5, 1.0, None) == ("take", "")
    for on_spike, action in (("tell", "take"), ("skip", "skip"), ("rollback", "go back")):
        verdict = judge(replace(config, on_spike=on_spike), memory, 3.0, 1.0, None)  # type: ignore[arg-type]
        assert verdict.action == action
        assert re.fullmatch(r"the loss of 3\.0000 lies \d+\.\d deviations above the last 32", verdict.why)
    assert judge(replace(config, spike=0), memory, 3.0, 1.0, None) == ("take", "")
    assert judge(config, Memory([2.0] * 32), 2.1, 1.0, None).action == "take"  # the deviation is 0


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_ends_the_run_unless_a_smaller_scale_may_help(loss: float) -> None:
    """In float16 the step is skipped; with rollbacks the run goes back, up to `rollbacks` times."""
    config = WatchConfig()
    assert judge(config, Memory(), loss, 1.0, None) == ("end", f"the loss is {loss}")
    assert judge(config, Memory(), loss, 1.0, lambda: 1024.0) == ("skip", f"the loss is {loss} at a scale of 1024")
    config = WatchConfig(on_spike="rollback", rollbacks=2)
    assert judge(config, Memory(rollbacks=1), loss, 1.0, None).action == "go back"
    assert judge(config, Memory(rollbacks=2), loss, 1.0, None).action == "end"


def test_skips_in_a_row_end_the_run() -> None:
    """They are counted from the last step taken; the reason says when no smaller scale will help."""
    config, memory = WatchConfig(skips=3), Memory()
    for is_taken in (False, False, True, False, False):
        assert judge(config, memory, 2.0, 1.0 if is_taken else math.inf, None).action == (
            "take" if is_taken else "skip"
        )
        remember(config, memory, 2.0, is_taken)
    verdict = judge(config, memory, 2.0, math.inf, lambda: 1.0)
    assert verdict.action == "end" and "no smaller scale will help, and 2 steps before it were skipped" in verdict.why


def test_a_scale_of_float16_has_all_the_halvings_it_can_use() -> None:
    """From 2^16 the scale may be halved to below 1 before the run ends."""
    config, memory, scale = WatchConfig(), Memory(), 2.0**16
    while judge(config, memory, 2.0, math.inf, lambda: scale).action == "skip":  # noqa: B023
        remember(config, memory, 2.0, False)
        scale /= 2
    assert 2**-5 < scale < 1


@pytest.mark.parametrize("change", [{"spike": -1}, {"spike": math.nan}, {"window": 1}, {"skips": 0}, {"rollbacks": -1}])
def test_values_that_mean_nothing_are_refused(change: dict[str, Any]) -> None:
    """The message names the key."""
    with pytest.raises(UserError, match=f"watch.{next(iter(change))}="):
        check(WatchConfig(**change), "watch.")


# ---- in the loop


def spoiled(state: TrainState, is_bad: Callable[[Batch], bool], factor: float) -> Loss:
    """The language-modelling loss, multiplied by a factor in some steps."""

    def loss(model: nn.Module, batch: Batch) -> LossTerms:
        sums, metrics = language_model(model, batch)
        return LossTerms({"token": sums["token"] * (factor if is_bad(batch) else 1.0)}, metrics)

    return loss


@pytest.mark.parametrize("factor", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_ends_the_run_unchanged(data: Path, runtime: Runtime, factor: float) -> None:
    """The error is one line with the step and its rows; the weights are those of the step before."""
    state = tiny_state(config := tiny_config(data), runtime)
    train(state, language_model, replace(config.plan, steps=3))
    before = weights(state).clone()
    told = rf"step 4: the loss is {factor}; it read rows 24 to 31; the last saved step is as it was; lower plan.peak_lr"
    with pytest.raises(UserError, match=told) as error:
        train(state, spoiled(state, lambda batch: True, factor), config.plan)
    assert "\n" not in str(error.value)
    assert state.step == 3 and torch.equal(weights(state), before)


def test_skipped_steps_are_reported_and_end_the_run(data: Path, runtime: Runtime) -> None:
    """In float16 each report has the scale; after `skips` of them the run ends with an error."""
    config, told = tiny_config(data), list[str]()
    state = tiny_state(config, runtime)
    state.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**4, enabled=True)
    watch = Watch(WatchConfig(skips=4), told.append)
    with pytest.raises(UserError, match=r"step 6: .* at a scale of 2, and 3 steps before it were skipped as well"):
        train(state, spoiled(state, lambda batch: state.step >= 2, math.inf), config.plan, watch=watch)
    assert len(told) == 3
    assert told[0] == "step 3: the loss is inf at a scale of 16; it read rows 16 to 23, and is skipped"
    assert state.skipped == 3 and weights(state).isfinite().all()


def test_weights_that_are_not_finite_are_not_saved(data: Path, runtime: Runtime, tmp_path: Path) -> None:
    """If an update makes weights not finite, the last good step is kept."""
    state = tiny_state(config := tiny_config(data), runtime)
    train(state, language_model, replace(config.plan, steps=2))
    checkpoint.save(state, tmp_path, None, 1)
    with torch.no_grad():
        state.model.lm_head.weight[0, 0] = math.nan
    state.step = 3
    with pytest.raises(UserError, match=r"step 3 was not saved: its weights embed_tokens\.weight are not finite"):
        checkpoint.save(state, tmp_path, None, 1)
    assert list(run_directory.step_directories(tmp_path)) == [2]


def spiking_config(data: Path, run_dir: Path, **changes: Any) -> PretrainConfig:
    """A run that saves every fourth step and treats every slightly high loss as a spike."""
    watch = WatchConfig(spike=4.0, window=5, on_spike=changes.pop("on_spike", "rollback"), rollbacks=2)
    config = tiny_config(data, steps=16, dropout=0.1)
    config = replace(config, data=replace(config.data, stages=changes.pop("stages", None)))
    return replace(config, run_dir=str(run_dir), watch=watch, log_every=1, save_every=4, keep=9, **changes)


def ran(
    config: PretrainConfig,
    runtime: Runtime,
    bad_rows: Sequence[int] = (10 * ROWS_PER_STEP,),
    around: Callable[[Callable[[], bool]], bool] = lambda work: work(),
    factor: float = 100.0,
    scale: float = 0.0,
) -> TrainState:
    """The run of `config`, with the loss of the steps that begin at `bad_rows` multiplied by `factor`."""
    data = open_pretraining_data(config.data)
    state, plan = new_state(config, data, runtime)
    if scale:
        state.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    with open_run(config, state, data.tokenizer, plan) as run:
        every = [run.logging(1, 16), run.saving(config.save_every)]
        going_back = run.watch.go_back
        watch = replace(run.watch, go_back=lambda state, row: around(lambda: going_back(state, row)))
        train(state, spoiled(state, lambda batch: batch.rows.start in bad_rows, factor), plan, every, watch)
    return state


def curve(run_dir: Path) -> list[dict[str, float | None]]:
    changing = ("time", "tokens_per_s", "mfu", "memory_bytes", "data_wait")
    return [{key: value for key, value in record.items() if key not in changing} for record in read_metrics(run_dir)]


def test_a_run_goes_back_from_a_spike(
    data: Path, runtime: Runtime, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It continues from the last saved step with the rows after the spike; records have one value per step."""
    run_dir = tmp_path / "run"
    state = ran(spiking_config(data, run_dir), runtime)
    assert state.step == 16 and state.memory.rollbacks == 1 and state.skipped == 0
    told = capsys.readouterr().out
    assert re.search(
        r"step 11: the loss of [\d.]+ lies [\d.]+ deviations above the last 5; it read rows 80 to 87", told
    )
    assert "back to step 8, without the rows read since" in told
    stored = [json.loads((run_dir / f"step_{step:08d}" / "resume.json").read_text()) for step in (4, 8, 16)]
    positions = [resume["stream"]["consumed_rows"] for resume in stored]
    assert positions == [4 * ROWS_PER_STEP, 11 * ROWS_PER_STEP, 19 * ROWS_PER_STEP]
    assert [resume["stream"].get("left_out") for resume in stored] == [None, [[64, 88]], [[64, 88]]]
    assert [record["step"] for record in read_metrics(run_dir)] == list(range(1, 17))
    assert max(record["loss"] or 0 for record in read_metrics(run_dir)) < 10


def test_a_run_goes_back_only_so_often(data: Path, runtime: Runtime, tmp_path: Path) -> None:
    """After `rollbacks` rollbacks a spike ends it, and the last good step is kept."""
    bad = tuple(range(10 * ROWS_PER_STEP, 100 * ROWS_PER_STEP, 4 * ROWS_PER_STEP))
    with pytest.raises(UserError, match="and the run has gone back 2 times already; it read rows"):
        ran(spiking_config(data, tmp_path / "run"), runtime, bad)
    newest = run_directory.latest(tmp_path / "run")
    assert newest and ran(spiking_config(data, tmp_path / "run"), runtime, ()).step == 16


def test_a_spike_is_skipped_where_nothing_is_saved(data: Path, runtime: Runtime, tmp_path: Path) -> None:
    """So is every spike with on_spike=skip; its loss is neither remembered nor part of the recorded means."""
    for on_spike in ("rollback", "skip"):
        config = replace(spiking_config(data, tmp_path / on_spike, on_spike=on_spike), save_every=0)
        state = ran(config, runtime)
        assert (state.step, state.skipped, state.memory.rollbacks) == (16, 1, 0)
        assert max(state.memory.losses) < 10
        without = [record["step"] for record in read_metrics(Path(config.run_dir)) if "loss" not in record]
        assert without == [11]
    told = ran(spiking_config(data, tmp_path / "tell", on_spike="tell"), runtime)
    assert (told.step, told.skipped) == (16, 0)


@pytest.mark.parametrize(("factor", "step"), [(math.nan, 1), (100.0, 9)])
def test_steps_that_nothing_is_saved_to_go_back_from_end_the_run(
    data: Path, runtime: Runtime, tmp_path: Path, factor: float, step: int
) -> None:
    """A loss that is not finite ends the run at once, spikes after `skips` skipped steps."""
    config = spiking_config(data, tmp_path / "run")
    config = replace(config, save_every=0, watch=replace(config.watch, skips=3))
    bad = range(0 if step == 1 else 6 * ROWS_PER_STEP, 100 * ROWS_PER_STEP)
    with pytest.raises(UserError, match=rf"step {step}: .*; no step is saved to go back to; .* start the same command"):
        ran(config, runtime, bad, factor=factor)


def test_a_float16_run_goes_back(data: Path, runtime: Runtime, tmp_path: Path) -> None:
    """Its scale is that of the saved step, and the steps after it are normal."""
    state = ran(spiking_config(data, tmp_path / "run"), runtime, scale=16.0)
    assert (state.step, state.memory.rollbacks, state.skipped) == (16, 1, 0)
    assert state.scaler.get_scale() == 16.0


@pytest.mark.parametrize(
    ("kind", "stride"),
    [
        ("shuffled", 31),
        ("staged", 43),
        pytest.param("shuffled", 9, marks=pytest.mark.campaign),
        pytest.param("staged", 25, marks=pytest.mark.campaign),
    ],
)
def test_a_kill_around_a_rollback_changes_nothing(
    killer: Killer, data: Path, runtime: Runtime, tmp_path: Path, kind: str, stride: int
) -> None:
    """Killed at moments of a rollback and restarted, a run writes the files of an undisturbed run, bit for bit."""
    changes: dict[str, Any] = {}
    if kind == "staged":
        stages = [{"until": 0.4}, {"until": 0.7, "mix": {"left": 0.9, "right": 0.1}}, {"until": 1.0, "seq_len": 32}]
        changes["stages"] = stages
    ran(spiking_config(data, tmp_path / "straight", **changes), runtime)
    k, is_killed = 0, True
    while is_killed:
        config = spiking_config(data, tmp_path / f"killed{k}", **changes)
        try:
            ran(config, runtime, around=lambda work, k=k: killer.killing(k, work))  # type: ignore[misc]
            is_killed = False
        except Kill:
            assert (ran(config, runtime).step, run_directory.latest(Path(config.run_dir)).name) == (16, "step_00000016")  # type: ignore[union-attr]
        assert_equal(tmp_path / "straight", Path(config.run_dir))
        k += stride
    assert k > stride


def assert_equal(one: Path, two: Path) -> None:
    assert curve(one) == curve(two)
    for step in (4, 8, 12, 16):
        mine, theirs = (
            {path.name: path.read_bytes() for path in (run / f"step_{step:08d}").iterdir()} for run in (one, two)
        )
        assert mine == theirs, step


@pytest.mark.parametrize("ranks", [2])
def test_ranks_go_back_together(worker: Worker, data: Path, tmp_path: Path, ranks: int) -> None:
    """Two ranks leave out the rows that one rank leaves out, and end with equal weights."""
    worker.run("spike", ranks=1, data=str(data), out=str(tmp_path / "one"))
    worker.run("spike", ranks=ranks, data=str(data), out=str(tmp_path / "two"))
    one, two = (json.loads((tmp_path / name / "step_00000016" / "resume.json").read_text()) for name in ("one", "two"))
    assert one["stream"] == two["stream"] and one["memory"]["rollbacks"] == two["memory"]["rollbacks"] == 1
    assert one["memory"]["losses"] == pytest.approx(two["memory"]["losses"], abs=1e-4)
    digests = {(tmp_path / "two" / f"{rank}.txt").read_text() for rank in range(ranks)}
    assert len(digests) == 1
