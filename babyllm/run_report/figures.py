"""The figures of a run's report: curves as SVG paths with axes, and the values that are shown under the pointer.

Metrics of a run and of others, reference curves -> Figure(series) -> Drawing(paths, ticks, values)
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

from babyllm.pipeline.html_page import N_COLOURS, even_ticks, short_number
from babyllm.run_report.metric_curves import Metrics, Point

WIDTH, HEIGHT = 560, 262
LEFT, RIGHT, TOP, BOTTOM = 66, 14, 12, 28  # margins in units of the SVG
DASHES = ("", "7 4", "2 4", "9 3 2 3")
"""Strokes of the series of one colour, so that colours alone never tell series apart."""
KINDS = ("bpb", "loss", "accuracy", "reward")
"""Results on held-out data that have a figure of their own, by the end of their names."""
NAME = 160
"""Characters that are shown of a name."""
MAX_SERIES = 14
"""Largest number of series in a figure; the others are in the tables."""
FEW = 40
"""Curves of fewer points are shown from their first one on."""
HELD_OUT, KL = "val/", "rollout/answer_kl"


@dataclass(frozen=True)
class Series:
    """A curve of a figure.

    Attributes:
        name: name in the legend.
        points: its points, by rising step.
        kind: `noisy` is drawn smoothed over its range, `exact` as it is, `marked` with a mark at each point,
            `reference` smoothed in grey.
    """

    name: str
    points: Sequence[Point]
    kind: str = "noisy"


@dataclass(frozen=True)
class Figure:
    """Curves over the steps on one pair of axes."""

    title: str
    series: Sequence[Series]


class DrawnSeries(NamedTuple):
    """A curve in SVG coordinates: line, area of its range, marks (x, y)."""

    name: str
    colour: str
    dash: str
    line: str
    area: str
    marks: list[tuple[float, float]]
    is_reference: bool


class Drawing(NamedTuple):
    """A figure in SVG coordinates; each tick has a position and a label, and `values` is JSON for the pointer."""

    title: str
    series: list[DrawnSeries]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    values: str


def main_figures(
    metrics: Metrics, others: Mapping[str, Metrics], references: Mapping[str, Sequence[Series]]
) -> list[Figure]:
    """The figures that every report begins with: loss or reward, held-out results, rate, gradient norm, speed.

    Args:
        metrics: metrics of the run.
        others: metrics of other runs, by their names.
        references: curves to draw in grey beside those of a name in metrics.jsonl, by that name.
    """
    curves = metrics.curves
    main = "rollout/reward" if "rollout/reward" in curves else "loss"
    found = [Figure(main, [*_of_runs(main, metrics, others), *references.get(main, ())])]
    for kind in KINDS:
        names = [name for name in curves if name.startswith(HELD_OUT) and name.split("/")[-1] == kind]
        domains = [name for name in names if name != f"{HELD_OUT}all/{kind}"][:MAX_SERIES]
        whole = f"{HELD_OUT}all/{kind}"
        series = [Series("all", curves[whole], "marked")] if whole in names else []
        series += [Series(name[len(HELD_OUT) : -len(kind) - 1], curves[name], "marked") for name in domains]
        of_others = [(label, other.curves.get(whole if whole in names else "")) for label, other in others.items()]
        series += [Series(f"{label} (all)", points, "marked") for label, points in of_others if points]
        found.append(Figure(f"held-out {kind}", [*series, *references.get(whole, ())] if series else []))
    found += [Figure(name, _of_runs(name, metrics, others)) for name in (KL, "lr", "grad_norm", "tokens_per_s")]
    return [figure for figure in found if any(len(series.points) > 1 for series in figure.series)]


def other_figures(metrics: Metrics) -> list[Figure]:
    """The figures of all other numbers that change, one each."""
    shown = {"loss", "rollout/reward", KL, "lr", "grad_norm", "tokens_per_s", "tokens"}
    names = [
        name
        for name, points in metrics.curves.items()
        if name not in shown
        and len(points) > 1
        and not (name.startswith(HELD_OUT) and name.split("/")[-1] in KINDS)
        and not name.endswith("_stderr")
        and max(point.high for point in points) > min(point.low for point in points)
    ]
    return [Figure(name, [Series(name, metrics.curves[name])]) for name in names[:60]]


def _of_runs(name: str, metrics: Metrics, others: Mapping[str, Metrics]) -> list[Series]:
    """The curve of a name in this run and in the others."""
    found = [(name, metrics.curves.get(name)), *((label, other.curves.get(name)) for label, other in others.items())]
    kind = "exact" if name == "lr" else "noisy"
    return [Series(label, points, kind) for label, points in found if points]


def draw(figure: Figure, label: Callable[[str], str]) -> Drawing:
    """A figure in SVG coordinates.

    Args:
        figure: figure with at least one point.
        label: function that returns a name in the language of the page.
    """
    lines = [_smooth(series) for series in figure.series]
    steps = [point.step for series in figure.series for point in series.points]
    first, last = min(steps), max(steps)
    low, high = _range(figure.series, lines, first + 0.03 * (last - first))
    first, last = first - 0.01 * (last - first), last + 0.01 * (last - first)  # marks at the ends are shown whole

    def x(step: float) -> float:
        return LEFT + (step - first) / ((last - first) or 1) * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        inside = min(max(value, low - (high - low)), high + (high - low))  # the frame cuts off what lies outside
        return HEIGHT - BOTTOM - (inside - low) / (high - low) * (HEIGHT - TOP - BOTTOM)

    drawn, number = [], 1
    for series, line in zip(figure.series, lines, strict=True):
        is_reference = series.kind == "reference"
        path = "M" + "L".join(f"{x(p.step):.1f},{y(v):.1f}" for p, v in zip(series.points, line, strict=True))
        has_marks = series.kind == "marked" or len(series.points) == 1
        marks = [(x(p.step), y(p.mean)) for p in series.points] if has_marks else []
        area = _area(series.points, x, y) if series.kind == "noisy" and len(figure.series) < 4 else ""
        colour, dash = (0, "4 4") if is_reference else (1 + (number - 1) % (N_COLOURS - 1), _dash(number))
        number += not is_reference
        drawn.append(DrawnSeries(label(series.name)[:NAME], f"var(--c{colour})", dash, path, area, marks, is_reference))
    return Drawing(
        label(figure.title)[:NAME],
        drawn,
        [(x(v), short_number(v)) for v in even_ticks(first, last, 5) if x(v) < WIDTH - RIGHT - 44],  # the unit is there
        [(y(v), _short(v)) for v in even_ticks(low, high, 5, is_count=False)],
        _values(figure.series, lines, [first, last, low, high]),
    )


def _dash(number: int) -> str:
    return DASHES[(number - 1) // (N_COLOURS - 1) % len(DASHES)]


def _short(value: float) -> str:
    """A tick of an axis, without the rounding error of its sum."""
    return short_number(float(f"{value:.6g}"))


def _smooth(series: Series) -> list[float]:
    """The values to draw as a line: for noisy ones the moving average over 2 %, at least five points, without lag."""
    values = [point.mean for point in series.points]
    if series.kind in ("marked", "exact") or len(values) < 12:
        return values
    half = max(2, len(values) // 100)
    sums = list(accumulate(values, initial=0.0))
    spans = [(max(0, i - half), min(len(values), i + half + 1)) for i in range(len(values))]
    return [(sums[end] - sums[start]) / (end - start) for start, end in spans]


def _area(points: Sequence[Point], x: Callable[[float], float], y: Callable[[float], float]) -> str:
    """The outline between the largest and the least values of a curve."""
    if len(points) < 12:
        return ""
    if all(point.low == point.high for point in points):  # a point for each record: the record itself
        return "M" + "L".join(f"{x(p.step):.1f},{y(p.mean):.1f}" for p in points)
    there = "L".join(f"{x(p.step):.1f},{y(p.high):.1f}" for p in points)
    back = "L".join(f"{x(p.step):.1f},{y(p.low):.1f}" for p in reversed(points))
    return f"M{there}L{back}Z"


def _range(series: Sequence[Series], lines: Sequence[Sequence[float]], settled: float) -> tuple[float, float]:
    """The lowest and highest value of the axis, without the first part of the lines, whose fall would hide the rest."""
    late = [
        value
        for one, line in zip(series, lines, strict=True)
        for point, value in zip(one.points, line, strict=True)
        if point.step >= settled or len(line) < FEW
    ]
    values = sorted(late or [value for line in lines for value in line])
    low, high = values[0], values[min(len(values) - 1, math.ceil(0.995 * len(values)))]
    margin = 0.06 * (high - low) or abs(high) * 0.05 or 1.0
    bottom = low - margin
    return (0.0 if low >= 0 > bottom or 0 <= low < 0.2 * high else bottom), high + margin


def _values(series: Sequence[Series], lines: Sequence[Sequence[float]], axes: Sequence[float]) -> str:
    """The axes and the values of each curve as JSON that cannot end a script element."""
    curves = [
        [[_round(point.step) for point in one.points], [_round(value) for value in line]]
        for one, line in zip(series, lines, strict=True)
    ]
    return json.dumps({"axes": axes, "curves": curves}, separators=(",", ":")).replace("<", "\\u003c")


def _round(value: float) -> float:
    """Five significant digits, and whole numbers as such."""
    rounded = float(f"{value:.5g}") if abs(value) < 1e5 else round(value)
    return int(rounded) if rounded == int(rounded) else rounded
