"""The test of learning rates: what it suggests for curves of known shape, and as a command on tiny data."""

import json
import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from training_fixtures import FLAGS

from babyllm.__main__ import run
from babyllm.errors import UserError
from babyllm.interop.huggingface import save_model
from babyllm.model.config import ModelConfig
from babyllm.model.transformer import Transformer
from babyllm.schedule import Plan, learning_rate
from babyllm.tokenizer import Tokenizer
from babyllm.training.curves.rate_range import RangeOptions, RateCurve
from babyllm.training.curves.rate_report import rate_lines


def curve_of(steps: int, ripple: float = 0.0) -> RateCurve:
    """A loss that falls from 8, is lowest at a rate of 1e-2 and diverges after it, up to where the test stops."""
    curve = RateCurve()
    for i in range(steps):
        rate = 1e-5 * 1e4 ** (i / (steps - 1))
        x = math.log10(rate)
        loss = 8 - 3 / (1 + math.exp(-4 * (x + 3))) + 6 / (1 + math.exp(-8 * (x + 1.4))) + ripple * math.sin(7 * i)
        if curve.add(rate, loss):
            break
    return curve


@pytest.mark.parametrize("ripple", [0.0, 0.1])
def test_the_suggestion_is_a_quarter_of_the_rate_at_which_the_loss_leaves_its_low_level(ripple: float) -> None:
    """The loss falls fastest near 1e-3 and is lowest near 1e-2; the test ends when half of the gain is lost."""
    curve = curve_of(120, ripple)
    found = curve.suggestion()
    assert curve.has_diverged and len(curve.rates) < 120
    assert found and 5e-4 < found.steepest < 2e-3 and 5e-3 < found.lowest < 2e-2
    assert found.lowest <= found.edge < curve.rates[-1] and found.rate == pytest.approx(found.edge / 4)


def test_a_loss_that_does_not_fall_suggests_nothing() -> None:
    """The lines say so, and what to change."""
    curve = RateCurve()
    for i in range(60):
        curve.add(1e-5 * 1.1**i, 8.0 + 0.001 * i)
    assert curve.suggestion() is None
    assert "the loss did not fall, so no rate is suggested" in rate_lines(curve, 1e-3, None)[-1]


def test_the_rate_grows_by_one_factor_up_to_the_highest() -> None:
    """The schedule of the loop does it: no warmup, from `low` to `high`."""
    plan = RangeOptions(steps=21, low=1e-4, high=1e-2).plan(Plan(epochs=3.0, clip_norm=0.5))
    rates = [learning_rate(plan, step) for step in range(21)]
    factors = [b / a for a, b in pairwise(rates)]
    assert rates[-1] == pytest.approx(1e-2) and factors == pytest.approx([100 ** (1 / 21)] * 20)
    assert plan.clip_norm == 0.5
    with pytest.raises(UserError, match=r"range\.high=1e-05: must be above range\.low=0\.001"):
        RangeOptions(low=1e-3, high=1e-5).plan(Plan())


def test_the_command_trains_prints_and_throws_the_weights_away(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A table, a suggestion with its reason, and a picture; no step, no record; a test can be repeated."""
    flags = [*FLAGS, f"--data.path={data}", f"--run_dir={tmp_path / 'test'}", "--range.steps=60"]
    flags += ["--range.low=1e-3", "--range.high=100", "--model.dropout=0", "--runtime.processes=1"]
    run(["lr-range", "pretrain", *flags])
    first = capsys.readouterr().out
    assert "the loss falls fastest at" in first and "suggested: --plan.peak_lr=" in first and "limits:" in first
    assert "the loss diverged, at" in first
    assert sorted(path.name for path in (tmp_path / "test").iterdir()) == [".lock", "lr_range.png"]
    run(["lr-range", "pretrain", *flags])
    assert capsys.readouterr().out.splitlines()[-6:] == first.splitlines()[-6:]


def test_fine_tuning_is_tested_with_its_own_model_and_chats(
    tmp_path: Path, tokenizer: Tokenizer, tiny: Callable[..., ModelConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    """The model that fine-tuning begins with stays as it is; the prepared chats stay in the test's directory."""
    torch.manual_seed(1)
    (tmp_path / "base").mkdir()
    save_model(tmp_path / "base", Transformer(tiny()), tokenizer)
    before = (tmp_path / "base" / "model.safetensors").read_bytes()
    messages = [{"role": "user", "content": "天气"}, {"role": "assistant", "content": "很好"}]
    (tmp_path / "chats.jsonl").write_text(json.dumps({"messages": messages}) + "\n", encoding="utf-8")
    flags = [f"--init_from={tmp_path / 'base'}", f"--data.path={tmp_path / 'chats.jsonl'}", "--data.template=plain"]
    flags += ["--data.held_out=0", "--data.seq_len=32", "--data.global_batch=1", "--range.steps=30", "--samples=0"]
    flags += ["--runtime.device=cpu", "--runtime.processes=1", "--data.work.workers=1", "--runtime.threads=1"]
    run(["lr-range", "sft", f"--run_dir={tmp_path / 'test'}", *flags])
    assert "suggested: --plan.peak_lr=" in capsys.readouterr().out
    assert (tmp_path / "base" / "model.safetensors").read_bytes() == before
    assert not list((tmp_path / "test").glob("step_*")) and (tmp_path / "test" / "lr_range.png").is_file()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--range.steps=30"], "the first argument is the stage, pretrain or sft, not ''"),
        (["grpo"], "the first argument is the stage, pretrain or sft, not 'grpo'"),
        (["pretrain", "--range.steps=3"], "range.steps=3: must be at least 20"),
        (["sft", "--range.stepz=30"], "did you mean --range.steps?"),
    ],
)
def test_mistakes_name_what_is_wrong(argv: list[str], message: str) -> None:
    """One line, before anything is made."""
    with pytest.raises(UserError) as caught:
        run(["lr-range", *argv])
    assert message in str(caught.value)


def test_the_directory_of_a_run_is_not_touched(data: Path, tmp_path: Path) -> None:
    """A test in a run's directory is refused."""
    (tmp_path / "config.yaml").write_text("run_dir: here\n")
    with pytest.raises(UserError, match=r"holds a run, which a test of learning rates must not touch"):
        run(["lr-range", "pretrain", *FLAGS, f"--data.path={data}", f"--run_dir={tmp_path}", "--runtime.processes=1"])
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]
