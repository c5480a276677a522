"""The way from a token stream to the micro-batches of a step: windows, their order, and the share of each rank."""

import itertools
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from babyllm.data.loader import Loader
from babyllm.data.order.shuffle import BLOCK_ROWS, Shuffled, hash_ints, shuffled, shuffled_in_turn
from babyllm.data.row_config import Share
from babyllm.data.rows.arrays import RowArrays
from babyllm.data.rows.windows import Windows
from babyllm.data.token_config import DataConfig
from babyllm.data.token_data import make_loader, open_pretraining_data
from babyllm.errors import UserError
from babyllm.model.cross_entropy import IGNORE
from babyllm.model.options import ModelOptions
from babyllm.runtime import Runtime
from babyllm.schedule import Plan
from babyllm.store.shard_writer import ShardWriter
from babyllm.store.shards import TokenStream, open_tokens

EOS = 2


def stream_of(directory: Path, documents: list[list[int]], shard_tokens: int = 1 << 20) -> TokenStream:
    writer = ShardWriter(directory, 10_000, EOS, "", shard_tokens)
    for ids in documents:
        writer.add(ids, "text", "train", 0)
    writer.finish()
    return open_tokens(directory).stream("train")


class Numbers:
    """Rows that hold their own number; every fifth has one target fewer."""

    def __init__(self, n: int) -> None:
        self.n, self.fails_at = n, -1

    def __len__(self) -> int:
        return self.n

    def rows(self, indices: NDArray[np.int64]) -> RowArrays:
        if self.fails_at in indices:
            self.fails_at = -1
            raise OSError("the disk went away")
        tokens = np.repeat(indices[:, None], 3, axis=1)
        targets = np.where((tokens % 5 == 0) & (np.arange(3) == 2), IGNORE, tokens)
        return RowArrays({"tokens": tokens, "targets": targets})


@contextmanager
def loader_of(
    data: Any, global_batch: int, micro_batch: int = 1, rank: int = 0, world_size: int = 1, **options: Any
) -> Iterator[Loader]:
    seed = options.pop("seed", 1)
    loader = Loader(Shuffled(data, seed), Share(global_batch, micro_batch, rank, world_size), seed, **options)
    yield loader
    loader.close()


def take(loader: Loader, steps: int) -> list[list[int]]:
    """The row numbers of each step."""
    return [[int(row) for batch in micro for row in batch["tokens"][:, 0]] for micro in itertools.islice(loader, steps)]


@pytest.mark.parametrize(("n_tokens", "seq_len"), [(41, 8), (42, 8), (48, 8), (40, 8), (9, 8), (41, 1), (41, 40)])
def test_every_token_but_the_first_is_a_target_once(tmp_path: Path, n_tokens: int, seq_len: int) -> None:
    """In an epoch every token is a target exactly once, predicted from the token before it, the tail included."""
    documents = [[100], [101], [102], [103], list(range(200, 200 + n_tokens - 9))]
    joined = [token for ids in documents for token in [*ids, EOS]]
    windows = Windows(stream_of(tmp_path, documents, 5), seq_len, EOS)
    assert len(joined) == n_tokens
    rows = windows.rows(np.arange(len(windows)))
    assert rows["tokens"].shape == rows["targets"].shape == (len(windows), seq_len)
    assert rows["tokens"].dtype == rows["targets"].dtype == np.int64
    real = rows["targets"] != IGNORE
    assert rows["targets"][real].tolist() == joined[1:]
    assert rows["tokens"][real].tolist() == joined[:-1]
    assert (rows["tokens"][~real] == EOS).all() and real[:, 0].all()


def test_rows_are_what_was_asked_for(tmp_path: Path) -> None:
    """Rows have the requested order and do not depend on the other rows of the request."""
    windows = Windows(stream_of(tmp_path, [[i, i + 1, i + 2] for i in range(10, 100, 3)]), 7, EOS)
    everything = windows.rows(np.arange(len(windows)))
    some = windows.rows(np.array([5, 0, 16, 5]))
    for name, array in some.arrays.items():
        assert (array == everything[name][[5, 0, 16, 5]]).all()


