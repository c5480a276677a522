"""The losses of a reward model, against formulas in NumPy, finite differences and any division of a step."""

from collections import defaultdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from babyllm.data.batch import Batch
from babyllm.model.cross_entropy import IGNORE
from babyllm.objectives.bradley_terry import RewardOptions, reward_loss, whole_answers

PAIRS = (([5, 6, 7, 8, 9], [5, 6, 7, 4]), ([1, 2, 3], [1, 9, 9, 9, 2, 3]), ([4, 4], [4, 5]))
PROMPT = (2, 1, 1)  # ids of each pair's prompt
T = 6


def batch(pairs: range = range(len(PAIRS)), padding: int = 0) -> Batch:
    """Those pairs as rows for prediction; `padding` fills what no answer holds."""
    tokens = torch.full((len(pairs), 2, T), padding)
    targets = torch.full((len(pairs), 2, T), IGNORE)
    for row, i in enumerate(pairs):
        for side, ids in enumerate(PAIRS[i]):
            whole = torch.tensor(ids)
            tokens[row, side, : len(ids) - 1] = whole[:-1]
            targets[row, side, PROMPT[i] - 1 : len(ids) - 1] = whole[PROMPT[i] :]
    margins = torch.tensor([[0.5], [0.0], [1.5]])[list(pairs)]
    return Batch({"tokens": tokens, "targets": targets, "margins": margins}, {"pair": len(pairs)})


class Scores(nn.Module):
    """A number for each token: the sum of those of the ids so far, as a causal model would have it."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.of_id = nn.Parameter(torch.randn(16, dtype=dtype, generator=generator))

    def forward(self, tokens: Tensor) -> Tensor:
        """(N, T) -> (N, T)."""
        return self.of_id[tokens].cumsum(1).sin()


def by_hand(options: RewardOptions, weights: "np.ndarray[tuple[int], np.dtype[np.float64]]") -> float:
    """The summed loss, pair by pair and token by token."""
    total = 0.0
    for (chosen, rejected), margin in zip(PAIRS, (0.5, 0.0, 1.5), strict=True):
        c, r = (np.sin(np.cumsum(weights[list(ids)])) for ids in (chosen, rejected))
        margin = margin if options.use_margin else 0.0
        if options.name == "last":
            at = [(c[-1], r[-1])]
        else:
            n = max(len(c), len(r))
            first = next(t for t in range(n) if chosen[t : t + 1] != rejected[t : t + 1])
            at = [(c[min(t, len(c) - 1)], r[min(t, len(r) - 1)]) for t in range(first, n)]
        total += float(np.mean([np.log1p(np.exp(-(x - y - margin))) for x, y in at]))
        total += options.centre * float((c[-1] + r[-1]) ** 2)
    return total


OPTIONS = [
    RewardOptions(),
    RewardOptions(use_margin=True, centre=0.1),
    RewardOptions(name="divergence"),
    RewardOptions(name="divergence", use_margin=True, centre=0.01),
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("padding", [0, 9])
def test_losses_equal_their_formulas(options: RewardOptions, padding: int) -> None:
    """The sum over pairs is that of plain loops, and what pads a row never counts."""
    model = Scores()
    found = reward_loss(options)(model, batch(padding=padding)).sums["pair"]
    assert float(found.detach()) == pytest.approx(by_hand(options, model.of_id.detach().numpy()), abs=1e-9)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_gradients_equal_finite_differences(options: RewardOptions) -> None:
    """In float64."""
    model = Scores()

    def loss(weights: Tensor) -> Tensor:
        def scored(tokens: Tensor) -> Tensor:
            return weights[tokens].cumsum(1).sin()

        return reward_loss(options)(scored, batch()).sums["pair"]  # type: ignore[arg-type]

    assert torch.autograd.gradcheck(loss, (model.of_id,))


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_step_may_be_divided_in_any_way(options: RewardOptions) -> None:
    """Micro-batches of one pair add up to the loss and the metrics of all."""
    model, loss = Scores(), reward_loss(options)
    whole = loss(model, batch())
    parts = [loss(model, batch(range(i, i + 1))) for i in range(len(PAIRS))]
    torch.testing.assert_close(sum(part.sums["pair"] for part in parts), whole.sums["pair"])
    for name, (value, n) in whole.metrics.items():
        torch.testing.assert_close(sum(part.metrics[name][0] for part in parts), value)
        assert sum(float(part.metrics[name][1]) for part in parts) == float(n)


def test_scores_are_read_at_the_end_token() -> None:
    """The end token is the last target; rows that go on after it, as ChatML's do, end there too."""
    targets = torch.tensor([[IGNORE, 7, 8, IGNORE], [IGNORE, IGNORE, 5, 6]])
    tokens = torch.tensor([[3, 4, 7, 8], [3, 4, 4, 5]])
    ids, lengths = whole_answers(tokens, targets)
    assert lengths.tolist() == [4, 5]
    assert ids[0, :4].tolist() == [3, 4, 7, 8] and ids[1].tolist() == [3, 4, 4, 5, 6]


def test_equal_scores_are_right_half_of_the_time() -> None:
    """A model that knows nothing has an accuracy of one half, not of nought."""
    model = Scores()
    nn.init.zeros_(model.of_id)
    right, n = reward_loss(RewardOptions())(model, batch()).metrics["accuracy"]
    assert float(right) / float(n) == 0.5


@pytest.mark.trl
@pytest.mark.parametrize("options", OPTIONS[:2], ids=str)
def test_losses_and_gradients_equal_those_of_trl(options: RewardOptions) -> None:
    """RewardTrainer's own method, with the same scores as its model's output."""
    trainer = pytest.importorskip("trl").RewardTrainer
    ours, theirs = Scores(), Scores()
    given = batch()
    ids, lengths = whole_answers(*(given[name].transpose(0, 1).flatten(0, 1) for name in ("tokens", "targets")))

    def as_transformers(**_: object) -> SimpleNamespace:
        scores = theirs(ids).gather(1, lengths.unsqueeze(1) - 1)
        return SimpleNamespace(logits=scores)

    itself = SimpleNamespace(
        model=SimpleNamespace(training=False),
        args=SimpleNamespace(center_rewards_coefficient=options.centre or None),
        accelerator=SimpleNamespace(gather=lambda x: x, gather_for_metrics=lambda x: x),
        _metrics={"eval": defaultdict(list)},
        _total_train_tokens=0,
    )
    margins = {"margin": given["margins"].squeeze(1)} if options.use_margin else {}
    expected = trainer.compute_loss(itself, as_transformers, dict(margins))
    expected.backward()
    found = reward_loss(options)(ours, given).sums["pair"] / len(PAIRS)
    found.backward()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(ours.of_id.grad, theirs.of_id.grad, rtol=0, atol=1e-5)
