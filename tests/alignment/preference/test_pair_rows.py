"""Rows of pairs and answers, and the order of a curriculum."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from preference_fixtures import ONE, SEQ_LEN, data, pairs, store_of

from babyllm.chat.formats import FormatConfig
from babyllm.chat.load import Supervise, load_template
from babyllm.data.order.curriculum import Curriculum, CurriculumConfig
from babyllm.data.order.shuffle import Rows
from babyllm.data.pair_config import PairConfig
from babyllm.data.pair_data import PairData, difficulties, make_pair_loader, open_pair_data, pair_share
from babyllm.data.rows.arrays import RowArrays
from babyllm.errors import UserError
from babyllm.model.config import ModelConfig
from babyllm.model.cross_entropy import IGNORE
from babyllm.prepare.conversations import prepare_conversations
from babyllm.runtime import Runtime
from babyllm.schedule import Plan
from babyllm.store.pair_store import PairStore
from babyllm.tokenizer import Tokenizer

__all__ = ["data"]


def test_rows_hold_both_sides(data: PairData) -> None:
    """A row is the inputs of both answers, padded, with the last answer and its end token as targets."""
    rows = data.rows("val")
    found = rows.rows(np.arange(len(rows)))
    first = data.store.span("val").start
    assert found["tokens"].shape == found["targets"].shape == (len(rows), 2, SEQ_LEN)
    assert found["margins"].dtype == np.float32 and found["numbers"].tolist() == [[i] for i in range(len(rows))]
    assert found.units["pair"].tolist() == [1] * len(rows) and found.lengths is not None
    assert (rows.lengths(np.arange(len(rows))) == found.lengths.max(axis=1)).all()
    for i in range(len(rows)):
        assert found["margins"][i, 0] == np.float32(data.store.labels["margin"][first + i])
        for side in (0, 1):
            ids, turns = data.store.chats.conversation(2 * (first + i) + side)
            n = len(ids) - 1
            assert found.lengths[i, side] == n and found["tokens"][i, side, :n].tolist() == ids[:-1].tolist()
            assert (found["targets"][i, side, n:] == IGNORE).all()
            assert found["targets"][i, side, :n].tolist() == np.where(turns[1:] > 0, ids[1:], IGNORE).tolist()
    template_end = data.store.chats.conversation(2 * first)[0][data.store.chats.conversation(2 * first)[1] > 0][-1]
    ends = [side[side != IGNORE][-1] for row in found["targets"] for side in row]
    assert set(ends) == {template_end}


def test_rows_of_a_task_keep_their_numbers(data: PairData) -> None:
    """The rows of the tasks are those of the split, and a pair has the same number in all of them."""
    whole = data.rows("train").rows(np.arange(len(data.rows("train"))))
    numbers = []
    for task in data.store.chats.tasks_of("train"):
        rows = data.rows("train", task)
        found = rows.rows(np.arange(len(rows)))
        numbers += found["numbers"][:, 0].tolist()
        assert (found["tokens"] == whole["tokens"][found["numbers"][:, 0]]).all()
    assert numbers == list(range(len(data.rows("train"))))


def test_a_pair_without_margin_has_none_to_add(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """Its margin is 0 in the rows, and unknown in the store."""
    store = store_of(tmp_path, [{"prompt": "q", "chosen": "a", "rejected": "b"}], tokenizer, held_out=0)
    assert np.isnan(store.labels["margin"]).all()
    assert PairData(store, SEQ_LEN).rows("train").rows(np.array([0]))["margins"].tolist() == [[0.0]]


def test_rows_of_answers(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """Single answers are rows of their own with their verdict, and numbers by split."""
    store = store_of(tmp_path, pairs(12), tokenizer, kind="answers")
    rows = PairData(store, SEQ_LEN).rows("val")
    found = rows.rows(np.arange(len(rows)))
    assert found["tokens"].shape == (len(rows), SEQ_LEN) and found["desirable"].shape == (len(rows), 1)
    assert set(found["desirable"][:, 0].tolist()) == {0.0, 1.0} and found.units["answer"].sum() == len(rows)
    assert found["numbers"][:, 0].tolist() == list(range(len(rows)))
    assert (rows.lengths(np.arange(len(rows))) == found.lengths).all()


# ---- loader


@pytest.fixture
def opened(data: PairData, tokenizer: Tokenizer, runtime: Runtime) -> PairData:
    directory, sha256 = data.store.chats.directory, data.store.chats.manifest.tokenizer_sha256
    return open_pair_data(PairConfig(seq_len=SEQ_LEN), directory, sha256, runtime)


CONFIG = PairConfig(seq_len=SEQ_LEN, global_batch=8, micro_batch=4)


@pytest.mark.parametrize("by", [None, "difficulty", "margin", "length"])
def test_a_run_resumes_where_it_was(opened: PairData, runtime: Runtime, tiny: Any, by: Any) -> None:
    """A loader that continues from a stored position returns the same pairs, with and without a curriculum."""
    config = replace(CONFIG, curriculum=CurriculumConfig(by=by))

    def loader() -> Any:
        return make_pair_loader(config, opened, tiny(), runtime, Plan(steps=12))[0]

    straight = loader()
    seen = [[batch["numbers"].tolist() for batch in next(straight)] for _ in range(12)]
    stopped = loader()
    for _ in range(5):
        next(stopped)
    resumed = loader()
    resumed.load_state_dict(stopped.state_dict())
    assert [[batch["numbers"].tolist() for batch in next(resumed)] for _ in range(7)] == seen[5:]
    if by:
        other = replace(config, curriculum=CurriculumConfig(by=by, end=0.9))
        changed, _ = make_pair_loader(other, opened, tiny(), runtime, Plan(steps=12))
        with pytest.raises(UserError, match="curriculum"):
            changed.load_state_dict(stopped.state_dict())


def test_batches_are_trimmed_and_counted(opened: PairData, runtime: Runtime, tiny: Any) -> None:
    """A batch has the width of its longest side, and counts pairs."""
    loader, plan = make_pair_loader(CONFIG, opened, tiny(), runtime, Plan(epochs=1))
    assert plan.n_steps == -(-len(opened.rows("train")) // 8)
    for batch in next(loader):
        assert batch.units["pair"] == 4 and batch["tokens"].shape[:2] == (4, 2)
        assert batch["tokens"].shape[2] == -(-int(batch["lengths"].max()) // 8) * 8
        assert batch["margins"].shape == batch["numbers"].shape == (4, 1)


def test_a_mixture_of_tasks(opened: PairData, runtime: Runtime, tiny: Any) -> None:
    """Tasks are mixed by weight; a curriculum beside it is refused."""
    config = replace(CONFIG, mix={"questions": 1.0})
    loader, _ = make_pair_loader(config, opened, tiny(), runtime, Plan(steps=3))
    span, first = opened.store.span("train", "questions"), opened.store.span("train").start
    for batch in next(loader):
        assert all(number + first in span for number in batch["numbers"][:, 0].tolist())
    with pytest.raises(UserError, match="cannot be combined with a mixture"):
        config = replace(config, curriculum=CurriculumConfig(by="length"))
        make_pair_loader(config, opened, tiny(), runtime, Plan(steps=3))


def test_a_pair_counts_as_two_sequences(runtime: Runtime, tiny: Any) -> None:
    """A micro-batch that is not given has half as many pairs as it would have sequences."""
    config = PairConfig(seq_len=512, global_batch=64)
    model: ModelConfig = tiny()
    assert (
        pair_share(config, model, runtime).micro_batch * 2 == pair_share(config, model, runtime, "answers").micro_batch
    )


def test_a_store_of_another_tokenizer_is_refused(data: PairData, runtime: Runtime) -> None:
    """The error names the directory."""
    with pytest.raises(UserError, match="made with another tokenizer"):
        open_pair_data(CONFIG, data.store.chats.directory, "0" * 64, runtime)


def test_damaged_labels_are_found(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """A changed margin is an error that names the file, as a missing one is."""
    store_of(tmp_path, pairs(6), tokenizer)
    file = tmp_path / "store" / "pairs.bin"
    content = file.read_bytes()
    file.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    with pytest.raises(UserError, match=r"pairs\.bin"):
        PairStore.open(tmp_path / "store")
    file.unlink()
    with pytest.raises(UserError, match=r"pairs\.bin"):
        PairStore.open(tmp_path / "store")


def test_conversations_are_not_taken_for_pairs(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """A store of conversations is refused by name."""
    file = tmp_path / "chats.jsonl"
    file.write_text('{"prompt": "q", "completion": "a"}\n', encoding="utf-8")
    template = load_template("chatml", tokenizer)
    settings: dict[str, Any] = {"seq_len": SEQ_LEN, "supervise": Supervise(), "held_out": 0, "work": ONE}
    prepare_conversations([file], tmp_path / "store", template, FormatConfig(), **settings)
    with pytest.raises(UserError, match="holds conversations, not pairs"):
        PairStore.open(tmp_path / "store")


# ---- curriculum


class Numbered:
    """Rows that are their own index."""

    def __init__(self, n: int) -> None:
        self._n = n

    def __len__(self) -> int:
        return self._n

    def rows(self, indices: Any) -> RowArrays:
        return RowArrays({"targets": indices[:, None]})

    def lengths(self, indices: Any) -> Any:
        return indices % 7 + 1


SHARES = [(0.0, 0.5, 20), (0.1, 0.9, 7), (0.5, 0.5, 0), (0.0, 1.0, 13), (0.8, 0.2, 10)]


def order(n: int, start: float, end: float, until: int, batch: int, hard: float = 0.5) -> Curriculum:
    rows: Rows = Numbered(n)
    config = CurriculumConfig(by="difficulty", hard=hard, start=start, end=end)
    return Curriculum(rows, np.arange(n) / n, config, until, batch, seed=3)


@pytest.mark.parametrize(("start", "end", "until"), SHARES)
@pytest.mark.parametrize("batch", [1, 8, 30])
def test_the_share_of_hard_rows_is_linear_in_the_step(start: float, end: float, until: int, batch: int) -> None:
    """Up to every step, the number of hard rows is the sum of the formula's shares, to the nearest row."""
    curriculum = order(50, start, end, until, batch)
    wanted = 0.0
    for step in range(30):
        share = end if step >= until else start + (end - start) * step / until
        assert curriculum.share(step) == pytest.approx(share)
        read = curriculum.rows(np.arange(step * batch, (step + 1) * batch))["targets"][:, 0]
        n_hard = int((read >= 25).sum())
        assert n_hard == curriculum.is_hard(np.arange(step * batch, (step + 1) * batch)).sum()
        assert abs(n_hard - share * batch) <= 1
        wanted += share * batch
        assert abs(curriculum.hard_before(step + 1) - wanted) <= 0.5 + 1e-9


