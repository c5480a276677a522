"""From scores to advantages of tokens: where a score stands, what the divergence costs, what is remembered."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from babyllm.objectives.policy.credit import Credit, Scored
from babyllm.objectives.policy.policy_options import CreditOptions, KlConfig

PLAIN = CreditOptions(lam=1.0, whiten=False)
NO_KL = KlConfig()


@pytest.fixture
def found() -> Scored:
    """Three answers of two, three and one tokens, the second of which was cut off."""
    mask = torch.tensor([[0, 1, 1, 0, 0], [0, 1, 1, 1, 0], [1, 0, 0, 0, 0]]).bool()
    torch.manual_seed(0)
    old = torch.randn(3, 5).double() * mask
    return Scored(
        torch.tensor([2.0, 7.0, -9.0]),
        old,
        (old - 0.5) * mask,
        torch.arange(18.0).view(3, 6).double() / 10,
        mask,
        torch.tensor([False, True, False]),
    )


def test_a_score_stands_at_the_last_token(found: Scored) -> None:
    """Finished answers return their score; one that was cut off the value of the state it has reached, and no score."""
    returns = Credit(PLAIN, NO_KL)(found).returns
    expected = [[0, 2, 2, 0, 0], [0, 1.0, 1.0, 1.0, 0], [-9, 0, 0, 0, 0]]  # values[1, 4] is 1.0
    np.testing.assert_allclose(returns, expected, rtol=1e-6)
    scored = Credit(replace(PLAIN, truncated="score"), NO_KL)(found).returns
    np.testing.assert_allclose(scored[1], [0, 7, 7, 7, 0], rtol=1e-6)


def test_advantages_are_returns_less_values_and_may_be_whitened(found: Scored) -> None:
    """Whitened, they have mean 0 and variance 1 over the tokens of the answers; returns stay."""
    plain, white = (Credit(replace(PLAIN, whiten=is_white), NO_KL)(found) for is_white in (False, True))
    expected = (plain.returns - found.values[:, :-1]) * found.mask
    torch.testing.assert_close(plain.advantages.double(), expected, rtol=1e-6, atol=1e-6)
    chosen = white.advantages[found.mask]
    assert chosen.mean().item() == pytest.approx(0, abs=1e-6) and chosen.var().item() == pytest.approx(1, abs=1e-5)
    torch.testing.assert_close(white.returns, plain.returns)
    assert white.advantages.dtype == white.returns.dtype == torch.float32


def test_each_token_pays_for_its_divergence(found: Scored) -> None:
    """By k1 times the coefficient, 0.5 nats of each token here; what is still to be paid is part of the return."""
    credited = Credit(PLAIN, KlConfig("reward", coefficient=0.2))(found)
    np.testing.assert_allclose(credited.returns[0], [0, 1.8, 1.9, 0, 0], rtol=1e-6)
    assert credited.metrics["answer_kl"] == pytest.approx(0.5 * (2 + 3 + 1) / 3)
    assert credited.metrics["kl_coefficient"] == 0.2
    free = Credit(PLAIN, KlConfig("loss", coefficient=0.2))(found)
    np.testing.assert_allclose(free.returns[0], [0, 2, 2, 0, 0], rtol=1e-6)
    assert "kl_coefficient" not in free.metrics and free.metrics["answer_kl"] == pytest.approx(1.0)


def test_the_coefficient_is_adapted_after_a_rollout(found: Scored) -> None:
    """To a target of half the divergence it grows by 2 %, and the next rollout pays it; its state comes back."""
    credit = Credit(PLAIN, KlConfig("reward", coefficient=0.2, target=0.5))
    assert [credit(found).metrics["kl_coefficient"] for _ in range(2)] == pytest.approx([0.2, 0.204])
    again = Credit(PLAIN, credit.kl)
    again.load_state_dict(json.loads(json.dumps(credit.state_dict())))
    assert again(found).metrics == credit(found).metrics


def test_scores_are_clipped_and_normalised(found: Scored) -> None:
    """Clipped to a size; or brought to the mean and spread of all scores so far, over several rollouts."""
    clipped = Credit(replace(PLAIN, clip_score=5.0), NO_KL)(found)
    assert clipped.returns[2, 0].item() == -5 and clipped.metrics["score"] == pytest.approx(0.0)
    credit, known = Credit(replace(PLAIN, normalise=True, truncated="score"), NO_KL), []
    for shift in (0.0, 3.0, -1.0):
        moved = found._replace(scores=found.scores + shift)
        known += moved.scores.tolist()
        returns = credit(moved).returns
        expected = (moved.scores.numpy() - np.mean(known)) / np.std(known, ddof=1)
        np.testing.assert_allclose([returns[0, 1], returns[1, 1], returns[2, 0]], expected, rtol=1e-5)


def test_metrics_of_a_rollout(found: Scored) -> None:
    """The mean score, the share cut off, and how much of the returns the values explain."""
    metrics = Credit(PLAIN, NO_KL)(found._replace(reference=None)).metrics
    assert set(metrics) == {"score", "truncated", "explained_variance"}
    assert metrics["truncated"] == pytest.approx(1 / 3) and metrics["explained_variance"] < 1
