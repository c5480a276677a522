"""Packing: every conversation comes once, in rows that are nearly full and never too full."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from babyllm.data.rows.packing import pack
from babyllm.errors import UserError


def realistic(n: int, seq_len: int, seed: int = 0) -> NDArray[np.int64]:
    """Lengths like those of chats: many short ones and a long tail, cut at the row length."""
    return np.clip(np.random.default_rng(seed).lognormal(5, 0.9, n).astype(np.int64), 2, seq_len)


def plain_best_fit(lengths: list[int], seq_len: int) -> list[int]:
    """The free space of each row by plain best fit decreasing, one conversation at a time."""
    room: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting = [i for i, left in enumerate(room) if left >= length]
        row = min(fitting, key=lambda i: room[i], default=len(room))
        if row == len(room):
            room.append(seq_len)
        room[row] -= length
    return sorted(room)


@given(lengths=st.lists(st.integers(1, 20), max_size=60), seed=st.integers(0, 5))
def test_best_fit(lengths: list[int], seed: int) -> None:
    """Each conversation comes exactly once, and rows are as full as with plain best fit."""
    rows = pack(np.array(lengths, np.int64), 20, seed)
    assert sorted(rows.values.tolist()) == list(range(len(lengths)))
    members = np.split(rows.values, rows.offsets[1:-1]) if lengths else []
    assert all(len(row) for row in members)
    assert sorted(20 - sum(lengths[i] for i in row) for row in members) == plain_best_fit(lengths, 20)


@pytest.mark.parametrize("seq_len", [512, 2048])
def test_rows_are_full(seq_len: int) -> None:
    """With lengths like those of chats, rows are more than 95 % full."""
    lengths = realistic(2000, seq_len)
    rows = pack(lengths, seq_len, 1)
    assert lengths.sum() > 0.95 * seq_len * (len(rows.offsets) - 1)


def test_the_order_is_a_function_of_the_seed() -> None:
    """The same seed makes the same rows; another seed exchanges conversations of the same length."""
    lengths = realistic(500, 256)
    first, again, other = (pack(lengths, 256, seed) for seed in (1, 1, 2))
    assert (first.values == again.values).all() and (first.offsets == again.offsets).all()
    assert (first.values != other.values).any()
    assert (lengths[first.values] == lengths[other.values]).all()


def test_millions_are_packed_in_seconds() -> None:
    """A million conversations take less than five seconds of processor time."""
    lengths = realistic(1_000_000, 1024)
    begin = time.process_time()
    pack(lengths, 1024, 1)
    assert time.process_time() - begin < 5


def test_a_conversation_that_is_too_long_is_an_error() -> None:
    """A conversation longer than a row is an error rather than a row that is too long."""
    with pytest.raises(UserError, match=r"data\.seq_len=8: a conversation has 9 tokens"):
        pack(np.array([3, 9, 4]), 8, 1)
    assert pack(np.array([3, 8, 4]), 8, 1).offsets.tolist() == [0, 1, 3]