def test_rows_of_masked_documents(tmp_path: Path) -> None:
    """An <eos> opens the document it predicts; positions count from 0 in each document and each row."""
    stream = stream_of(tmp_path, [[5, 6], [7], [8, 9, 10]])
    rows = Windows(stream, 5, EOS, mask_documents=True).rows(np.arange(2))
    assert rows["tokens"].tolist() == [[5, 6, EOS, 7, EOS], [8, 9, 10, EOS, EOS]]
    assert rows["targets"].tolist() == [[6, EOS, 7, EOS, 8], [9, 10, EOS, IGNORE, IGNORE]]
    assert rows["positions"].tolist() == [[0, 1, 0, 1, 0], [0, 1, 2, 0, 0]]
    assert rows["documents"].tolist() == [[0, 0, 1, 1, 2], [0, 0, 0, 1, 2]]


@settings(max_examples=30)
@given(st.lists(st.lists(st.integers(3, 9999), max_size=9), min_size=1, max_size=20), st.integers(1, 12))
def test_masked_documents_hold_no_token_of_another(
    tmp_path_factory: pytest.TempPathFactory, documents: list[list[int]], seq_len: int
) -> None:
    """In a row, tokens with one number are one document: consecutive, <eos> only first, positions counting up."""
    directory = tmp_path_factory.mktemp("documents")
    if sum(len(ids) + 1 for ids in documents) <= seq_len:
        documents = [[7] * seq_len, *documents]
    windows = Windows(stream_of(directory, documents), seq_len, EOS, mask_documents=True)
    rows = windows.rows(np.arange(len(windows)))
    for tokens, positions, numbers in zip(rows["tokens"], rows["positions"], rows["documents"], strict=True):
        for number in np.unique(numbers):
            (here,) = np.nonzero(numbers == number)
            assert (np.diff(here) == 1).all() and positions[here].tolist() == list(range(len(here)))
            assert EOS not in tokens[here][1:] and (here[0] == 0 or tokens[here[0]] == EOS)


def test_data_shorter_than_a_row_is_refused(tmp_path: Path) -> None:
    """Data must fill at least one row."""
    stream = stream_of(tmp_path, [[5] * 9])
    assert len(Windows(stream, 9, EOS)) == 1
    with pytest.raises(UserError, match=r"data\.seq_len=10: the training data holds only 10 tokens"):
        Windows(stream, 10, EOS)


@given(st.integers(1, 3000), st.integers(-(2**63), 2**63 - 1), st.integers(0, 2**40))
def test_the_order_is_a_permutation(n: int, seed: int, epoch: int) -> None:
    """Each row of an epoch comes exactly once, whatever the number of rows."""
    order = shuffled(np.arange(n), n, seed, epoch)
    assert order.dtype == np.int64 and sorted(order.tolist()) == list(range(n))


def test_the_order_of_a_huge_epoch_takes_no_table() -> None:
    """Rows of an epoch of 2**40 are computed one by one, all different, anywhere in the epoch."""
    n = 2**40 + 1
    places = shuffled(np.arange(n - 10_000, n), n, 1, 0)
    assert len(set(places.tolist())) == 10_000 and places.min() >= 0 and places.max() < n
    assert np.histogram(places, 4, (0, n))[0].min() > 2300


@pytest.mark.parametrize("n", [1000, 1024, 4097])
def test_the_order_is_shuffled(n: int) -> None:
    """Hardly any row keeps its place or its neighbour; another seed or epoch has another order."""
    orders = {key: shuffled(np.arange(n), n, *key) for key in [(1, 0), (1, 1), (2, 0), (0, 1)]}
    for order in orders.values():
        assert (order == np.arange(n)).mean() < 0.01 and (np.abs(np.diff(order)) == 1).mean() < 0.01
        assert abs(np.corrcoef(order, np.arange(n))[0, 1]) < 0.1
    for a, b in itertools.combinations(orders.values(), 2):
        assert (a == b).mean() < 0.01 and abs(np.corrcoef(a, b)[0, 1]) < 0.1


def test_rows_asked_for_in_turn_have_the_same_order() -> None:
    """A few rows at a time, across borders of cached blocks and up to the end, have the same order as all at once."""
    n = 2 * BLOCK_ROWS + 5
    order = shuffled(np.arange(n), n, 3, 1)
    for start in (0, BLOCK_ROWS - 2, 2 * BLOCK_ROWS - 1, n - 3):
        rows = np.arange(start, min(n, start + 4))
        assert (shuffled_in_turn(rows, n, 3, 1) == order[rows]).all()


