"""The loop in one process; `python tests/training/test_loop.py` rewrites the golden losses."""

import json
import random
import re
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from training_fixtures import CPU, Repeated, recording, stopping, tiny_config, tiny_state, weights

import babyllm
from babyllm import run_directory
from babyllm.data.batch import Batch
from babyllm.data.token_config import DataConfig
from babyllm.data.token_data import open_pretraining_data
from babyllm.model.cross_entropy import IGNORE
from babyllm.model.options import ModelOptions
from babyllm.objectives import LossTerms
from babyllm.objectives.conversation import conversation_loss
from babyllm.objectives.lm import language_model
from babyllm.objectives.token_groups import token_groups
from babyllm.optim.config import OptimConfig
from babyllm.runtime import Runtime, start
from babyllm.schedule import Plan, learning_rate
from babyllm.training import checkpoint
from babyllm.training.loop import train
from babyllm.training.stages.pretraining import new_state
from babyllm.training.stages.pretraining_config import PretrainConfig
from babyllm.training.state import Every, TrainState

GOLDEN = Path(__file__).parents[1] / "golden" / "pretrain_losses.json"
README = Path(__file__).parents[2] / "README.md"
CONSTANT = Plan(steps=1, schedule="constant", warmup=0, peak_lr=1e-2, clip_norm=0.0)


def ragged_rows() -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens and targets, each (8, 16) int64; rows differ in their number of targets, and the last has none."""
    tokens = torch.randint(0, 290, (8, 17), generator=torch.Generator().manual_seed(0))
    targets = tokens[:, 1:].clone()
    for row, n_targets in enumerate((16, 1, 9, 3, 16, 2, 12, 0)):
        targets[row, n_targets:] = IGNORE
    return tokens[:, :-1], targets


def micro_batches(tokens: torch.Tensor, targets: torch.Tensor, size: int) -> list[Batch]:
    pairs = zip(torch.split(tokens, size), torch.split(targets, size), strict=True)
    return [Batch({"tokens": x, "targets": y}, {"token": int((y != IGNORE).sum())}) for x, y in pairs]


def gradients(state: TrainState) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in state.model.parameters() if p.grad is not None])


@pytest.mark.parametrize("micro_batch", [1, 2, 4, 8])
def test_every_target_of_the_global_batch_weighs_the_same(data: Path, runtime: Runtime, micro_batch: int) -> None:
    """Loss and gradient are those of one mean over all targets, however unevenly micro-batches share them."""
    tokens, targets = ragged_rows()
    state = tiny_state(tiny_config(data), runtime)
    loss = state.model(tokens, targets).sum() / (targets != IGNORE).sum()
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(state.model.parameters()))])
    state.stream = Repeated(micro_batches(tokens, targets, micro_batch))
    train(state, language_model, CONSTANT)
    assert (gradients(state) - expected).abs().max() < 1e-6
    assert expected.abs().max() > 1e-2
    assert state.take_metrics()["loss"] == pytest.approx(loss.item(), rel=1e-6)
    assert state.grad_norm == pytest.approx(float(expected.norm()), rel=1e-5)
    assert state.tokens == int((targets != IGNORE).sum())


@pytest.mark.parametrize("micro_batch", [1, 8])
def test_special_and_end_tokens_have_losses_of_their_own(data: Path, runtime: Runtime, micro_batch: int) -> None:
    """They are means over the targets of each group, of the whole global batch; a group without targets has none."""
    tokens, targets = ragged_rows()
    state = tiny_state(tiny_config(data), runtime)
    nats = state.model(tokens, targets).detach()
    special = [*range(0, 50), *range(100, 290)]
    state.stream = Repeated(micro_batches(tokens, targets, micro_batch))
    for ends in (range(200, 260), []):
        groups = token_groups(special, ends, 290, runtime.device)
        train(state, partial(language_model, groups=groups), replace(CONSTANT, steps=state.step + 1, peak_lr=0.0))
        found = state.take_metrics()
        expected = {"loss": targets != IGNORE, "loss/special": torch.isin(targets, torch.tensor(special))}
        expected |= {"loss/end": torch.isin(targets, torch.tensor(ends))} if ends else {}
        assert found == pytest.approx({name: float(nats[mask].mean()) for name, mask in expected.items()}, rel=1e-6)


def test_a_task_with_the_name_of_a_group_keeps_it(data: Path, runtime: Runtime) -> None:
    """The loss of a task called "end" is recorded as such, in place of that of the end tokens."""
    tokens, targets = ragged_rows()
    weights = (targets != IGNORE).float()
    more = {"weights": weights, "channels": torch.zeros_like(tokens), "lengths": torch.full((8,), 16)}
    batch = Batch({"tokens": tokens, "targets": targets, **more}, {"token": int(weights.sum())})
    groups = token_groups([0], [2], 290, runtime.device)
    metrics = conversation_loss("token", ["end"], groups=groups)(tiny_state(tiny_config(data), runtime).model, batch)[1]
    assert float(metrics["loss/end"][1]) == weights.sum() and "loss/special" in metrics


def test_each_sum_of_a_loss_is_divided_by_its_own_unit(data: Path, runtime: Runtime) -> None:
    """A loss over tokens and rows adds a mean over the step's tokens and a mean over its rows."""
    tokens, targets = ragged_rows()
    state = tiny_state(tiny_config(data), runtime)
    nats = state.model(tokens, targets)
    loss = nats.sum() / (targets != IGNORE).sum() + (nats.sum(1) ** 2).sum() / 8
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(state.model.parameters()))])

    def two_units(model: nn.Module, batch: Batch) -> LossTerms:
        nats = model(**batch.tensors)
        return LossTerms({"token": nats.sum(), "row": (nats.sum(1) ** 2).sum()}, {})

    batches = micro_batches(tokens, targets, 2)
    state.stream = Repeated([replace(batch, units={**batch.units, "row": 2}) for batch in batches])
    train(state, two_units, CONSTANT)
    assert (gradients(state) - expected).norm() < 1e-5 * expected.norm()


