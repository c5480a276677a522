"""Classifiers from texts with labels to probabilities, through the script: ranks, resuming, transformers, bad data."""

import csv
import json
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from training_fixtures import Worker

from babyllm.data.batch import Batch
from babyllm.data.labelling.label_config import LabelConfig
from babyllm.data.labelling.label_data import ids_of_texts, read_label_data
from babyllm.errors import UserError
from babyllm.evaluate.label_results import label_results, label_sums
from babyllm.interop.huggingface import save_model
from babyllm.model.config import ModelConfig
from babyllm.model.cross_entropy import IGNORE
from babyllm.model.heads import WithHead
from babyllm.model.transformer import Transformer
from babyllm.objectives.classification import classification_loss
from babyllm.reward_model import load_reward_model
from babyllm.run_report.run_record import read_run_record
from babyllm.tokenizer import Tokenizer
from babyllm.training.recording.records import read_metrics

DEVICE = ("--runtime.device=cpu", "--runtime.dtype=float32", "--runtime.threads=1")
LORA = ("--lora.rank=4", "--lora.dropout=0.1")
LABELS = ("bad", "fine", "good")
SEQ_LEN, CONTEXT = 64, 96


def records(n: int) -> list[dict[str, str]]:
    """Texts whose last character decides the label."""
    rng, ends = random.Random(0), dict(zip(LABELS, "坏中好", strict=True))
    labels = [rng.choice(LABELS) for _ in range(n)]
    return [{"text": "".join(rng.choices("今天我们去公园", k=rng.randint(1, 9))) + ends[x], "label": x} for x in labels]


