"""What is found on curves of each kind, and that curves of runs that go well have no findings."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from babyllm.__main__ import STAGES
from babyllm.config import to_dict
from babyllm.studies.run_values import configuration
from babyllm.training.curves.curve_facts import Curve, RunFacts, stage_of
from babyllm.training.curves.finding_texts import KINDS, in_words, page_of
from babyllm.training.curves.loss_findings import Finding, findings
from babyllm.training.curves.loss_review import LossReview
from babyllm.training.curves.trends import levels, trend

ROOT = Path(__file__).resolve().parents[2]
N = 400
FACTS = RunFacts("pretrain", True, 4096, 128, 1_262_720, 1.0, distance=3.0, n_steps=10 * N)
Array = NDArray[np.float64]
T: Array = np.arange(1.0, N + 1)
POWER: Array = 2 + 6 * T**-0.35  # the usual course: a power of the step
DECAYED: Array = np.minimum(1, T / 20) * 3e-3 * (1 - 0.98 * T / N)


def records(
    loss: Array, *, rate: Array | float = 1e-3, norm: Array | float = 0.8, val: Array | None = None, epochs: float = 1.5
) -> list[dict[str, float]]:
    """Records of every tenth step; with `val`, evaluations of every 500th."""
    rates, norms = np.broadcast_to(rate, N), np.broadcast_to(norm, N)
    rows = []
    for i in range(len(loss)):
        row = {"step": 10.0 * (i + 1), "loss": loss[i], "lr": rates[i], "grad_norm": norms[i]}
        row |= {"epoch/all": epochs * (i + 1) / N, "tokens": 1e4 * (i + 1)}
        if val is not None and i % 50 == 49:
            row |= {"val/all/loss": val[i], "val/all/bpb": val[i] / 3}
        rows.append(row)
    return rows


def noise(seed: int, size: float = 0.08) -> Array:
    return np.random.default_rng(seed).normal(0, size, N)


def found(rows: list[dict[str, float]], facts: RunFacts = FACTS) -> dict[str, Finding]:
    return {one.kind: one for one in findings(Curve(list(rows)), facts)}


@pytest.mark.parametrize("size", [0.02, 0.1, 0.4])
def test_runs_that_go_well_have_no_findings(size: float) -> None:
    """At no time of a falling curve, with a decaying rate and changing gradients, is anything reported."""
    for seed in range(15):
        norms = np.exp(np.random.default_rng(seed).normal(-0.3, 0.4, N))
        rows = records(POWER + noise(seed, size), rate=DECAYED, norm=norms, val=POWER + 0.05)
        review = LossReview(FACTS)
        assert [line for row in rows for line in review.add(row)] == []


def test_a_fine_tuning_run_that_is_noisy_and_soon_flat_has_no_warning() -> None:
    """Answers of unlike length make a loss noisy; its rate decays, so a flat end is not reported."""
    facts = RunFacts("sft", False, 4096, 128, 1_262_720, 1.0, is_comparable=False)
    for seed in range(15):
        loss = 0.7 + 5 * np.exp(-T / 8) + np.abs(noise(seed, 0.25))
        assert found(records(loss, rate=DECAYED), facts) == {}


CASES: dict[str, Callable[[], list[dict[str, float]]]] = {
    "rises": lambda: records(POWER + noise(1) + np.maximum(0, T - 200) * 0.004),
    "sits": lambda: records(7.5 + noise(1)),
    "rate-too-high": lambda: records(4 + noise(1), norm=np.exp(noise(2, 0.3) + T / 60), rate=DECAYED),
    "clipped": lambda: records(POWER + noise(1), norm=np.exp(noise(2, 0.3) + 3)),
    "too-low": lambda: records(8 * np.exp(-T / 15) + 0.002, epochs=0.9),
    "below-held-out": lambda: records(POWER / 2 + noise(1), val=POWER, epochs=0.9),
    "by-heart": lambda: records(POWER / 2 + noise(1), val=POWER, epochs=9.0),
    "held-out-rises": lambda: records(POWER + noise(1), rate=DECAYED, val=POWER + np.maximum(0, T - 150) * 0.002),
}


@pytest.mark.parametrize("kind", CASES)
def test_each_kind_is_found(kind: str) -> None:
    """A curve made of one fault has that finding, with its page, and no finding of a fault it lacks."""
    got = found(CASES[kind]())
    assert kind in got and got[kind].page.endswith(f"#{kind}")
    assert set(got) - {kind} <= {"sits", "by-heart"}


def test_a_jump_is_a_rise_though_the_loss_falls_again() -> None:
    """What counts is the level reached before, not the slope at the end."""
    loss = POWER + noise(1) + np.where(T > 300, 1.5 * np.exp(-(T - 300) / 200), 0)
    assert "rises" in found(records(loss))


def test_a_loss_that_sits_where_it_began_is_a_warning_and_one_that_came_down_a_note() -> None:
    """The first has not learned; the second may have learned what the model can."""
    assert found(records(7.5 + noise(1)))["sits"].severity == "warning"
    assert found(records(2 + 6 * np.exp(-T / 20) + noise(1)))["sits"].severity == "note"


def test_the_start_of_a_new_model_is_near_the_logarithm_of_its_vocabulary() -> None:
    """ln 4096 = 8.32; a model that begins with trained weights, or has a second loss, may begin anywhere."""
    rows = records(POWER + noise(1), rate=DECAYED)
    rows[0]["first_loss"] = math.log(4096) + 0.1
    assert found(rows) == {}
    rows[0]["first_loss"] = 10.9
    assert "10.90; 8.34 was expected" in found(rows)["start"].text
    assert found(rows, RunFacts("sft", False, 4096, 128)) == {}
    assert found(rows, RunFacts("pretrain", True, 4096, 128, has_other_losses=True)) == {}


def test_a_loss_above_that_of_a_new_model_is_found_within_a_few_records() -> None:
    """Long before there are windows to compare; the loss may come down again later."""
    loss = np.array([8.3, 9.0, 20.0, 30.0, 12.0, 8.0, 7.0])
    assert "the loss is 17.75, above the 8.34" in found(records(loss[:5]))["above-start"].text
    review = LossReview(FACTS)
    assert len([line for row in records(loss) for line in review.add(row)]) == 1


def test_a_rate_that_cannot_move_the_weights_is_found_at_once() -> None:
    """The sum of all rates bounds how far AdamW moves a weight; a short trial is not judged."""
    rows, slow = records(POWER)[:1], RunFacts("pretrain", True, 4096, 128, distance=1e-3, n_steps=1000)
    assert "no weight can move more than 0.001" in found(rows, slow)["rate-too-low"].text
    assert found(rows, RunFacts("pretrain", True, 4096, 128, distance=1e-3, n_steps=10)) == {}


def test_data_that_become_harder_may_make_the_loss_rise() -> None:
    """With a curriculum or phases, neither a rise nor a plateau is a finding."""
    assert found(CASES["rises"](), RunFacts("pretrain", data_change=True)) == {}


def test_a_policy_has_no_findings_on_its_loss() -> None:
    """PPO and GRPO have alarms of their own."""
    assert found(CASES["rises"](), RunFacts("grpo")) == {}


def test_a_finding_is_reported_once_and_not_after_a_resume() -> None:
    """The review of a resumed run knows what was reported before."""
    rows = CASES["sits"]()
    review = LossReview(FACTS)
    lines = [line for row in rows[:300] for line in review.add(row)]
    assert len(lines) == 1 and lines[0].startswith("warning: the loss sits at 7.")
    assert lines[0].endswith("; see docs/en/troubleshooting/loss.md#sits")
    resumed = LossReview(FACTS, rows[:300])
    assert [line for row in rows[300:] for line in resumed.add(row)] == []


def test_missing_numbers_are_left_out() -> None:
    """Losses and norms that were not finite, null in the file, neither fail nor count."""
    rows: list[dict[str, Any]] = list(records(POWER + noise(1), rate=DECAYED))
    for i in range(0, N, 7):
        rows[i] = rows[i] | {"loss": None, "grad_norm": None}
    assert findings(Curve(list(rows)), FACTS) == []
    assert findings(Curve(), FACTS) == []


def test_records_of_one_step_are_one() -> None:
    """A step is logged and then evaluated; the fuller record takes the place of the first."""
    curve = Curve([{"step": 1, "loss": 2.0}, {"step": 1, "loss": 2.0, "val/all/loss": 3.0}])
    assert len(curve) == 1 and curve.column("val/all/loss").tolist() == [3.0]


def test_a_trend_has_the_error_of_its_noise() -> None:
    """The line of a straight slope with noise is within a few standard errors of it; without a slope t is small."""
    straight = trend(np.linspace(0, -1, N) + noise(3, 0.1))
    assert abs(straight.change + 1) < 4 * straight.error and straight.t < -10
    assert max(abs(trend(noise(seed)).t) for seed in range(20)) < 5
    means, error = levels(np.repeat([1.0, 3.0], 8) + noise(4, 0.1)[:16], 8)
    assert means == pytest.approx([1, 3], abs=0.1) and 0 < error < 0.3


def test_every_stage_is_known_by_its_sections() -> None:
    """The default configuration of each command that trains is of its own stage."""
    assert {stage: stage_of(to_dict(configuration(stage)())) for stage in STAGES} == {stage: stage for stage in STAGES}


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_page_has_an_anchor_for_every_finding(language: str) -> None:
    """Each finding is a sentence in both languages, and its link leads to a place of the page."""
    for kind in KINDS:
        file, _, anchor = page_of(kind, language).partition("#")
        assert f'<a id="{anchor}"></a>' in (ROOT / file).read_text(encoding="utf-8")
        names = "first expected vocab n distance std low a b now c d level change error lr factor median clip share "
        numbers = dict.fromkeys(f"{names} train bits epoch held".split(), 1.0)
        assert ("损失" in (text := in_words(kind, numbers, language)) or "学习率" in text or "梯度" in text) == (
            language == "zh"
        )