@pytest.mark.parametrize("has_scaler", [False, True])
@pytest.mark.parametrize("factor", [float("nan"), float("inf"), 1e38])
def test_a_step_without_a_finite_gradient_norm_changes_nothing(
    data: Path, runtime: Runtime, factor: float, has_scaler: bool
) -> None:
    """Weights and moments do not change, the step is counted, and the next step is normal."""
    config = tiny_config(data)
    state = tiny_state(config, runtime)
    state.scaler = torch.amp.GradScaler("cpu", init_scale=2.0, enabled=has_scaler)
    seen: list[tuple[int, list[float], list[float]]] = []

    def loss(model: nn.Module, batch: Batch) -> LossTerms:
        terms = language_model(model, batch)
        if state.step == 1:
            terms.sums["token"].register_hook(lambda gradient: gradient * factor)
        return terms

    def look(state: TrainState) -> None:
        moments = [s[key].flatten() for s in state.optimizer.state.values() for key in sorted(s)]
        seen.append((state.skipped, weights(state).tolist(), torch.cat(moments).tolist()))

    train(state, loss, replace(config.plan, steps=3), [Every(1, look)])
    assert [skipped for skipped, _, _ in seen] == [0, 1, 1]
    assert seen[0][1:] == seen[1][1:]
    assert seen[1][1] != seen[2][1] and np.isfinite(seen[2][1]).all()


def test_the_plan_rules_learning_rate_and_clipping(data: Path, runtime: Runtime) -> None:
    """Each update uses its step's learning rate and gradients of at most `clip_norm`; the logged norm is unclipped."""
    config = tiny_config(data)
    plan = replace(config.plan, steps=6, clip_norm=0.25)
    state = tiny_state(config, runtime)
    seen: list[tuple[float, float, float]] = []

    def look(state: TrainState) -> None:
        assert {group["lr"] for group in state.optimizer.param_groups} == {state.lr}
        seen.append((state.lr, state.grad_norm, float(gradients(state).norm())))

    train(state, language_model, plan, [Every(1, look)])
    assert [lr for lr, _, _ in seen] == [learning_rate(plan, step) for step in range(6)]
    assert all(full > 0.25 >= clipped * 0.9999 > 0.2 for _, full, clipped in seen)


def test_what_is_due_runs_once_between_steps(data: Path, runtime: Runtime) -> None:
    """Actions run in order at their steps and after the last; after a stop signal only those with `at_stop` run."""
    state = tiny_state(config := tiny_config(data), runtime)
    ran: list[tuple[str, int]] = []

    def item(name: str, steps: int, **when: bool) -> Every:
        return Every(steps, lambda state: ran.append((name, state.step)), **when)

    def interrupted(model: nn.Module, batch: Batch) -> LossTerms:
        if state.step == 7:
            signal.raise_signal(signal.SIGTERM)
        return language_model(model, batch)

    every = [item("a", 2), item("b", 3), item("end", 0), item("never", 0, at_end=False)]
    train(state, language_model, replace(config.plan, steps=6), every)
    assert ran == [("a", 2), ("b", 3), ("a", 4), ("a", 6), ("b", 6), ("end", 6)]
    ran.clear()
    train(state, interrupted, replace(config.plan, steps=20), [item("a", 2), item("saving", 0, at_stop=True)])
    assert ran == [("saving", 8)]
    assert state.step == 8 and state.stop_reason == "stop signal"
    assert state.pending


