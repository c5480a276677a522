"""Curricula by the model's own loss: when rows are scored, what is saved, and that runs resume exactly."""

import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from training_fixtures import CPU, FLAGS, Kill, Worker, tiny_config

from babyllm.data.row_config import CompetenceConfig
from babyllm.data.token_data import open_pretraining_data
from babyllm.evaluate.row_losses import row_losses
from babyllm.loading import load
from babyllm.model.cross_entropy import IGNORE
from babyllm.run_directory import step_directories
from babyllm.runtime import Runtime, start
from babyllm.training.recording.records import read_metrics
from babyllm.training.stage import Beginning, train_stage
from babyllm.training.stages.pretraining import begin
from babyllm.training.stages.pretraining_config import PretrainConfig
from babyllm.training.state import Every, TrainState

STEPS, RENEW = 14, 4
CURRICULUM = CompetenceConfig(by="loss", renew=RENEW, start=0.2, until=12)


def a_run(data: Path, run_dir: Path, save_every: int = 3) -> PretrainConfig:
    config = tiny_config(data, dropout=0.1, steps=STEPS)
    config = replace(config, data=replace(config.data, curriculum=CURRICULUM), prompts=[], keep=9)
    return replace(config, run_dir=str(run_dir), log_every=1, save_every=save_every, eval_every=RENEW)


def interrupted(config: PretrainConfig, act: Callable[[], object], step: int, where: int) -> None:
    """Train until an act after some step, before (0) or after (1) the renewal."""

    def at_step(state: TrainState) -> None:
        if state.step == step:
            act()

    def begun(config: PretrainConfig, runtime: Runtime) -> Beginning:
        stage = begin(config, runtime)
        actions = list(stage.renewals)
        actions.insert(where, Every(1, at_step, at_end=False))
        return replace(stage, renewals=actions)

    train_stage(config, begun)


def stop() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def kill() -> None:
    raise Kill


def files_of(run_dir: Path) -> dict[str, bytes]:
    last = step_directories(run_dir)[STEPS]
    return {file.name: file.read_bytes() for file in last.iterdir()}


@pytest.fixture(scope="module")
def straight(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run from its first step to its last; not to be changed."""
    run_dir = tmp_path_factory.mktemp("straight")
    train_stage(a_run(data, run_dir), begin)
    return run_dir


@pytest.mark.parametrize(
    ("act", "step", "where", "save_every"),
    [(stop, 8, 0, 3), (stop, 8, 0, RENEW), (stop, 8, 1, 3), (stop, 6, 0, 3), (kill, 8, 1, RENEW), (kill, 10, 0, RENEW)],
)
def test_a_resumed_run_is_the_straight_run(
    data: Path, straight: Path, tmp_path: Path, act: Callable[[], object], step: int, where: int, save_every: int
) -> None:
    """Stopped or killed at a renewal or between two, before or after it, a run ends with the same bytes."""
    config = a_run(data, tmp_path / "run", save_every)
    try:
        interrupted(config, act, step, where)
    except Kill:
        assert act is kill
    assert STEPS not in step_directories(Path(config.run_dir))
    train_stage(config, begin)
    assert files_of(Path(config.run_dir)) == files_of(straight)


def test_a_run_killed_soon_after_it_went_on_is_the_straight_run(data: Path, straight: Path, tmp_path: Path) -> None:
    """A step saved before its renewal is saved again after it, so a second kill loses nothing."""
    config = a_run(data, tmp_path / "run", save_every=0)
    interrupted(config, stop, 8, 0)  # saved without the scores of step 8
    with pytest.raises(Kill):
        interrupted(config, kill, 10, 0)
    train_stage(config, begin)
    assert files_of(Path(config.run_dir)) == files_of(straight)


def test_the_curriculum_begins_with_the_first_scores(straight: Path) -> None:
    """Until then the competence is 1; from then on it grows from its start, and the scores are in each step."""
    found = {record["step"]: record["competence"] for record in read_metrics(straight) if "competence" in record}
    assert [found[step] for step in (1, 2, 3)] == [1, 1, 1]
    assert found[5] == pytest.approx(0.2 + 0.8 / 8) and found[11] < 1 == found[12]
    steps = step_directories(straight)
    scores = {step: load_file(steps[step] / "stream.safetensors") for step in (6, 9)}
    assert {step: sorted(tensors) for step, tensors in scores.items()} == {6: ["0"], 9: ["0"]}
    assert not torch.equal(scores[6]["0"], scores[9]["0"])
    assert not (steps[3] / "stream.safetensors").exists()


def test_rows_are_scored_by_the_mean_loss_of_their_targets(data: Path, straight: Path) -> None:
    """A score is the mean nats of a row, as one forward pass for each row has it."""
    windows = open_pretraining_data(tiny_config(data).data).windows(16)
    model, _ = load(step_directories(straight)[STEPS])
    with start(CPU) as runtime:
        found = row_losses(model, windows, runtime, 16, in_documents=False)
    for i in range(0, len(windows), 7):
        rows = windows.rows(np.array([i]))
        tokens, targets = (torch.from_numpy(rows[name]) for name in ("tokens", "targets"))
        with torch.no_grad():
            nats = model(tokens, targets)
        assert found[i].item() == pytest.approx(nats.sum().item() / int((targets != IGNORE).sum()), rel=1e-5)


def test_ranks_share_the_scoring_and_read_the_same_rows(worker: Worker, data: Path, tmp_path: Path) -> None:
    """On one, two and four ranks, with other micro-batches, losses agree within 1e-4 and competences exactly."""
    seen: dict[int, Any] = {}
    for ranks in (1, 2, 4):
        flags = [
            *FLAGS,
            f"--data.path={data}",
            f"--run_dir={tmp_path / str(ranks)}",
            f"--data.micro_batch={8 // ranks}",
        ]
        flags += ["--data.curriculum.by=loss", "--data.curriculum.renew=3", "--data.curriculum.until=9"]
        worker.run("script", ranks=ranks, arguments=[*flags, "--model.dropout=0", "--runtime.processes=1"])
        seen[ranks] = [(r["loss"], r["competence_rows"]) for r in read_metrics(tmp_path / str(ranks)) if "loss" in r]
    for ranks in (2, 4):
        for mine, theirs in zip(seen[1], seen[ranks], strict=True):
            assert mine[1] == theirs[1] and mine[0] == pytest.approx(theirs[0], abs=1e-4)


def test_another_pace_is_refused(data: Path, straight: Path) -> None:
    """A run does not go on with another curriculum than the one it was made with."""
    config = a_run(data, straight)
    changed = replace(config, data=replace(config.data, curriculum=replace(CURRICULUM, start=0.3)))
    before = json.loads((step_directories(straight)[STEPS] / "resume.json").read_text(encoding="utf-8"))
    with pytest.raises(Exception, match=r"data\.curriculum: the 112 sequences trained on so far"):
        train_stage(changed, begin)
    assert before == json.loads((step_directories(straight)[STEPS] / "resume.json").read_text(encoding="utf-8"))
