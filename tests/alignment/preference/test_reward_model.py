"""Reward models from pairs to scores, through the script: ranks, resuming, transformers, other directories."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from preference_fixtures import pairs, write
from safetensors.torch import load_file
from training_fixtures import Worker

from babyllm.chat.messages import Message
from babyllm.errors import UserError
from babyllm.evaluate.pair_results import RESULTS, pair_results, pair_sums
from babyllm.interop.huggingface import save_model
from babyllm.model.config import ModelConfig
from babyllm.model.transformer import Transformer
from babyllm.reward_model import load_reward_model
from babyllm.tokenizer import Tokenizer
from babyllm.training.recording.records import read_metrics

DEVICE = ("--runtime.device=cpu", "--runtime.dtype=float32", "--runtime.threads=1", "--data.work.workers=1")
LORA = ("--lora.rank=4", "--lora.dropout=0.1")
TALK = [Message("user", "3 天"), Message("assistant", "今天气很好。")]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer, tiny: Callable[..., ModelConfig]) -> Path:
    """A model directory to start from."""
    directory = tmp_path_factory.mktemp("base")
    torch.manual_seed(1)
    save_model(directory, Transformer(tiny(max_seq_len=97)), tokenizer)
    return directory


@pytest.fixture(scope="module")
def train(worker: Worker, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Runs train_reward.py in a directory and returns it."""
    file = write(tmp_path_factory.mktemp("pairs") / "pairs.jsonl", pairs(40))

    def trained(run_dir: Path, *more: str, ranks: int = 1, init_from: Path = base) -> Path:
        settings = (f"--init_from={init_from}", f"--data.path={file}", f"--run_dir={run_dir}", "--data.template=plain")
        sizes = ("--data.seq_len=97", "--data.held_out=0.2", "--data.global_batch=8", "--data.micro_batch=2")
        steps = ("--plan.steps=4", "--plan.peak_lr=0.01", "--save_every=2", "--eval_every=2", "--keep=9")
        worker.run("script", ranks=ranks, arguments=[*settings, *sizes, *steps, *DEVICE, *more], name="train_reward.py")
        return run_dir

    return trained