def test_what_a_stop_signal_put_off_is_made_up_for(data: Path, tmp_path: Path) -> None:
    """A resumed run first does what was due when the signal came; a signal between steps trains no further step."""
    config, ran = tiny_config(data), list[tuple[str, int]]()

    def item(name: str, stops_at: int = -1, **when: bool) -> Every:
        def run(state: TrainState) -> None:
            ran.append((name, state.step))
            if state.step == stops_at:
                signal.raise_signal(signal.SIGTERM)

        return Every(2, run, **when)

    def go_on(stops_at: int = -1) -> TrainState:
        with start(CPU) as runtime:
            state = tiny_state(config, runtime)
            if newest := run_directory.latest(tmp_path):
                checkpoint.load(state, newest)
            save = Every(0, lambda state: checkpoint.save(state, tmp_path, None, 1), at_stop=True)
            every = [item("a", stops_at), item("b"), item("c", at_stop=True), save]
            train(state, language_model, replace(config.plan, steps=6), every)
            return state

    assert go_on(stops_at=4).step == 4
    assert ran == [("a", 2), ("b", 2), ("c", 2), ("a", 4), ("c", 4)]
    ran.clear()
    assert go_on().step == 6
    assert ran == [("a", 4), ("b", 4), ("c", 4), ("a", 6), ("b", 6), ("c", 6)]


def test_a_finished_run_trains_no_further(data: Path, runtime: Runtime) -> None:
    """A state at the plan's last step keeps its weights."""
    state = tiny_state(config := tiny_config(data), runtime)
    train(state, language_model, config.plan, [stopping(2)])
    before = weights(state).clone()
    state.stop_reason = None
    train(state, language_model, replace(config.plan, steps=2))
    assert state.step == 2 and torch.equal(weights(state), before)


def test_one_batch_is_learned_by_heart(data: Path, runtime: Runtime) -> None:
    """Trained on a single batch of random ids, the loss falls below 0.1."""
    ids = torch.randint(0, 290, (8, 17), generator=torch.Generator().manual_seed(0))
    state = tiny_state(tiny_config(data), runtime)
    state.stream = Repeated(micro_batches(ids[:, :-1], ids[:, 1:], 8))
    losses: list[float] = []
    train(state, language_model, Plan(steps=60, peak_lr=2e-2), [recording(losses)])
    assert losses[0] > 5 and losses[-1] < 0.1


def golden_losses(folder: Path) -> list[float]:
    """Losses in nats of 20 steps on generated ids: each id is the one before times three, plus a little noise."""
    rng, ids = random.Random(0), [1]
    while len(ids) < 2000:
        ids.append((ids[-1] * 3 + rng.choice([0, 0, 0, 1])) % 61)
    np.array(ids, dtype="<u2").tofile(folder / "golden.bin")
    config = PretrainConfig(
        model=ModelOptions(vocab_size=61, n_layers=2, d_model=32, n_heads=4, n_kv_heads=2, max_seq_len=32),
        data=DataConfig(path=str(folder), seq_len=16, global_batch=8, micro_batch=4),
        optim=OptimConfig(),
        plan=Plan(steps=20, peak_lr=1e-2),
        runtime=CPU,
    )
    losses: list[float] = []
    with start(CPU) as runtime:
        state, plan = new_state(config, open_pretraining_data(config.data, 61), runtime)
        train(state, language_model, plan, [recording(losses)])
    return losses


def test_losses_are_the_golden_ones(tmp_path: Path) -> None:
    """Twenty steps from seeded weights reproduce the stored losses; to change them, run this file as a script."""
    golden: dict[str, Any] = json.loads(GOLDEN.read_text())
    assert golden_losses(tmp_path) == pytest.approx(golden["losses"], rel=1e-4)
    assert golden["losses"][-1] < golden["losses"][0] - 0.5


def test_the_readme_trains_in_a_notebook(data: Path) -> None:
    """The README's lines for training from Python work."""
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    (lines,) = (block for block in blocks if "babyllm.train(" in block)
    lines = lines.replace('"data/sample"', f'"{data}", seq_len=16').replace("steps=50", "steps=2")
    namespace: dict[str, Any] = {"babyllm": babyllm}
    exec(lines, namespace)
    state = namespace["state"]
    assert isinstance(state, babyllm.TrainState) and state.step == 2 and state.take_metrics()["loss"] > 0


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        made = {"torch": torch.__version__, "losses": golden_losses(Path(folder))}
    GOLDEN.write_text(json.dumps(made, indent=1) + "\n")
    print(f"wrote {GOLDEN}")


@pytest.mark.parametrize("name", ["README.md", "README.zh.md"])
def test_the_first_commands_open_no_port_to_others(name: str) -> None:
    """The commands to copy start their own processes; only the text mentions torchrun, whose port is open to others."""
    blocks = re.findall(r"```bash\n(.*?)```", README.with_name(name).read_text(encoding="utf-8"), re.DOTALL)
    assert "python train_pretrain.py" in blocks[0]
    assert not [block for block in blocks if "torchrun" in block]
