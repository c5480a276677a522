"""The way of a user who asks "is my loss normal?", with babyllm's commands alone."""

import json
import re
from pathlib import Path

import pytest
from training_fixtures import CPU, VOCAB_SIZE

from babyllm.__main__ import run
from babyllm.training.recording.records import read_metrics

FLAGS = [
    *("--data.seq_len=16", "--data.global_batch=8", "--model.n_layers=1", "--model.d_model=32", "--model.n_heads=2"),
    *("--optim.matrices=adamw", "--optim.embedding_lr=1", "--optim.matrices_lr=1", "--runtime.processes=1"),
    *(f"--runtime.device={CPU.device}", f"--runtime.dtype={CPU.dtype}", "--runtime.threads=1", "--prompts=[ab]"),
    *("--plan.steps=120", "--log_every=1", "--eval_every=0", "--save_every=0"),
]


def said(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """What a command prints."""
    run(argv)
    return capsys.readouterr().out


def test_is_my_loss_normal(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run with a rate that is far too low says so once; a test of rates suggests one, and with it all is normal.

    Each answer names the page that explains it, and that page exists.
    """
    flags, bad, good = [*FLAGS, f"--data.path={data}"], tmp_path / "bad", tmp_path / "good"

    log = said(capsys, "pretrain", f"--run_dir={bad}", "--plan.peak_lr=1e-7", *flags)
    assert log.count("warning: the learning rate is too low to train a new model") == 1
    assert log.count("warning: the loss sits at ") == 1
    first = read_metrics(bad)[0]["first_loss"]
    assert first is not None and abs(first - 5.67) < 0.1 and VOCAB_SIZE == 290  # ln 290 = 5.67: the start is normal

    answer = said(capsys, "inspect", str(bad))
    assert "is the loss normal?" in answer and "the loss sits at" in answer
    pages = set(re.findall(r"(docs/\S+)#([a-z-]+)", answer))
    assert {anchor for _, anchor in pages} == {"rate-too-low", "sits"}
    for page, anchor in pages:
        text = (Path(__file__).resolve().parents[2] / page).read_text(encoding="utf-8")
        assert f'<a id="{anchor}"></a>' in text

    test = said(capsys, "lr-range", "pretrain", f"--run_dir={tmp_path / 'range'}", *flags)
    suggested = re.search(r"suggested: --plan.peak_lr=(\S+),", test)
    assert suggested and 1e-3 < float(suggested[1]) < 0.3

    log = said(capsys, "pretrain", f"--run_dir={good}", f"--plan.peak_lr={suggested[1]}", *flags)
    assert "warning" not in log
    answer = said(capsys, "inspect", str(good))
    assert "nothing unusual about the loss" in answer
    losses = [json.loads(line)["loss"] for line in (good / "metrics.jsonl").read_text().splitlines()]
    assert losses[-1] < losses[0] - 1


def test_a_short_run_is_said_to_be_short(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run with too few records for most findings is not simply called normal."""
    said(capsys, "pretrain", f"--run_dir={tmp_path / 'short'}", *FLAGS, f"--data.path={data}", "--plan.steps=3")
    answer = said(capsys, "inspect", str(tmp_path / "short"))
    assert "nothing unusual about the loss, but it has 3 of the 24 records that most findings need" in answer


def test_findings_are_in_the_language_of_the_user(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the locale is Chinese, the log's findings and those of `inspect` are, and name the Chinese page."""
    monkeypatch.setenv("LC_ALL", "zh_CN.UTF-8")
    run = tmp_path / "run"
    log = said(capsys, "pretrain", f"--run_dir={run}", *FLAGS, f"--data.path={data}", "--plan.peak_lr=1e-7")
    assert re.search(r"warning: 学习率太低.*；见 docs/zh/troubleshooting/loss\.md#rate-too-low", log)
    answer = said(capsys, "inspect", str(run))
    assert "docs/zh/troubleshooting/loss.md#rate-too-low" in answer and "docs/en" not in answer