@pytest.fixture(scope="module")
def adapted(train: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of an adapter; not to be changed."""
    return train(tmp_path_factory.mktemp("adapted") / "run", *LORA)


@pytest.fixture(scope="module")
def straight(train: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; not to be changed."""
    return train(tmp_path_factory.mktemp("straight") / "run")


def tensors(run: Path, step: int = 4, name: str = "model.safetensors") -> dict[str, torch.Tensor]:
    return load_file(run / f"step_{step:08d}" / name)


def held_out_results(run: Path) -> dict[str, float | None]:
    """The results of the last evaluation."""
    return next(record for record in reversed(read_metrics(run)) if "val/all/loss" in record)


@pytest.mark.parametrize(("ranks", "micro_batch"), [(2, 1), pytest.param(4, 1, marks=pytest.mark.campaign)])
def test_ranks_are_one_with_the_whole_batch(
    train: Callable[..., Path], straight: Path, tmp_path: Path, ranks: int, micro_batch: int
) -> None:
    """Held-out results after four steps, within 1e-5; weights, within a thousandth of the way they can move."""
    run = train(tmp_path / "run", f"--data.micro_batch={micro_batch}", ranks=ranks)
    torch.testing.assert_close(tensors(run), tensors(straight), rtol=0, atol=1e-3 * 4 * 0.01)
    last = [held_out_results(each) for each in (run, straight)]
    names = [f"val/all/{name}" for name in RESULTS]
    assert [last[0][name] for name in names] == pytest.approx([last[1][name] for name in names], abs=1e-5)


@pytest.mark.parametrize("more", [(), LORA, ("--freeze.last_n_layers=1", "--loss.name=divergence")], ids=str)
def test_a_resumed_run_is_the_straight_one(
    train: Callable[..., Path], straight: Path, adapted: Path, tmp_path: Path, more: tuple[str, ...]
) -> None:
    """To the bit, in full, with LoRA and with frozen layers."""
    run = {(): straight, LORA: adapted}.get(more) or train(tmp_path / "run", *more)
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    shutil.rmtree(copy / "step_00000004")
    (copy / "latest").write_text("step_00000002\n", encoding="utf-8")
    train(copy, *more)
    name = "adapter_model.safetensors" if more == LORA else "model.safetensors"
    one, other = tensors(run, name=name), tensors(copy, name=name)
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
    before = tensors(run, 2, name)
    assert any(not torch.equal(before[key], one[key]) for key in one if "score" in key)


def test_a_run_without_held_out_pairs_measures_nothing(train: Callable[..., Path], tmp_path: Path) -> None:
    """It trains as any other."""
    run = train(tmp_path / "run", "--data.held_out=0")
    assert not any("val/all/loss" in record for record in read_metrics(run)) and tensors(run)


def test_transformers_has_the_same_scores(straight: Path) -> None:
    """AutoModelForSequenceClassification on a step, within 1e-5."""
    transformers = pytest.importorskip("transformers")
    step = straight / "step_00000004"
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(step).eval()
    ours = load_reward_model(step)
    ids = ours.ids(TALK)
    assert ids is not None
    with torch.no_grad():
        expected = float(theirs(torch.tensor([ids])).logits[0, 0])
    assert ours.scores([TALK]) == pytest.approx([expected], abs=1e-5)


def test_scores_do_not_depend_on_their_company(straight: Path) -> None:
    """Batches of any size give the same scores; a conversation beyond the context has none."""
    model = load_reward_model(straight)
    talks = [TALK, [*TALK, *TALK], [TALK[0], Message("assistant", "坏" * 200)], [TALK[0], Message("assistant", "")]]
    together, apart = model.scores(talks), [model.scores([talk])[0] for talk in talks]
    assert together[2] is None and apart[2] is None
    assert [x for x in together if x is not None] == pytest.approx([x for x in apart if x is not None], abs=1e-6)


def test_an_adapter_scores_as_its_run_does(adapted: Path, tmp_path: Path) -> None:
    """A LoRA run, whose last evaluation was of the same weights."""
    model = load_reward_model(adapted)
    records = [json.loads(line) for line in write(tmp_path / "p.jsonl", pairs(40)).read_text("utf-8").splitlines()]
    scores = [
        model.scores([[*(Message(**m) for m in r["prompt"]), Message("assistant", r[side])] for r in records])
        for side in ("chosen", "rejected")
    ]
    stored = held_out_results(adapted)["val/all/margin"]
    margins = np.subtract(*np.array(scores, float))
    assert margins.min() < stored < margins.max()


def test_a_run_starts_from_another_reward_model(train: Callable[..., Path], straight: Path, tmp_path: Path) -> None:
    """Its head goes on from where it was; a language model has none."""
    further = train(tmp_path / "run", "--plan.peak_lr=1e-6", init_from=straight)
    torch.testing.assert_close(tensors(further), tensors(straight), rtol=0, atol=1e-4)
    with pytest.raises(UserError, match="has neither"):
        load_reward_model(tensors_of_a_language_model(tmp_path, straight))


def tensors_of_a_language_model(tmp_path: Path, run: Path) -> Path:
    """The directory that the run began with."""
    config = (run / "config.yaml").read_text(encoding="utf-8")
    line = next(line for line in config.splitlines() if line.startswith("init_from:"))
    return Path(line.partition(":")[2].strip())


def test_results_of_pairs_equal_their_definitions() -> None:
    """Sums of parts make the accuracy, the calibration and the rule of length of all."""
    rng = np.random.default_rng(0)
    scores, lengths = rng.normal(size=(200, 2)), rng.integers(1, 9, (200, 2))
    parts = np.sum([pair_sums(scores[i : i + 50], lengths[i : i + 50]) for i in range(0, 200, 50)], 0)
    found = pair_results(parts.tolist())
    margins = scores[:, 0] - scores[:, 1]
    assert found["accuracy"] == pytest.approx((margins > 0).mean())
    assert found["accuracy_stderr"] == pytest.approx((margins > 0).std(ddof=1) / 200**0.5)
    assert found["loss"] == pytest.approx(np.log1p(np.exp(-margins)).mean())
    assert found["longer"] == pytest.approx((np.sign(lengths[:, 0] - lengths[:, 1]) / 2 + 0.5).mean())
    confidence, error = 1 / (1 + np.exp(-np.abs(margins))), 0.0
    for low in np.arange(10) / 20 + 0.5:
        here = (confidence >= low) & (confidence < low + 0.05)
        if here.any():
            error += here.mean() * abs(confidence[here].mean() - (margins[here] > 0).mean())
    assert found["calibration"] == pytest.approx(error)


def test_scores_are_relative_to_a_reference_set(train: Callable[..., Path], tmp_path: Path) -> None:
    """Its answers have mean 0 and spread 1, after a run with two ranks too; the head's own outputs stay as they are."""
    talks = [[Message("user", f"{i} 天"), Message("assistant", "好。" * (1 + i % 4))] for i in range(9)]
    records = [{"messages": [{"role": m.role, "content": m.content} for m in talk]} for talk in talks]
    file = write(tmp_path / "reference.jsonl", records)
    run = train(tmp_path / "run", f"--reference_set={file}", "--save_every=1", ranks=2)
    model = load_reward_model(run)
    scores = np.array(model.scores(talks))
    assert abs(scores.mean()) < 1e-4 and abs(scores.std() - 1) < 1e-4
    raw = np.array([float(value) for value in model.values([model.ids(talk) for talk in talks])])
    np.testing.assert_allclose(raw, scores * model.std + model.mean, atol=1e-5)
    last = read_metrics(run)[-1]
    assert last["val/all/reference/mean"] == pytest.approx(raw.mean(), abs=1e-5)
    with pytest.raises(UserError, match="were not measured on the reference set; choose one of step_00000000"):
        load_reward_model(run / "step_00000003")