def test_easy_and_hard_rows_each_come_in_epochs() -> None:
    """After every step no easy row has been read twice more than another, and no hard one either."""
    curriculum = order(40, 0.0, 0.5, 8, 8, hard=0.25)
    times = np.zeros(40, int)
    for step in range(60):
        read = curriculum.rows(np.arange(step * 8, (step + 1) * 8))["targets"][:, 0]
        times += np.bincount(read, minlength=40)
        assert all(np.ptp(part) <= 1 for part in (times[:30], times[30:]))
    assert times.min() > 3


def test_a_curriculum_is_a_pure_function_of_the_row() -> None:
    """Rows read one by one, or in any order, are those read together; their lengths are known without them."""
    curriculum = order(50, 0.1, 0.7, 9, 8)
    together = curriculum.rows(np.arange(200))["targets"]
    mixed = np.random.default_rng(0).permutation(200)
    assert (curriculum.rows(mixed)["targets"] == together[mixed]).all()
    assert (curriculum.lengths(mixed) == together[mixed, 0] % 7 + 1).all()
    found = curriculum.metrics(80)
    assert found["hard_share"] == pytest.approx(0.7) and found["epoch/hard"] == curriculum.hard_before(10) / 25


def test_difficulties(data: PairData) -> None:
    """Difficulty is the field, a small margin, or answers of similar length."""
    span = data.store.span("train")
    labels = data.store.labels[span.start : span.stop]
    assert (difficulties(data.store, "difficulty") == labels["difficulty"].astype(float)).all()
    assert (np.argsort(difficulties(data.store, "margin")) == np.argsort(-labels["margin"])).all()
    lengths = data.store.answer_lengths("train")
    rows = data.rows("train").rows(np.arange(len(span)))
    assert (lengths == (rows["targets"] != IGNORE).sum(axis=2)).all()
    ratio = difficulties(data.store, "length")
    assert ratio[lengths[:, 0] == lengths[:, 1]].tolist() == [1.0] * int((lengths[:, 0] == lengths[:, 1]).sum())
    assert ((ratio > 0) & (ratio <= 1)).all()


def test_a_curriculum_needs_its_numbers(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """The error counts the pairs without a difficulty and names what works without it."""
    records = [{name: value for name, value in record.items() if name != "difficulty"} for record in pairs(6)]
    store = store_of(tmp_path, records, tokenizer, held_out=0)
    with pytest.raises(UserError, match=r"6 of 6 pairs have no difficulty.*curriculum.by=length"):
        difficulties(store, "difficulty")
    with pytest.raises(UserError, match=r"data.curriculum.hard=0.0: makes 0 of 50 pairs hard"):
        order(50, 0, 1, 5, 8, hard=0.0)
