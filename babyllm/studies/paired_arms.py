"""The arms of a study against its control: differences paired by seed, with Student's t and Holm's correction.

values by arm and seed -> mean and standard error of each arm
                       -> differences arm - control of the seeds that both have -> interval, p -> Holm -> verdict

Runs of one seed begin with the same weights and read the same data as far as their flags allow, so the difference of a
pair varies less than each of the two. With n pairs the interval has n - 1 degrees of freedom.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from babyllm.evaluate.statistics import CONFIDENCE, Estimate, mean_estimate

CONTROL, NO_DIFFERENCE, ONE_SEED, MISSING = "control", "no difference shown", "one seed: cannot say", "no result"
UNEQUAL = 0.01
"""The share by which the tokens of arms may differ without a warning."""


@dataclass(frozen=True)
class ArmComparison:
    """An arm beside the control, by one result.

    Attributes:
        arm: name of the arm.
        mean: mean of the result over the arm's seeds; None without any.
        difference: mean of arm - control over the seeds that both have; None for the control, or without such seeds.
        p: two-sided p-value of no difference; NaN where there is no interval.
        p_holm: the same after Holm's correction for all arms that are compared with the control.
        verdict: conclusion in words.
    """

    arm: str
    mean: Estimate | None
    difference: Estimate | None = None
    p: float = math.nan
    p_holm: float = math.nan
    verdict: str = CONTROL

    @property
    def smallest(self) -> float:
        """The smallest difference that these seeds could have shown: half the interval; NaN without one."""
        if self.difference is None:
            return math.nan
        low, high = self.difference.interval
        return (high - low) / 2


def compare_arms(values: Mapping[str, Mapping[int, float]], control: str, is_lower_better: bool) -> list[ArmComparison]:
    """Each arm beside the control, in the order of `values`.

    Args:
        values: the result of each run by arm and seed; a run without one is absent.
        control: name of the control.
        is_lower_better: whether a lower value is better.
    """
    differences: dict[str, Estimate | None] = {}
    for arm, of_arm in values.items():
        pairs = [of_arm[seed] - values[control][seed] for seed in of_arm if seed in values[control]]
        differences[arm] = mean_estimate(pairs) if pairs and arm != control else None
    p_values = {arm: each.p_value(0.0) if each else math.nan for arm, each in differences.items()}
    corrected = dict(zip(p_values, holm(list(p_values.values())), strict=True))
    return [
        ArmComparison(
            arm,
            mean_estimate(list(of_arm.values())) if of_arm else None,
            differences[arm],
            p_values[arm],
            corrected[arm],
            CONTROL if arm == control else _verdict(differences[arm], corrected[arm], is_lower_better),
        )
        for arm, of_arm in values.items()
    ]


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values of several tests after the correction of Holm (1979); NaN, which is not a test, stays NaN.

    The k-th smallest of m is multiplied by m - k + 1; none becomes smaller than one before it, or larger than 1. If
    all hypotheses hold, the probability that any corrected value is below 0.05 is at most 0.05.
    """
    order = sorted((i for i, p in enumerate(p_values) if not math.isnan(p)), key=lambda i: p_values[i])
    corrected, largest = [math.nan] * len(p_values), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, p_values[i] * (len(order) - rank)))
        corrected[i] = largest
    return corrected


def _verdict(difference: Estimate | None, p_holm: float, is_lower_better: bool) -> str:
    if difference is None:
        return MISSING
    low, high = difference.interval
    if math.isnan(low):
        return ONE_SEED
    if low <= 0 <= high:
        return NO_DIFFERENCE
    word = "better" if (high < 0) == is_lower_better else "worse"
    # A single comparison's interval leaves 0 out; among several, one in twenty does so by chance.
    return word if p_holm < 1 - CONFIDENCE else f"{NO_DIFFERENCE} among several ({word} alone)"


def unequal_tokens(tokens: Mapping[str, float], control: str) -> list[str]:
    """The arms whose mean number of tokens differs from the control's by more than `UNEQUAL`."""
    reference = tokens.get(control)
    if not reference:
        return []
    return [arm for arm, n in tokens.items() if abs(n - reference) > UNEQUAL * reference]
