"""Standard errors over clusters, verdicts and paired tests."""

import math

import numpy as np
import pytest

from babyllm.evaluate.statistics import Estimate, mean_estimate, paired_difference, ratio_estimate, verdict


def clustered(rng: np.random.Generator, n_clusters: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Right and wrong answers whose rate differs by cluster."""
    clusters = np.repeat(np.arange(n_clusters), rng.integers(1, 2 * size, n_clusters))
    rates = rng.beta(2, 2, n_clusters)
    return (rng.random(len(clusters)) < rates[clusters]).astype(float), clusters


@pytest.mark.parametrize("n_clusters", [20, 67])
def test_clustered_errors_equal_a_bootstrap_over_clusters(n_clusters: int) -> None:
    """The error differs from that of 20,000 resamplings of whole clusters by at most 5 %."""
    rng = np.random.default_rng(n_clusters)
    x, clusters = clustered(rng, n_clusters, 40)
    sums, sizes = np.bincount(clusters, x), np.bincount(clusters)
    drawn = rng.integers(0, n_clusters, (20_000, n_clusters))
    means = sums[drawn].sum(1) / sizes[drawn].sum(1)
    assert mean_estimate(x, clusters.tolist()).error == pytest.approx(means.std(), rel=0.05)


def test_items_without_clusters_have_the_usual_error() -> None:
    """Each item its own cluster: standard deviation over the root of n; the error over clusters is another number."""
    x, clusters = clustered(np.random.default_rng(0), 30, 20)
    alone = mean_estimate(x)
    assert alone.value == pytest.approx(x.mean()) and alone.error == pytest.approx(x.std(ddof=1) / math.sqrt(len(x)))
    assert mean_estimate(x, clusters.tolist()).error > 1.5 * alone.error
    pooled = ratio_estimate(x * 3, np.full(len(x), 3.0), clusters.tolist())
    assert pooled.error == pytest.approx(mean_estimate(x, clusters.tolist()).error)


@pytest.mark.parametrize(("n_clusters", "size"), [(None, 200), (20, 10), (54, 5)])
def test_equal_models_differ_at_the_nominal_rate(n_clusters: int | None, size: int) -> None:
    """In 500 comparisons of two models of equal rates, about 5 % have a p-value below 0.05."""
    rng = np.random.default_rng(1)
    n_found = 0
    for _ in range(500):
        clusters = None if n_clusters is None else np.repeat(np.arange(n_clusters), size)
        n = size if clusters is None else len(clusters)
        easy = rng.random(n)  # what both find easy, so that the results are correlated
        lean = np.zeros(n) if clusters is None or n_clusters is None else rng.normal(0, 0.2, n_clusters)[clusters]
        ours, theirs = (((rng.random(n) + easy) / 2 + side * lean > 0.5) for side in (0.5, -0.5))
        n_found += paired_difference(ours, theirs, None if clusters is None else clusters.tolist())[1] < 0.05
    assert 10 <= n_found <= 40  # 25 expected; the binomial distribution has 99.9 % of its mass here


def test_a_verdict_names_what_the_interval_says() -> None:
    """Chance is inside the interval, below it or above it; one cluster says nothing, equal items have no error."""
    assert verdict(Estimate(0.3, 0.01, 1000, 50), 0.25) == "above chance"
    assert verdict(Estimate(0.26, 0.01, 1000, 50), 0.25) == "not distinguished from chance"
    assert verdict(Estimate(0.2, 0.01, 1000, 50), 0.25) == "below chance"
    assert verdict(mean_estimate([1.0, 0.0], ["a", "a"]), 0.25) == "too few to say"
    assert mean_estimate([0.1] * 7).error == 0 and mean_estimate([0.1] * 7).p_value(0.1) == pytest.approx(1, abs=1)
    assert verdict(mean_estimate([1.0] * 5), 0.5) == "above chance"
    assert verdict(mean_estimate([1.0] * 3), 0.5) == "not distinguished from chance"
    assert mean_estimate([0.0] * 40).share_interval == pytest.approx((0, 0.0876), abs=1e-4)
    low, high = Estimate(0.5, 0.1, 10, 2).interval
    assert (low, high) == pytest.approx((0.5 - 1.2706, 0.5 + 1.2706), abs=1e-3)  # Student's t with 1 degree of freedom
