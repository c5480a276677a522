"""Stages of alignment need a stream and a loss, and nothing of the loop that is not there."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from alignment_fixtures import (
    LIKED,
    PLAN,
    Pairs,
    Rollouts,
    policy_losses,
    policy_runs,
    policy_state,
    preference,
    tiny_model,
)
from torch import nn
from training_fixtures import Worker, tiny_config, tiny_state

from babyllm.data.batch import Batch
from babyllm.data.loader import Loader, Share
from babyllm.data.order.shuffle import Shuffled
from babyllm.errors import UserError
from babyllm.objectives import LossTerms
from babyllm.objectives.lm import language_model
from babyllm.optim.build import make_optimizer
from babyllm.optim.config import OptimConfig
from babyllm.runtime import Runtime
from babyllm.training import checkpoint
from babyllm.training.loop import train
from babyllm.training.run import open_run
from babyllm.training.state import Every, TrainState


def test_preferences_are_learned_from_pairs(runtime: Runtime) -> None:
    """Rows (n, 2, T) with reference log-probabilities train through loader and loop; the loss begins at log 2."""
    model = tiny_model()
    loader = Loader(Shuffled(Pairs(model), seed=0), Share(8, 4), seed=0)
    state = TrainState(model, make_optimizer(model, OptimConfig()), runtime.scaler(), loader, runtime)
    seen: list[dict[str, float]] = []
    every = [Every(1, lambda state: seen.append(state.take_metrics()))]
    train(state, preference, replace(PLAN, steps=15), every)
    assert seen[0]["loss"] == pytest.approx(0.6931, abs=1e-4)
    assert seen[-1]["loss"] < 0.3 and seen[-1]["accuracy"] == 1.0


def test_a_policy_learns_what_is_rewarded(runtime: Runtime) -> None:
    """Two epochs over each rollout raise the reward, and the first has a ratio of one to what sampled it."""
    state = policy_state(runtime)
    seen = policy_losses(state, replace(PLAN, steps=60))
    assert seen[0]["objective"] == pytest.approx(0.0, abs=1e-6)
    assert [seen[i]["reward"] == seen[i + 1]["reward"] for i in range(0, 60, 2)] == [True] * 30
    assert seen[-1]["reward"] > seen[0]["reward"] + 0.3
    assert isinstance(state.stream, Rollouts) and (state.stream.rollout["targets"] == LIKED).any()


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_policy_goes_on_amid_a_rollout(worker: Worker, runtime: Runtime, tmp_path: Path, ranks: int) -> None:
    """A run from a step amid a rollout is the straight run, bit for bit; one rank goes on from two."""
    if ranks == 1:
        policy_runs(str(tmp_path))
    else:
        worker.run("policy_runs", ranks=ranks, out=str(tmp_path))
    straight, resumed = json.loads((tmp_path / "seen.json").read_text(encoding="utf-8"))
    assert resumed == straight[3:]
    last = [tmp_path / name / "step_00000006" for name in ("straight", "resumed")]
    assert [p.name for p in last[0].iterdir() if p.read_bytes() != (last[1] / p.name).read_bytes()] == []
    middle = tmp_path / "straight" / "step_00000003"
    assert (middle / "stream.safetensors").is_file() and not (last[0] / "stream.safetensors").exists()
    state = policy_state(runtime)
    checkpoint.load(state, middle)
    assert isinstance(state.stream, Rollouts) and state.stream.rollout["targets"].shape == (8, 6)
    moved = policy_losses(state, replace(PLAN, steps=4))
    assert moved[0]["reward"] == straight[3]["reward"]
    assert moved[0]["grad_norm"] == pytest.approx(straight[3]["grad_norm"], rel=1e-4)


def test_a_damaged_stream_file_is_named(runtime: Runtime, tmp_path: Path) -> None:
    """A step whose stream.safetensors is not as it was saved is refused."""
    policy_losses(policy_state(runtime), replace(PLAN, steps=1), save_to=tmp_path)
    file = tmp_path / "step_00000001" / "stream.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(UserError, match=r"stream\.safetensors: is missing or not as it was saved"):
        checkpoint.load(policy_state(runtime), file.parent)


def test_plain_tensors_and_lists_of_a_state_come_back(runtime: Runtime, tmp_path: Path) -> None:
    """Tensors of any type, nested and sharing memory, are what they were; JSON values beside them too."""
    shared = torch.arange(6.0)
    stored = {"a": [shared, {"b": shared[2:]}], "c": torch.tensor(True), "d": torch.ones(2, 0), "n": [1, 2.5]}

    class Holder(Rollouts):
        def state_dict(self) -> dict[str, object]:
            return stored

        def load_state_dict(self, state: dict[str, object]) -> None:
            self.loaded = state

    state = policy_state(runtime)
    stream = state.stream = Holder(tiny_model(), runtime)
    checkpoint.save(state, tmp_path, None, keep=1)
    checkpoint.load(state, tmp_path / "step_00000000")
    torch.testing.assert_close(stream.loaded, stored, rtol=0, atol=0)


def test_a_loss_must_not_hide_what_the_run_records(data: Path, runtime: Runtime, tmp_path: Path) -> None:
    """A metric with the name of one that the run records is refused by name."""
    config = replace(tiny_config(data), run_dir=str(tmp_path))
    state = tiny_state(config, runtime)

    def loss(model: nn.Module, batch: Batch) -> LossTerms:
        sums, metrics = language_model(model, batch)
        return LossTerms(sums, {"lr": metrics["loss"]})

    with open_run(config, state, None, config.plan) as run, pytest.raises(ValueError, match="metric 'lr' is recorded"):
        train(state, loss, config.plan, [run.logging(1, 16)])


def test_ranks_show_together_and_must_agree_on_names_and_rows(worker: Worker, data: Path, tmp_path: Path) -> None:
    """All ranks make a sample and one writes it; other metrics or rows on a rank are an error on each, and no wait."""
    worker.run("contracts", ranks=2, data=str(data), out=str(tmp_path))
    samples = (tmp_path / "run" / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["text"] for line in samples] == ["ranks: 2"] * 2
    for rank in range(2):
        metrics, rows = json.loads((tmp_path / f"{rank}.json").read_text(encoding="utf-8"))
        assert "the same metrics on every rank" in metrics and f"of_{rank}" in metrics
        assert "RankRows must have the same number, shape and dtype" in rows
