"""KTO: the answers to other prompts that its reference point is read from, and its runs on ranks and resumed."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from dpo_run_fixtures import ADAPTER, LORA, WHOLE, resumed, tensors, train
from preference_fixtures import SEQ_LEN, pairs, store_of
from training_fixtures import Worker

from babyllm.chat.load import Supervise, load_template
from babyllm.chat.messages import Message
from babyllm.data.pair_data import PairData
from babyllm.model.cross_entropy import IGNORE
from babyllm.tokenizer import Tokenizer
from babyllm.training.recording.records import read_metrics

__all__ = ["train"]
KTO = ("--loss.name=kto", "--loss.undesirable_weight=0.1")  # so that other answers become more probable too


# ---- rows


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> PairData:
    """Single answers, two to each of thirty prompts of two tasks, and four to one of them."""
    records = pairs(30)
    records.append(records[4] | {"chosen": "c 好。", "rejected": "d"})
    return PairData(store_of(tmp_path_factory.mktemp("answers"), records, tokenizer, kind="answers"), SEQ_LEN)


def test_the_other_answer_is_to_another_prompt(answers: PairData) -> None:
    """Each answer is the other one of one row, and is never beside its own prompt; own sides are those of answers."""
    plain, rows = answers.rows("train"), answers.mismatched().rows("train")
    numbers = np.arange(len(rows))
    own, both = plain.rows(numbers), rows.rows(numbers)
    for name in ("tokens", "targets"):
        assert both[name].shape == (len(rows), 2, SEQ_LEN) and (both[name][:, 0] == own[name]).all()
    assert (both["desirable"] == own["desirable"]).all() and (both.units["answer"] == 1).all()
    assert both.lengths is not None and (rows.lengths(numbers) == both.lengths.max(1)).all()
    answered = [tuple(targets[targets != IGNORE].tolist()) for targets in own["targets"]]
    others = [tuple(targets[targets != IGNORE].tolist()) for targets in both["targets"][:, 1]]
    assert sorted(others) == sorted(answered)
    first = (own["targets"] != IGNORE).argmax(1)
    prompts = [tuple(tokens[: n + 1].tolist()) for tokens, n in zip(own["tokens"], first, strict=True)]
    for n, prompt, other in zip(first, prompts, others, strict=True):
        to_it = {answer for answer, of in zip(answered, prompts, strict=True) if of == prompt}
        assert other not in to_it and n > 0
    assert (both["tokens"][:, 1, : first.min()] == own["tokens"][:, : first.min()]).all()


def test_the_other_side_is_what_the_template_renders(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """The ids of the prompt with the other answer are those of a conversation of the two."""
    records = [{"prompt": f"{i} 天?", "chosen": f"好 {i}。", "rejected": f"bad {i}"} for i in range(3)]
    store = store_of(tmp_path, records, tokenizer, kind="answers", held_out=0)
    both = PairData(store, SEQ_LEN).mismatched().rows("train").rows(np.arange(6))
    template = load_template("chatml", tokenizer)
    for i, record in enumerate(records):
        other = records[(i + 1) % 3]
        for row, side in ((2 * i, "chosen"), (2 * i + 1, "rejected")):
            talk = [Message("user", str(record["prompt"])), Message("assistant", str(other[side]))]
            rendered = template.render(talk, Supervise("last"))
            n = len(rendered.ids) - 1
            assert both["tokens"][row, 1, :n].tolist() == rendered.ids[:-1].tolist()
            expected = np.where(rendered.turns[1:] > 0, rendered.ids[1:], IGNORE)
            assert both["targets"][row, 1, :n].tolist() == expected.tolist()
            assert (both["targets"][row, 1, n:] == IGNORE).all()


def test_rows_of_a_task_and_of_another_length_have_the_same_others(answers: PairData) -> None:
    """So one table of the reference serves a mixture of tasks and of lengths."""
    whole = answers.mismatched().rows("train").rows(np.arange(len(answers.rows("train"))))
    for task in answers.store.chats.tasks_of("train"):
        rows = answers.mismatched().rows("train", task, SEQ_LEN - 8)
        found = rows.rows(np.arange(len(rows)))
        numbers = found["numbers"][:, 0]
        assert (found["tokens"] == whole["tokens"][numbers, :, : SEQ_LEN - 8]).all()
        assert found.lengths is not None and whole.lengths is not None
        assert (found.lengths == whole.lengths[numbers]).all()


def test_a_long_other_answer_is_cut(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """After a long prompt, to the longest record of its task."""
    records = [
        {"prompt": "天" * 20, "chosen": "a", "rejected": "b"},
        {"prompt": "q", "chosen": "气" * 20, "rejected": "好" * 20},
    ]
    store = store_of(tmp_path, records, tokenizer, kind="answers", held_out=0, seq_len=400)
    both = PairData(store, 400).mismatched().rows("train").rows(np.arange(4))
    assert both.lengths is not None
    longest = both.lengths[:, 0].max()
    assert both.lengths[:, 1].tolist()[:2] == [longest, longest]
    assert ((both["targets"] != IGNORE).sum(2) > 0).all()
    assert (both["targets"][:, :, longest:] == IGNORE).all()


def test_answers_to_one_prompt_have_no_others(tmp_path: Path, train: Callable[..., Path], worker: Worker) -> None:
    """More than half of the answers to one prompt are refused, with what to do."""
    file = tmp_path / "one.jsonl"
    file.write_text('{"prompt": "q", "chosen": "a", "rejected": "b"}\n', encoding="utf-8")
    train(tmp_path / "run", *KTO, f"--data.path={file}", "--data.held_out=0", expects=1)
    assert "2 of 2 answers to train on are to one prompt" in worker.output.read_text()


# ---- runs


@pytest.fixture(scope="module")
def straight(train: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run in micro-batches of two."""
    return train(tmp_path_factory.mktemp("straight") / "run", *KTO)


