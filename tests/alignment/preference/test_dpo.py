"""Direct preference optimisation through its script: ranks, resuming, the reference, what is measured."""

import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from dpo_run_fixtures import ADAPTER, LORA, WHOLE, finished, resumed, tensors, train
from training_fixtures import Worker

from babyllm.training.recording.records import read_metrics

WAY = 1e-3 * 4 * 0.01
"""A thousandth of the way that four steps of Adam can move a weight."""

__all__ = ["finished", "train"]


@pytest.fixture(scope="module")
def straight(finished: Callable[..., Path]) -> Path:
    """A finished run."""
    return finished()


@pytest.mark.parametrize(("ranks", "micro_batch"), [(1, 8), pytest.param(4, 2, marks=pytest.mark.campaign)])
def test_ranks_are_one_for_any_micro_batch(
    train: Callable[..., Path], straight: Path, tmp_path: Path, ranks: int, micro_batch: int
) -> None:
    """Weights after four steps, within a thousandth of the way they can move."""
    run = train(tmp_path / "run", f"--data.micro_batch={micro_batch}", ranks=ranks)
    torch.testing.assert_close(tensors(run), tensors(straight), rtol=0, atol=WAY)


def test_two_ranks_learn_one_adapter(train: Callable[..., Path], finished: Callable[..., Path], tmp_path: Path) -> None:
    """With the adapter switched off for the reference, under DDP, within 1e-5."""
    one, two = finished(*LORA), train(tmp_path / "two", *LORA, ranks=2)
    torch.testing.assert_close(tensors(two, name=ADAPTER), tensors(one, name=ADAPTER), rtol=0, atol=1e-5)


def test_two_ranks_are_one_with_the_whole_batch(train: Callable[..., Path], straight: Path, tmp_path: Path) -> None:
    """Weights after four steps, and the reference that the ranks computed together."""
    run = train(tmp_path / "run", ranks=2)
    torch.testing.assert_close(tensors(run), tensors(straight), rtol=0, atol=WAY)
    for split in ("train", "val"):
        one, two = (
            torch.frombuffer(bytearray((r / "pairs" / f"reference.{split}.f32").read_bytes()), dtype=torch.float32)
            for r in (straight, run)
        )
        torch.testing.assert_close(two, one, rtol=0, atol=1e-4)


def test_the_first_loss_knows_nothing_and_the_last_something(straight: Path) -> None:
    """The model begins as its own reference: a loss of log 2, margins of 0; then it prefers what was chosen."""
    records = read_metrics(straight)
    first = next(record for record in records if "loss" in record)
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert first["rewards/margin"] == pytest.approx(0, abs=1e-5)
    last = [record for record in records if "val/all/accuracy" in record][-1]
    assert last["val/all/accuracy"] is not None and last["val/all/accuracy"] > 0.9


def test_log_probabilities_of_held_out_answers_are_measured(straight: Path) -> None:
    """Those of the reference at first, and then these with the implicit rewards added, for each side."""
    measured = [record for record in read_metrics(straight) if "val/all/logps/chosen" in record]
    stored = np.fromfile(straight / "pairs" / "reference.val.f32", "<f4").reshape(-1, 2)
    for side, name in enumerate(("chosen", "rejected")):
        first, last = (float(measured[i][f"val/all/logps/{name}"] or 0.0) for i in (0, -1))
        assert first == pytest.approx(float(stored[:, side].mean()), abs=1e-4)
        reward = float(measured[-1][f"val/all/score/{name}"] or 0.0)
        assert last == pytest.approx(first + reward / 0.1, abs=1e-3) and last != first


@pytest.mark.parametrize("more", [(), LORA, ("--lora.rank=4",), ("--loss.name=apo_zero_unpaired",)], ids=str)
def test_a_resumed_run_is_the_straight_one(
    train: Callable[..., Path], finished: Callable[..., Path], tmp_path: Path, more: tuple[str, ...]
) -> None:
    """To the bit: in full, with an adapter and the reference either way, and for answers with verdicts."""
    run = finished(*more)
    copy = resumed(run, tmp_path / "copy", train, *more)
    name = ADAPTER if "--lora.rank=4" in more else WHOLE
    one, other = tensors(run, name=name), tensors(copy, name=name)
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_the_adapter_switched_off_is_the_stored_reference(finished: Callable[..., Path]) -> None:
    """Either way the same adapter is learned."""
    by_file, by_adapter = finished("--lora.rank=4"), finished(*LORA)
    torch.testing.assert_close(tensors(by_file, name=ADAPTER), tensors(by_adapter, name=ADAPTER), rtol=0, atol=1e-5)
    assert not (by_adapter / "pairs" / "reference.json").exists()


def test_a_line_warns_when_both_answers_fall(train: Callable[..., Path], worker: Worker, tmp_path: Path) -> None:
    """Which a high learning rate causes, and equal answers of the model and its reference do not."""
    train(tmp_path / "run", "--plan.peak_lr=0.05")
    before, _, after = worker.output.read_text().partition("step 0: held-out")
    assert "both answers have become less probable" in after
    assert "both answers have become less probable" not in before


def test_settings_without_effect_are_refused(train: Callable[..., Path], worker: Worker, tmp_path: Path) -> None:
    """A loss without a reference has none to switch an adapter off for."""
    train(tmp_path / "run", *LORA, "--loss.name=orpo", expects=1)
    assert "--reference=adapter_off: has no effect on orpo" in worker.output.read_text()


def test_a_resumed_run_cannot_make_its_reference_again(
    train: Callable[..., Path], straight: Path, worker: Worker, tmp_path: Path
) -> None:
    """Without the file it says so, since the model has changed since."""
    copy = tmp_path / "copy"
    shutil.copytree(straight, copy)
    (copy / "pairs" / "reference.json").unlink()
    train(copy, steps=6, expects=1)
    assert "only the starting model can compute" in worker.output.read_text()


def test_losses_without_reference_need_none(train: Callable[..., Path], tmp_path: Path) -> None:
    """SimPO trains without a file of the reference."""
    run = train(tmp_path / "run", "--loss.name=simpo", "--loss.beta=2", "--loss.sft_weight=0.1")
    assert not list((run / "pairs").glob("reference*"))
    assert read_metrics(run)[-1]["step"] == 4
