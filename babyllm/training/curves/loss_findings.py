"""What is unusual about a run's curve, found by statistics over windows.

records -> Curve, RunFacts -> findings: severity, text, page

Numbers are compared over many records, with their noise, so that a single bad batch is not reported; single steps are
judged by `babyllm.training.watch`. The limits are far from what runs that go well show.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np

from babyllm.runtime.machine import Language
from babyllm.training.curves.curve_facts import Curve, RunFacts
from babyllm.training.curves.finding_texts import in_words, page_of
from babyllm.training.curves.trends import BLOCKS, Values, levels, trend

Severity = Literal["warning", "note"]
LEAST = 2 * BLOCKS  # records of a window
INITIAL_STD = 0.02  # of the weights that a new model begins with
_POLICIES = ("ppo", "grpo")
# A level is above another by more than noise if it is so by this many standard errors, and by this share or so much.
_ERRORS, _SHARE, _NATS = 5.0, 0.05, 0.05
# A window shows no progress if the loss has fallen by less than this share of it, by the 95 % interval of its trend
# (Student's t with 10 degrees of freedom).
_STILL, _T95 = 0.01, 2.23
_MOVED = 0.1  # share of its first value by which a loss must fall to have moved
_START_NATS, _FEW = 0.5, 4
_LEAST_BPB, _LEAST_NATS = 0.3, 0.02  # below these in the first pass, something leaks
_GAP, _GAP_NATS = 0.25, 0.3
_RISE = 0.02  # of a held-out loss, in nats and as a share
_GROWTH, _ALWAYS, _MANY_TIMES = 4.0, 0.95, 10.0


class Finding(NamedTuple):
    """One thing that is unusual.

    Attributes:
        severity: "warning" where the run is likely to be wrong, "note" where it may be meant so.
        text: what was found, with its numbers, and what to do, in one sentence.
        page: path of the page that explains it, with the anchor, from the root of the project.
        kind: name of the finding, which is the page's anchor.
        step: last step that was looked at.
    """

    severity: Severity
    text: str
    page: str
    kind: str
    step: int


class _Found(NamedTuple):
    severity: Severity
    kind: str
    values: dict[str, float]


def findings(curve: Curve, facts: RunFacts, language: Language = "en") -> list[Finding]:
    """The findings on a curve, those that are likely to be wrong first; at most one of each kind.

    The loss of a policy says little, so PPO and GRPO have none; they have alarms of their own (`alarms`).
    """
    if facts.stage in _POLICIES:
        return []
    steps = curve.column("step")
    last = int(steps[-1]) if len(steps) else 0
    found = sorted(_found(curve, facts), key=lambda one: one.severity != "warning")
    return [
        Finding(one.severity, in_words(one.kind, one.values, language), page_of(one.kind, language), one.kind, last)
        for one in found
    ]


def _found(curve: Curve, facts: RunFacts) -> Iterator[_Found]:
    steps, loss, rates = (curve.column(name) for name in ("step", "loss", "lr"))
    yield from _start(curve, facts)
    yield from _small_rate(facts)
    is_logged = np.isfinite(loss) & np.isfinite(rates)
    steps, loss, rates, norms = (
        steps[is_logged],
        loss[is_logged],
        rates[is_logged],
        curve.column("grad_norm")[is_logged],
    )
    warm = _warm(rates)
    has_risen = False
    if not facts.data_change:
        for one in _rises(steps, loss):
            has_risen = True
            yield one
        if not has_risen:
            yield from _sits(steps, loss, rates, warm)
    yield from _gradient(steps[warm:], norms[warm:], loss[warm:], facts.clip_norm)
    yield from _against_held_out(curve, facts)


def _warm(rates: Values) -> int:
    """The number of records of the warmup: those before the learning rate has first come near its highest value."""
    return int(np.argmax(rates >= 0.99 * rates.max())) if len(rates) else 0


def _start(curve: Curve, facts: RunFacts) -> Iterator[_Found]:
    """A new model predicts nearly uniformly: ln V, and half the variance of its scores, std^2 d, is added."""
    if not facts.is_fresh or not facts.vocab_size or facts.has_other_losses:
        return
    expected = math.log(facts.vocab_size) + facts.d_model * INITIAL_STD**2 / 2
    first, loss = (one[np.isfinite(one)] for one in (curve.column("first_loss"), curve.column("loss")))
    if len(first) and abs(first[0] - expected) > _START_NATS:
        values = {"first": float(first[0]), "expected": expected, "vocab": facts.vocab_size}
        yield _Found("warning", "start", values)
    elif len(loss) >= _FEW and loss[-_FEW:].mean() > expected + _START_NATS:
        yield _Found("warning", "above-start", {"now": float(loss[-_FEW:].mean()), "expected": expected})


def _small_rate(facts: RunFacts) -> Iterator[_Found]:
    if facts.is_fresh and facts.n_steps >= 100 and facts.distance < INITIAL_STD:  # false for NaN
        values = {"distance": facts.distance, "std": INITIAL_STD, "n": facts.n_steps}
        yield _Found("warning", "rate-too-low", values)


def _rises(steps: Values, loss: Values) -> Iterator[_Found]:
    """The last stretch of the curve lies above an earlier one."""
    if len(loss) < LEAST:
        return
    length = max(6, len(loss) // BLOCKS)
    means, error = levels(loss, length)
    low, now = int(means.argmin()), float(means[-1])
    lowest = float(means[low])
    if now - lowest > max(_ERRORS * math.sqrt(2) * error, _SHARE * lowest, _NATS):
        first = len(loss) - len(means) * length
        of_low = steps[first + low * length], steps[first + (low + 1) * length - 1]
        values = {"low": lowest, "a": of_low[0], "b": of_low[1], "now": now, "c": steps[-length], "d": steps[-1]}
        yield _Found("warning", "rises", values)


def _sits(steps: Values, loss: Values, rates: Values, warm: int) -> Iterator[_Found]:
    """The loss of the last half has not fallen, though the learning rate was not small."""
    begin = max(warm, len(loss) // 2)
    window = loss[begin:]
    if len(window) < LEAST or rates[begin:].min() < 0.3 * rates.max():
        return
    line = trend(window)
    margin = _T95 * line.error
    if (
        line.level <= 0 or max(margin - line.change, margin / 2) > _STILL * line.level
    ):  # too noisy to say counts as fall
        return
    has_moved = loss[: max(3, len(loss) // 50)].mean() - line.level > _MOVED * line.level
    values = {"level": line.level, "a": steps[begin], "b": steps[-1], "change": line.change, "error": line.error}
    yield _Found("note" if has_moved else "warning", "sits", values | {"lr": float(rates[-1])})


def _gradient(steps: Values, norms: Values, loss: Values, clip: float) -> Iterator[_Found]:
    """Gradients that grow while they are clipped, or that are all far above the limit."""
    known = np.isfinite(norms) & (norms > 0)
    steps, norms, loss = steps[known], norms[known], loss[known]
    half = len(norms) // 2
    if not clip or len(norms) - half < LEAST:
        return
    window = norms[half:]
    line, median = trend(np.log(window)), float(np.median(window[-len(window) // 4 :]))
    falls = trend(loss[half:])
    is_falling = falls.change < 0 and falls.t < -3
    if line.change > math.log(_GROWTH) and line.t > _ERRORS and median > clip and not is_falling:
        values = {"factor": math.exp(line.change), "a": steps[half], "b": steps[-1], "median": median, "clip": clip}
        yield _Found("warning", "rate-too-high", values)
    elif (window > clip).mean() >= _ALWAYS and float(np.median(window)) > _MANY_TIMES * clip:
        share = float((window > clip).mean())
        yield _Found("note", "clipped", {"median": float(np.median(window)), "clip": clip, "share": share})


def _against_held_out(curve: Curve, facts: RunFacts) -> Iterator[_Found]:
    """The training loss compared with what text allows and with the held-out loss, and the latter's own course."""
    steps, loss, epochs = (curve.column(name) for name in ("step", "loss", "epoch"))
    val, bpb = curve.column("val/all/loss"), curve.column("val/all/bpb")
    evaluated, trained = np.flatnonzero(np.isfinite(val) & (steps > 0)), np.flatnonzero(np.isfinite(loss))
    if facts.stage not in ("pretrain", "sft") or len(trained) < 6:
        return
    length = max(6, min(len(trained) // 10, 100))

    def recent(end: int) -> tuple[float, float]:
        """The mean training loss before a record, and the epochs there."""
        near = trained[trained <= end][-length:]
        return float(loss[near].mean()), float(np.nan_to_num(epochs[near].max(), nan=0.0))

    train, epoch = recent(trained[-1])
    both = np.flatnonzero(np.isfinite(val) & np.isfinite(bpb) & (val > 0))
    bits = train * float(bpb[both[-1]] / val[both[-1]]) if len(both) else math.nan
    if epoch <= 1.0 and (train < _LEAST_NATS or bits < _LEAST_BPB):
        yield _Found("warning", "too-low", {"train": train, "bits": bits, "epoch": epoch})
    elif facts.is_comparable and len(evaluated) and (trained <= evaluated[-1]).sum() >= 6:
        yield from _gap(*recent(evaluated[-1]), float(val[evaluated[-1]]), int(steps[evaluated[-1]]))
    yield from _held_out_rises(steps[evaluated], val[evaluated])


def _gap(train: float, epoch: float, held: float, step: int) -> Iterator[_Found]:
    if held - train > max(_GAP * held, _GAP_NATS):
        values = {"train": train, "held": held, "a": step, "epoch": epoch}
        yield _Found("note", "by-heart", values) if epoch > 1.0 else _Found("warning", "below-held-out", values)


def _held_out_rises(steps: Values, val: Values) -> Iterator[_Found]:
    if len(val) < 4:
        return
    low, now = int(val.argmin()), float(val[-1])
    if low < len(val) - 2 and now - val[low] > max(_RISE * now, _RISE):
        yield _Found("warning", "held-out-rises", {"low": float(val[low]), "a": steps[low], "now": now, "b": steps[-1]})
