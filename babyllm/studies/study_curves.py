"""The curves of a study in one image: each result over the steps, a line for each arm, a thin one for each run."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from babyllm.studies.planned_runs import PlannedRun
from babyllm.studies.run_results import curve
from babyllm.training.recording.plot import any_script, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CURVES_FILE = "curves.png"
_N_COLOURS = 10
Curve = Sequence[tuple[int, float]]


def plot_study(runs: Sequence[PlannedRun], results: Sequence[str], target: Path) -> None:
    """Draw the curves of all runs.

    Args:
        runs: the finished runs.
        results: names of the results, each drawn on axes of its own.
        target: file of the image.

    Raises:
        UserError: the records of a run are damaged.
        OSError: the image cannot be written.
    """
    from matplotlib.figure import Figure

    with any_script():
        figure = Figure(figsize=(9, 4.5 * len(results)), dpi=120, layout="constrained")
        every: list[Axes] = list(figure.subplots(len(results), 1, squeeze=False)[:, 0])
        for axes, name in zip(every, results, strict=True):
            curves: dict[str, list[Curve]] = defaultdict(list)
            for run in runs:
                curves[run.arm].append(curve(run.directory, name))
            _draw(axes, curves)
            axes.set_ylabel(plain(f"{name} on held-out data"))
            axes.set_xlabel("step")
            axes.grid(alpha=0.3)
        figure.savefig(target)


def _draw(axes: Axes, curves: Mapping[str, Sequence[Curve]]) -> None:
    for number, (arm, of_arm) in enumerate(curves.items()):
        colour = f"C{number % _N_COLOURS}"
        for one in of_arm if len(of_arm) > 1 else []:
            axes.plot([step for step, _ in one], [value for _, value in one], color=colour, alpha=0.3, linewidth=0.8)
        mean = mean_curve(of_arm)
        axes.plot(
            [step for step, _ in mean],
            [value for _, value in mean],
            color=colour,
            label=plain(arm),
            linestyle="-" if number < _N_COLOURS else "--",
            marker="o",
            markersize=3,
        )
    axes.legend()


def mean_curve(curves: Sequence[Curve]) -> list[tuple[int, float]]:
    """The mean over several curves at each step that all of them have."""
    values: dict[int, list[float]] = defaultdict(list)
    for one in curves:
        for step, value in one:
            values[step].append(value)
    return [
        (step, math.fsum(found) / len(found)) for step, found in sorted(values.items()) if len(found) == len(curves)
    ]