def test_the_order_never_changes() -> None:
    """The order for a (seed, epoch) is the same on every machine and in every version: it equals a recorded one."""
    assert shuffled(np.arange(8), 8, 1, 0).tolist() == [4, 0, 5, 3, 1, 6, 7, 2]
    assert shuffled(np.arange(3), 10**12, 7, 3).tolist() == [947097511583, 557421178564, 322016169296]
    assert hash_ints(1, 0, 0) == 3866941929181508109


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("micro_batch", [1, 2])
def test_the_global_batch_does_not_depend_on_how_it_is_cut(world_size: int, micro_batch: int) -> None:
    """All ranks' micro-batches, joined, are the same rows in the same order for any number of ranks."""
    data = Numbers(37)
    with loader_of(data, 8, 8) as whole:
        expected = take(whole, 12)
    got: list[list[int]] = [[] for _ in expected]
    for rank in range(world_size):
        with loader_of(data, 8, micro_batch, rank, world_size) as loader:
            for step, micro in zip(got, itertools.islice(loader, 12), strict=True):
                assert len(micro) == 8 // world_size // micro_batch, "as many forward passes on every rank"
                assert all(batch["tokens"].shape == (micro_batch, 3) for batch in micro)
                assert all(batch["tokens"].dtype == torch.int64 for batch in micro)
                step += [int(row) for batch in micro for row in batch["tokens"][:, 0]]
    assert got == expected


def test_units_count_the_targets() -> None:
    """A batch says how many of its targets are not ignored."""
    with loader_of(Numbers(25), 5, 5) as loader:
        batches = [micro[0] for micro in itertools.islice(loader, 5)]
    assert [b.units["token"] for b in batches] == [int((b["targets"] != IGNORE).sum()) for b in batches]
    assert sum(b.units["token"] for b in batches) == 25 * 3 - 5


def test_epochs_join_without_a_seam() -> None:
    """A batch may cross into the next epoch; each epoch has every row once, in an order of its own."""
    with loader_of(Numbers(13), 5) as loader:
        rows = list(itertools.chain(*take(loader, 13)))
        assert loader.metrics() == {"epoch/all": 5.0}
    epochs = [rows[i : i + 13] for i in range(0, 65, 13)]
    assert all(Counter(epoch) == Counter(range(13)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 5


def test_a_batch_may_be_larger_than_an_epoch() -> None:
    """Data smaller than one global batch is read more than once per step."""
    with loader_of(Numbers(3), 8) as loader:
        first, second = take(loader, 2)
    assert Counter(first[:6]) == {0: 2, 1: 2, 2: 2} and len(first) == len(second) == 8
    assert Counter(first + second) == Counter({0: 5, 1: 5, 2: 5} | {first[-1]: 5}) + Counter([second[-1]])


@pytest.mark.parametrize("world_size", [1, 4])
def test_the_position_resumes_on_any_number_of_ranks(world_size: int) -> None:
    """A stored position is plain numbers and continues with the next rows, also on another number of ranks."""
    data = Numbers(37)
    with loader_of(data, 8, 2, world_size=2) as loader:
        take(loader, 3)
        state = loader.state_dict()
    assert state == {"consumed_rows": 24, "fingerprint": "", "seed": 1, "rows": 37}
    with loader_of(data, 8, 8) as straight:
        expected = take(straight, 6)[3:]
    got: list[list[int]] = [[], [], []]
    for rank in range(world_size):
        with loader_of(data, 8, 1, rank, world_size) as loader:
            take(loader, 1)
            loader.load_state_dict(state)
            for step, rows in zip(got, take(loader, 3), strict=True):
                step += rows
    assert got == expected


def test_reading_ahead_does_not_move_the_position() -> None:
    """The position counts rows that were returned, not rows that were prefetched."""
    with loader_of(Numbers(100), 4) as loader:
        assert loader.state_dict()["consumed_rows"] == 0
        next(loader)
        assert loader.state_dict()["consumed_rows"] == 4 and loader.metrics() == {"epoch/all": 0.04}


def test_the_reading_thread_ends_with_its_loader() -> None:
    """A loader without references leaves no thread behind."""
    before = set(threading.enumerate())
    loader = Loader(Shuffled(Numbers(100), 1), Share(4, 4), seed=1)
    next(loader)
    (thread,) = set(threading.enumerate()) - before
    del loader
    thread.join(timeout=30)
    assert not thread.is_alive()


def test_a_failed_read_is_raised_and_skips_nothing() -> None:
    """An error while prefetching reaches the caller; the next step returns the rows that failed."""
    data = Numbers(20)
    with loader_of(data, 4) as loader:
        expected = take(loader, 5)
    data.fails_at = expected[2][1]
    with loader_of(data, 4) as loader:
        got = take(loader, 2)
        with pytest.raises(OSError, match="the disk went away"):
            next(loader)
        assert loader.state_dict()["consumed_rows"] == 8
        assert got + take(loader, 3) == expected


@pytest.mark.parametrize(("key", "value"), [("fingerprint", "other"), ("seed", 2), ("rows", 10)])
def test_a_position_in_other_data_is_refused(key: str, value: object) -> None:
    """A position is valid only for the data, the row length and the seed that it was stored with."""
    with loader_of(Numbers(20), 4, fingerprint="mine") as loader:
        with pytest.raises(UserError, match=f"data {key} {value}, now"):
            loader.load_state_dict(loader.state_dict() | {key: value})
        assert loader.state_dict()["consumed_rows"] == 0


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ((10, 1, 0, 4), r"data\.global_batch=10: does not divide over 4 ranks; 8 or 12 would"),
        ((2, 1, 0, 4), r"data\.global_batch=2: does not divide over 4 ranks; 4 or 8 would"),
        ((0, 1, 0, 1), r"data\.global_batch=0"),
        ((-4, 1, 0, 2), r"data\.global_batch=-4"),
        ((24, 5, 0, 2), r"data\.micro_batch=5: does not divide the 12 sequences per rank .*; 4 would"),
        ((24, 0, 0, 2), r"data\.micro_batch=0: .*; 1 would"),
        ((24, -1, 0, 2), r"data\.micro_batch=-1: .*; 1 would"),
        ((4, 8, 0, 1), r"data\.micro_batch=8: .*; 4 would"),
    ],
)
def test_what_does_not_divide_is_refused(numbers: tuple[int, int, int, int], message: str) -> None:
    """Batches that do not divide evenly are refused, and the error names numbers that would."""
    with pytest.raises(UserError, match=message):
        Share(*numbers)


