"""The one scorer of rows: sums against plain cross-entropy, batches of like length, rows that overlap."""

import numpy as np
import pytest
import torch
from model_fixtures import Tiny, model_of
from torch.nn import functional as F

from babyllm.evaluate.scoring import Row, batches, evaluating, overlapping_rows, row_nats, target_nats
from babyllm.model.transformer import Transformer
from babyllm.runtime import Runtime


@pytest.fixture(scope="module")
def model(tiny: Tiny) -> Transformer:
    return model_of(tiny())


def some_rows(model: Transformer, lengths: list[int]) -> list[Row]:
    """Rows of random ids, about half of them scored."""
    rng = np.random.default_rng(4)
    size = model.config.vocab_size
    return [Row(rng.integers(0, size, n), rng.random(n) < 0.5) for n in lengths]


@pytest.mark.parametrize("batch_tokens", [1, 30, 8192])
def test_nats_of_rows_are_those_of_one_row_at_a_time(model: Transformer, runtime: Runtime, batch_tokens: int) -> None:
    """Whatever the batches are, a row's nats are the cross-entropy of its marked ids given all ids before them."""
    rows = some_rows(model, [9, 2, 30, 17, 2, 30])
    expected = []
    for row in rows:
        logits = model.logits(torch.tensor(row.ids[None, :-1]))[0].double()
        losses = F.cross_entropy(logits, torch.tensor(row.ids[1:]), reduction="none").numpy()
        expected.append(losses[row.is_scored[1:]].sum())
    assert row_nats(model, rows, runtime, batch_tokens=batch_tokens) == pytest.approx(expected, rel=1e-5)
    assert row_nats(model, rows, batch_tokens=batch_tokens).tolist() == (
        row_nats(model, rows, runtime, batch_tokens=batch_tokens).tolist()
    ), "without a runtime the model is read where it is, in float32"


def test_nats_of_a_batch_keep_their_places(model: Transformer) -> None:
    """Nats stand where the targets stand in each row, and are 0 where nothing is scored and in the padding."""
    short, long = some_rows(model, [5, 12])
    nats = target_nats(model, [short, long])
    assert nats.shape == (2, 11) and not nats.requires_grad
    for line, row in zip(nats, (short, long), strict=True):
        assert (line[: len(row.ids) - 1] > 0).tolist() == row.is_scored[1:].tolist()
        assert not line[len(row.ids) - 1 :].any()
    assert row_nats(model, []).tolist() == []


def test_batches_hold_rows_of_like_length() -> None:
    """Rows come the shortest first, each once, in batches of at most so many tokens, padding included."""
    lengths = [7, 3, 100, 3, 8, 50, 1]
    found = list(batches(lengths, 20))
    assert [[lengths[index] for index in batch] for batch in found] == [[1, 3, 3], [7, 8], [50], [100]]
    assert sorted(index for batch in found for index in batch) == list(range(len(lengths)))
    assert list(batches([], 20)) == []


@pytest.mark.parametrize("seq_len", [1, 2, 3, 8, 100])
def test_rows_that_overlap_score_every_id_once(seq_len: int) -> None:
    """Every id but the first is scored in one row; all rows but the first begin with half a row of context."""
    ids = np.arange(41)
    rows = list(overlapping_rows(ids, seq_len))
    assert np.concatenate([row.scored_ids for row in rows]).tolist() == list(range(1, 41))
    assert all(2 <= len(row.ids) <= seq_len + 1 for row in rows)
    assert all((~row.is_scored[1:]).sum() == seq_len // 2 for row in rows[1:])


def test_a_model_goes_back_to_the_mode_it_was_in(model: Transformer) -> None:
    """Within the context a model is in evaluation mode; after an error, too, it is in training again."""
    model.train()
    with pytest.raises(ValueError, match="stop"), evaluating(model):
        assert not model.training
        raise ValueError("stop")
    assert model.training
    model.eval()