def write(file: Path, rows: list[dict[str, str]]) -> Path:
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def train(
    worker: Worker, tokenizer: Tokenizer, tiny: Callable[..., ModelConfig], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """Runs train_classifier.py in a directory and returns it."""
    base = tmp_path_factory.mktemp("base")
    torch.manual_seed(1)
    save_model(base, Transformer(tiny(max_seq_len=CONTEXT)), tokenizer)
    file = write(tmp_path_factory.mktemp("texts") / "texts.jsonl", records(120))

    def trained(run_dir: Path, *more: str, ranks: int = 1) -> Path:
        settings = (f"--init_from={base}", f"--data.path={file}", f"--run_dir={run_dir}", f"--data.seq_len={SEQ_LEN}")
        sizes = ("--data.held_out=30", "--data.global_batch=8", "--data.micro_batch=2", "--keep=9")
        steps = ("--plan.steps=4", "--plan.peak_lr=0.01", "--save_every=2", "--eval_every=2")
        arguments = [*settings, *sizes, *steps, *DEVICE, *more]
        worker.run("script", ranks=ranks, arguments=arguments, name="train_classifier.py")
        return run_dir

    return trained


@pytest.fixture(scope="module")
def straight(train: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; not to be changed."""
    return train(tmp_path_factory.mktemp("straight") / "run")


def tensors(run: Path, step: int = 4, name: str = "model.safetensors") -> dict[str, torch.Tensor]:
    return load_file(run / f"step_{step:08d}" / name)


@pytest.mark.parametrize(("ranks", "micro_batch"), [(2, 1), pytest.param(4, 1, marks=pytest.mark.campaign)])
def test_ranks_are_one_with_the_whole_batch(
    train: Callable[..., Path], straight: Path, tmp_path: Path, ranks: int, micro_batch: int
) -> None:
    """Held-out results after four steps, within 1e-5; weights, within a thousandth of the way they can move."""
    run = train(tmp_path / "run", f"--data.micro_batch={micro_batch}", ranks=ranks)
    # Adam divides a gradient by its own size: where it is nearly 0, the order of a sum is seen in the step.
    torch.testing.assert_close(tensors(run), tensors(straight), rtol=0, atol=1e-3 * 4 * 0.01)
    last = [next(r for r in reversed(read_metrics(each)) if "val/all/macro_f1" in r) for each in (run, straight)]
    assert last[0]["val/all/loss"] == pytest.approx(last[1]["val/all/loss"], abs=1e-5)
    assert last[0]["val/all/macro_f1"] == last[1]["val/all/macro_f1"]


@pytest.mark.parametrize("more", [(), LORA], ids=["full", "lora"])
def test_a_resumed_run_is_the_straight_one(
    train: Callable[..., Path], straight: Path, tmp_path: Path, more: tuple[str, ...]
) -> None:
    """To the bit, in full and with LoRA; the head is trained in both."""
    run, copy = train(tmp_path / "run", *more) if more else straight, tmp_path / "copy"
    shutil.copytree(run, copy)
    shutil.rmtree(copy / "step_00000004")
    (copy / "latest").write_text("step_00000002\n", encoding="utf-8")
    train(copy, *more)
    name = "adapter_model.safetensors" if more else "model.safetensors"
    one, other = tensors(run, name=name), tensors(copy, name=name)
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
    before = tensors(run, 2, name)
    assert any(not torch.equal(before[key], one[key]) for key in one if "score" in key)
    found = load_reward_model(run)
    assert found.model.labels == LABELS
    (data,) = read_run_record(run).data_sets
    assert (data.records, sum(data.train.values()), sum(data.val.values())) == (120, 90, 30)
    assert data.train.keys() == data.val.keys() == set(LABELS)
    # A text is cut where training cuts it, though the base reads longer ones.
    assert found.model.config.max_seq_len == SEQ_LEN < CONTEXT
    text = records(1)[0]["text"] * SEQ_LEN
    assert found.label_probabilities([text]) == found.label_probabilities([f"{text}好"])


def test_a_classifier_learns_what_tells_labels_apart(train: Callable[..., Path], tmp_path: Path) -> None:
    """A few dozen steps are enough for a label that the last character decides; probabilities add up to 1."""
    model = load_reward_model(train(tmp_path / "run", "--plan.steps=60", "--eval_every=0", "--save_every=0"))
    found = model.label_probabilities([row["text"] for row in records(120)])
    right = [max(p, key=lambda name: p[name]) == row["label"] for p, row in zip(found, records(120), strict=True)]
    assert sum(right) > 100
    assert all(sum(each.values()) == pytest.approx(1) for each in found)


def test_transformers_has_the_same_logits(straight: Path) -> None:
    """AutoModelForSequenceClassification on a step, within 1e-5, with the labels' names."""
    transformers = pytest.importorskip("transformers")
    step = straight / "step_00000004"
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(step).eval()
    ours = load_reward_model(step)
    ids = ids_of_texts(["今天去公园"], ours.tokenizer, 64)
    with torch.no_grad():
        logits = theirs.score(theirs.model(torch.tensor([ids]))[0])[0, -1]
    value = ours.values([ids])[0]
    assert value is not None
    torch.testing.assert_close(value, logits, rtol=0, atol=1e-5)
    assert tuple(theirs.config.id2label.values()) == LABELS


def test_the_loss_is_the_cross_entropy_of_last_tokens(tiny: Callable[..., ModelConfig]) -> None:
    """NumPy's, whatever stands in the padding and however a batch is split."""
    torch.manual_seed(0)
    model = WithHead(Transformer(tiny()), LABELS).eval()
    lengths, labels = [3, 7, 5], [2, 0, 1]
    tokens, targets = torch.randint(5, 50, (3, 8)), torch.full((3, 8), IGNORE)
    targets[range(3), [n - 1 for n in lengths]] = torch.tensor(labels)

    def loss(rows: slice) -> float:
        batch = Batch({"tokens": tokens[rows], "targets": targets[rows]}, {"text": len(tokens[rows])})
        return classification_loss(model, batch).sums["text"].item()

    whole = loss(slice(None))
    logits = [model(tokens[i : i + 1, :n])[0, -1].detach().double().numpy() for i, n in enumerate(lengths)]
    expected = sum(np.log(np.exp(z).sum()) - z[label] for z, label in zip(logits, labels, strict=True))
    assert whole == pytest.approx(expected, rel=1e-5)
    assert sum(loss(slice(i, i + 1)) for i in range(3)) == pytest.approx(whole, rel=1e-5)
    for i, n in enumerate(lengths):
        tokens[i, n:] = 1
    assert loss(slice(None)) == pytest.approx(whole, rel=1e-6)


def test_results_equal_their_definitions() -> None:
    """Loss, accuracy, F1 and the most frequent label, from sums of parts."""
    rng = np.random.default_rng(0)
    labels, logits = rng.choice(3, 90, p=[0.6, 0.3, 0.1]), rng.normal(size=(90, 3))
    parts = np.sum([label_sums(labels[i : i + 30], logits[i : i + 30]) for i in range(0, 90, 30)], 0)
    found, chosen = label_results(parts.tolist()), logits.argmax(1)
    assert found["accuracy"] == pytest.approx((chosen == labels).mean())
    assert found["majority"] == pytest.approx((labels == 0).mean())
    f1 = [2 * ((chosen == k) & (labels == k)).sum() / ((chosen == k).sum() + (labels == k).sum()) for k in range(3)]
    assert found["macro_f1"] == pytest.approx(np.mean(f1))
    nats = np.log(np.exp(logits).sum(1)) - logits[np.arange(90), labels]
    assert found["loss"] == pytest.approx(nats.mean())


def test_pairs_of_texts_are_read_from_tables(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """A CSV file of two sentences and a number; whole numbers are labels in their order."""
    with (tmp_path / "pairs.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["sentence1", "sentence2", "label"])
        table.writerows([f"one {i}", f"two {i}", (2, 10)[i % 2]] for i in range(20))
    config = LabelConfig(seq_len=64, path=str(tmp_path), held_out=4)
    data = read_label_data(config, tokenizer)
    assert (data.labels, len(data.train), len(data.val)) == (("2", "10"), 16, 4)
    row = data.train.rows(np.array([0]))
    n = int(data.train.lengths(np.array([0]))[0])
    assert tokenizer.eos_id in row["tokens"][0, 1 : n - 1] and row["tokens"][0, n - 1] == tokenizer.eos_id
    assert row["targets"][0, n - 1] in (0, 1) and (row["targets"] != IGNORE).sum() == 1
    short = read_label_data(replace(config, seq_len=8), tokenizer)
    assert short.n_cut == 20 and short.fingerprint != data.fingerprint


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([{"text": "a", "label": "x"}] * 9, {"held_out": 0}, "have the label 'x'"),
        ([{"body": "a", "label": "x"}] * 9, {}, "name it with --data.text"),
        ([{"text": "a"}] * 9, {}, "no label in field 'label'"),
        ([{"text": f"{i}", "label": "xy"[i % 2]} for i in range(9)], {"held_out": 0}, "no text is held out"),
    ],
    ids=["one label", "no text", "no label", "nothing held out"],
)
def test_data_of_which_nothing_can_be_learned_is_refused(
    rows: list[dict[str, str]], options: dict[str, int], message: str, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """In one line that says what to do."""
    with pytest.raises(UserError, match=message):
        read_label_data(LabelConfig(path=str(write(tmp_path / "x.jsonl", rows)), **options), tokenizer)
