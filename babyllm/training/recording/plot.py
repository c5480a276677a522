"""The plot of a run: losses, or rewards and divergence, and learning rate over its steps, in loss.png."""

from __future__ import annotations

import fnmatch
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

from babyllm.training.curves.reference_curves import NamedCurve, references_of_run
from babyllm.training.recording.records import read_metrics, write_error

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PLOT_FILE = "loss.png"
REWARD, KL = "rollout/reward", "rollout/answer_kl"
_CJK_FONTS = ("Noto Sans CJK SC", "Noto Sans SC", "WenQuanYi Micro Hei", "Microsoft YaHei", "PingFang SC")


def plot_losses(run_dir: str | os.PathLike[str], reference: Path | None = None, target: Path | None = None) -> Path:
    """Plot the losses and the learning rate of a run over its steps; returns the path of the image.

    A policy's loss says little. Its rewards are drawn instead, with the held-out reward and its standard error, and
    below them the divergence from the reference in nats per answer.

    Args:
        run_dir: directory of the run; `loss` is drawn raw and smoothed, each `val/<domain>/loss` as its own line.
        reference: metrics.jsonl of another run, whose training loss or reward is drawn in grey for comparison; None
            takes the curves that the run's setting `reference_curve` chooses.
        target: file of the image; None writes loss.png in the directory of the run.

    Raises:
        UserError: a metrics.jsonl is missing or damaged, or the image cannot be written.
    """
    from matplotlib.figure import Figure

    run_dir = Path(run_dir)
    records = read_metrics(run_dir)
    target = target or run_dir / PLOT_FILE
    with any_script():
        figure = Figure(figsize=(9, 6.5), dpi=120)  # no pyplot: no global state, no display
        figure.subplots_adjust(left=0.11, right=0.985, bottom=0.075, top=0.95, hspace=0.08)
        name = REWARD if any(REWARD in record for record in records) else "loss"
        below = {KL: "KL, nats"} if any(KL in record for record in records) else {}
        below["lr"] = "learning rate"
        top, *others = figure.subplots(1 + len(below), 1, sharex=True, height_ratios=[4] + [1] * len(below))
        for one in references_of_run(run_dir, str(reference) if reference else None):
            _draw_reference(top, one)
        _draw(top, records, name)
        top.set_title(plain(run_dir.resolve().name))
        for axes, (curve, label) in zip(others, below.items(), strict=True):
            axes.plot(*_curve(records, curve), color="tab:green")
            axes.set_ylabel(label)
        others[-1].set_xlabel("step")
        for axes in (top, *others):
            axes.grid(alpha=0.3)
        try:
            figure.savefig(target)
        except OSError as error:
            raise write_error(target, error) from error
    return target


def _draw_reference(axes: Axes, one: NamedCurve) -> None:
    """Draw a curve in grey, or a single result as a cross."""
    label = plain(one.label + (f" ({one.note})" if one.note else ""))
    if one.is_point:
        axes.plot(one.steps, one.values, color="0.4", marker="x", linestyle="none", label=label)
    else:
        axes.plot(one.steps, _smooth(one.values) if one.is_raw else one.values, color="0.6", label=label)


@contextmanager
def any_script() -> Iterator[None]:
    """Fonts in which matplotlib draws Chinese names too, if the machine has any, while the body runs."""
    import matplotlib
    from matplotlib.font_manager import get_font_names

    # Domains are often named in Chinese, for which matplotlib's default font has no glyphs.
    known_fonts = set(get_font_names())
    fonts = ["DejaVu Sans", *(name for name in _CJK_FONTS if name in known_fonts)]
    with matplotlib.rc_context({"font.family": fonts}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def _draw(axes: Axes, records: list[dict[str, float | None]], name: str) -> None:
    """Draw the training curve of a name, and each held-out curve of the same kind."""
    kind = name.split("/")[-1]
    steps, values = _curve(records, name)
    axes.plot(steps, values, color="tab:blue", alpha=0.35, linewidth=0.8)
    axes.plot(steps, _smooth(values), color="tab:blue", label="train (smoothed)")
    names = {name: None for record in records for name in record if fnmatch.fnmatchcase(name, f"val/*/{kind}")}
    for number, held_out in enumerate(names):
        color, (steps, values) = f"C{1 + number % 9}", _curve(records, held_out)
        axes.plot(steps, values, color=color, marker="o", markersize=3, label=plain(held_out))
        errors = _curve(records, f"{held_out}_stderr")[1] if name == REWARD else []
        if len(errors) == len(values):
            axes.errorbar(steps, values, errors, color=color, linestyle="none")
    axes.set_ylabel(kind)
    axes.legend()


def plain(name: str) -> str:
    """A name as matplotlib shows it unchanged."""
    return name.replace("$", r"\$")  # matplotlib reads text between two dollars as a formula


def _curve(records: list[dict[str, float | None]], name: str) -> tuple[list[float], list[float]]:
    """Return the steps at which `name` has a finite value, and the values."""
    points = [(record["step"], value) for record in records if (value := record.get(name)) is not None]
    return [float(step or 0) for step, _ in points], [value for _, value in points]


def _smooth(values: list[float]) -> list[float]:
    """Return the moving average over 2 % of the curve, at least five points, centred so that it does not lag."""
    half = max(2, len(values) // 100)
    sums = list(accumulate(values, initial=0.0))
    spans = [(max(0, i - half), min(len(values), i + half + 1)) for i in range(len(values))]
    return [(sums[end] - sums[start]) / (end - start) for start, end in spans]