@pytest.fixture(scope="module")
def adapted(train: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of an adapter, which is switched off for the reference."""
    return train(tmp_path_factory.mktemp("adapted") / "run", *KTO, *LORA)


def points(run: Path) -> list[float]:
    """The reference point of each step."""
    return [float(record["reference_point"] or 0.0) for record in read_metrics(run) if "reference_point" in record]


@pytest.mark.parametrize(
    ("ranks", "micro_batch"), [(1, 4), (2, 1), *(pytest.param(n, 1, marks=pytest.mark.campaign) for n in (1, 4))]
)
def test_ranks_and_micro_batches_are_one(
    train: Callable[..., Path], straight: Path, tmp_path: Path, ranks: int, micro_batch: int
) -> None:
    """Weights after four steps are equal within 1e-5, and each step's reference point, which rises above 0."""
    run = train(tmp_path / "run", *KTO, f"--data.micro_batch={micro_batch}", ranks=ranks)
    torch.testing.assert_close(tensors(run), tensors(straight), rtol=0, atol=1e-5)
    assert points(run) == pytest.approx(points(straight), abs=1e-4)
    assert points(straight)[0] < 1e-4 and points(straight)[-1] > 0.1


@pytest.mark.parametrize("of", ["straight", "adapted"])
def test_a_resumed_run_is_the_straight_one(
    train: Callable[..., Path], request: pytest.FixtureRequest, tmp_path: Path, of: str
) -> None:
    """To the bit: in full, and with an adapter that is switched off for the reference."""
    run, (more, name) = request.getfixturevalue(of), (LORA, ADAPTER) if of == "adapted" else ((), WHOLE)
    copy = resumed(run, tmp_path / "copy", train, *KTO, *more)
    one, other = (tensors(directory, name=name) for directory in (run, copy))
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
    assert points(copy) == points(run)


def test_the_adapter_switched_off_is_the_stored_reference(
    train: Callable[..., Path], adapted: Path, tmp_path: Path
) -> None:
    """The same adapter is learned with a reference that two ranks compute and store."""
    stored = train(tmp_path / "stored", *KTO, "--lora.rank=4", ranks=2)
    torch.testing.assert_close(tensors(stored, name=ADAPTER), tensors(adapted, name=ADAPTER), rtol=0, atol=1e-5)


def test_the_reference_of_another_loss_is_not_taken_for_its_own(
    train: Callable[..., Path], straight: Path, worker: Worker, tmp_path: Path
) -> None:
    """A run that goes on with the loss without a reference point needs a reference of its own."""
    shutil.copytree(straight, tmp_path / "run")
    train(tmp_path / "run", "--loss.name=apo_zero_unpaired", steps=6, expects=1)
    assert "does not hold the reference of these pairs" in worker.output.read_text()
