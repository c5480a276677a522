"""Length bucketing: a reordering within blocks that leaves little padding and is the same on every rank."""

import json
import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from babyllm.data.loader import Loader
from babyllm.data.order.length_buckets import ByLength
from babyllm.data.order.mixing import Mixture, Stage
from babyllm.data.order.shuffle import Shuffled
from babyllm.data.row_config import Share
from babyllm.data.rows.arrays import RowArrays
from babyllm.data.rows.windows import Windows
from babyllm.errors import UserError
from babyllm.store.shards import open_tokens


class Lines:
    """Rows of given lengths below 100; each holds its number in the data."""

    def __init__(self, lengths: Any, name: int = 0) -> None:
        self._lengths, self._name = np.asarray(lengths, np.int64), name

    def __len__(self) -> int:
        return len(self._lengths)

    def lengths(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        return self._lengths[indices]

    def rows(self, indices: NDArray[np.int64]) -> RowArrays:
        here = np.arange(100) < self._lengths[indices][:, None]
        number = np.broadcast_to((indices + 1000 * self._name)[:, None], here.shape)
        return RowArrays(
            {"tokens": here * 1, "targets": np.where(here, 1, -100), "number": number}, self._lengths[indices]
        )


def some_lengths(n: int, seed: int = 0) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(1, 100, n)


def order_of(order: Any, begin: int, end: int) -> list[int]:
    numbers: list[int] = order.rows(np.arange(begin, end))["number"][:, 0].tolist()
    return numbers


@given(
    n=st.integers(1, 70), global_batch=st.integers(1, 9), batches=st.integers(1, 7), stages=st.sets(st.integers(1, 150))
)
def test_every_row_comes_once(n: int, global_batch: int, batches: int, stages: set[int]) -> None:
    """Every epoch has the rows it would have unsorted, and so has every stretch between two borders."""
    order = Shuffled(Lines(some_lengths(n)), 1)
    borders = [border - border % global_batch for border in stages]
    by_length = ByLength(order, global_batch, 1, borders, batches)
    n_steps = -(-2 * n // global_batch) + 3
    epochs = [epoch * n for epoch in range(2 + n_steps * global_batch // n)]
    # A batch that the border of an epoch cuts is a stretch of its own.
    cuts = sorted({*borders, *(e - e % global_batch for e in epochs), *(e + -e % global_batch for e in epochs)})
    for begin, end in pairwise(cut for cut in cuts if cut <= n_steps * global_batch):
        assert sorted(order_of(by_length, begin, end)) == sorted(order_of(order, begin, end))


def test_batches_are_of_similar_length() -> None:
    """Within a block, the lengths of batches do not overlap, and the batches are not sorted by length."""
    by_length = ByLength(Shuffled(Lines(some_lengths(640)), 1), 10, 1, batches=16)
    lengths = by_length.lengths(np.arange(320)).reshape(2, 16, 10)
    for block in lengths:
        assert (np.diff(block, axis=1) >= 0).all()
        in_order = block[np.argsort(block[:, 0], kind="stable")]
        assert (in_order[:-1, -1] <= in_order[1:, 0]).all()
        assert (np.diff(block[:, 0]) < 0).any() and (np.diff(block[:, 0]) > 0).any()
    assert (by_length.lengths(np.arange(320)) == lengths.reshape(-1)).all()


def test_the_last_epoch_is_whole() -> None:
    """A run of one epoch reads every row, although its last block is not full."""
    rows = Lines(some_lengths(1000))
    by_length = ByLength(Shuffled(rows, 1), 8, 1)
    assert sorted(order_of(by_length, 0, 1000)) == list(range(1000))


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_ranks_share_the_same_batches(world_size: int) -> None:
    """Any number of ranks and micro-batches read the global batches of a single rank."""
    lines = Lines(some_lengths(300))
    expected = ByLength(Shuffled(lines, 1), 8, 1, batches=4)
    for step in range(5):
        found: list[int] = []
        for rank in range(world_size):
            mine = ByLength(Shuffled(lines, 1), 8, 1, batches=4)
            for rows in Share(8, 2, rank, world_size).micro_batches(step * 8):
                found += mine.rows(rows)["number"][:, 0].tolist()
        assert found == order_of(expected, step * 8, step * 8 + 8)


def test_nothing_crosses_a_stage() -> None:
    """A phase has rows of its own domains only, even if it is shorter than a block."""
    domains = {"a": Lines(some_lengths(90, 1), 1), "b": Lines(some_lengths(90, 2), 2)}
    stages = [Stage(0, 100, {"a": 1}), Stage(48, 100, {"b": 1}), Stage(72, 100, {"b": 1, "a": 1})]
    mixture = Mixture(stages, lambda _, domain: domains[domain], 1, 8)
    by_length = ByLength(mixture, 8, 1, [stage.first_row for stage in stages], batches=4)
    assert {number // 1000 for number in order_of(by_length, 0, 48)} == {1}
    assert {number // 1000 for number in order_of(by_length, 48, 72)} == {2}
    assert sorted(order_of(by_length, 48, 72)) == sorted(order_of(mixture, 48, 72))
    lengths = by_length.lengths(np.arange(72, 200))
    assert (by_length.lengths(np.arange(72, 200)) == lengths).all()
    assert by_length.metrics(80) == mixture.metrics(80)


def test_lengths_of_windows(token_dir: Path) -> None:
    """All windows have the same length except the last, which holds the remaining tokens."""
    windows = Windows(open_tokens(token_dir).stream("train"), 64, 2)
    order = Shuffled(windows, 1)
    numbers = np.arange(len(order))
    counted = (order.rows(numbers)["targets"] != -100).sum(axis=1)
    assert (order.lengths(numbers) == counted).all()
    assert (counted != 64).sum() == 1


def loader_of(batches: int, stages: tuple[int, ...] = (), seed: int = 1) -> Loader:
    order = ByLength(Shuffled(Lines(some_lengths(500)), seed), 8, seed, stages, batches)
    return Loader(order, Share(8, 4), seed)


def numbers_of(loader: Loader, steps: int) -> list[list[int]]:
    return [[n for batch in next(loader) for n in batch["number"][:, 0].tolist()] for _ in range(steps)]


@pytest.mark.parametrize("steps", [0, 3, 4, 5, 70])
def test_going_on_is_exact(steps: int) -> None:
    """A loader that resumes in the middle of a block continues with the same rows."""
    straight, resumed = loader_of(4), loader_of(4)
    numbers_of(straight, steps)
    resumed.load_state_dict(json.loads(json.dumps(straight.state_dict())))
    assert numbers_of(resumed, 9) == numbers_of(straight, 9)
    straight.close()
    resumed.close()


def test_rows_are_left_out_whatever_was_read_ahead() -> None:
    """Leaving rows out does not change the rows after them, not even for a loader that resumes there."""
    straight, leaving = loader_of(4), loader_of(4)
    numbers = numbers_of(straight, 20)
    assert numbers_of(leaving, 3) == numbers[:3]
    n = len(numbers[0])
    leaving.leave_out(7 * n)
    resumed = loader_of(4)
    resumed.load_state_dict(json.loads(json.dumps(leaving.state_dict())))
    assert leaving.state_dict()["left_out"] == [[3 * n, 7 * n]]
    assert numbers_of(leaving, 5) == numbers_of(resumed, 5) == numbers[7:12]
    for loader in (straight, leaving, resumed):
        loader.close()


def test_another_size_of_blocks_is_refused() -> None:
    """A position needs the same block size, and the same end of the current block."""
    loader = loader_of(4)
    numbers_of(loader, 6)
    state = loader.state_dict()
    loader.close()
    for other in (loader_of(8), loader_of(4, (56,))):
        with pytest.raises(UserError, match="made with other data"):
            other.load_state_dict(state)
    loader_of(4, (64,)).load_state_dict(state)  # the current block ends there anyway


def padding(order: Any, n_steps: int, global_batch: int, micro_batch: int) -> float:
    lengths = np.concatenate(
        [order.lengths(np.arange(i * global_batch, (i + 1) * global_batch)) for i in range(n_steps)]
    )
    rows = lengths.reshape(-1, micro_batch)
    return 1 - float(rows.sum() / (rows.max(axis=1) * micro_batch).sum())


def test_padding_of_real_conversations() -> None:
    """With the lengths of real chats and instructions, less than a tenth of the padding is left."""
    if not os.environ.get("BABYLLM_DATA"):
        pytest.skip("BABYLLM_DATA names no folder of real data")
    folder = Path(os.environ["BABYLLM_DATA"]) / "sft"
    chats = [json.loads(line) for line in (folder / "sharegpt_zh_1k.jsonl").read_text(encoding="utf-8").splitlines()]
    lengths = [sum(len(turn["value"]) for turn in chat["conversations"]) for chat in chats]
    for file in ("alpaca_zh_demo.json", "alpaca_en_demo.json"):
        records = json.loads((folder / file).read_text(encoding="utf-8"))
        lengths += [sum(len(record[name]) for name in ("instruction", "input", "output")) for record in records]
    order = Shuffled(Lines(np.clip(lengths, 1, 2048)), 1)
    n_steps = len(order) // 32
    unsorted, by_length = (padding(o, n_steps, 32, 8) for o in (order, ByLength(order, 32, 1)))
    print(f"padding: {unsorted:.1%} unsorted, {by_length:.1%} by length")
    assert unsorted > 0.4 and by_length < unsorted / 10