def test_pretraining_data(token_dir: Path, runtime: Runtime) -> None:
    """The section `data` makes a loader whose micro-batch fits, over every row of the training split."""
    config = DataConfig(path=str(token_dir), seq_len=32, global_batch=12, mask_documents=True, verify=True)
    data = open_pretraining_data(config)
    assert data.tokenizer is not None and data.tokens.manifest.vocab_size == 400
    loader, plan = make_loader(config, data, ModelOptions().build(400, 32), runtime, Plan(epochs=2.0))
    assert plan.steps == -(-2 * len(data.windows(32)) // 12)
    (batch,) = next(loader)
    loader.close()
    assert {name: tuple(t.shape) for name, t in batch.tensors.items()} == dict.fromkeys(
        ("tokens", "targets", "positions", "documents"), (12, 32)
    )
    assert loader.state_dict()["fingerprint"] == data.tokens.manifest.fingerprint()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seq_len": 0}, r"data\.seq_len=0: must be at least 1"),
        ({"seq_len": 1_000_000}, r"data\.seq_len=1000000: the training data holds only"),
        ({"path": "nowhere/at/all"}, r"nowhere/at/all: no such file or directory"),
    ],
)
def test_impossible_pretraining_data_is_refused(token_dir: Path, options: dict[str, Any], message: str) -> None:
    """An error names the flag of the section `data` that is not valid."""
    with pytest.raises(UserError, match=message):
        open_pretraining_data(DataConfig(**({"path": str(token_dir)} | options)))


@pytest.mark.parametrize("global_batch", [-8, 0])
def test_a_batch_without_rows_is_refused(token_dir: Path, runtime: Runtime, global_batch: int) -> None:
    """A global batch below 1 is refused, also where babyllm chooses the micro-batch."""
    config = DataConfig(path=str(token_dir), seq_len=32, global_batch=global_batch)
    with pytest.raises(UserError, match=rf"data\.global_batch={global_batch}"):
        make_loader(config, open_pretraining_data(config), ModelOptions().build(400, 32), runtime, Plan())
