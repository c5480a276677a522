"""What a test of learning rates has found: a table, a suggestion with its reason and limits, a picture."""

from __future__ import annotations

from pathlib import Path

from babyllm.training.curves.rate_range import DIVERGED, RateCurve
from babyllm.training.recording.records import write_error

_ROWS = 12


def report_rates(curve: RateCurve, picture: Path, peak_lr: float, stop_reason: str | None) -> None:
    """Print what a test has found, and draw it; the arguments are those of `rate_lines` and `draw_rates`."""
    draw_rates(curve, picture, peak_lr)
    print("\n".join([*rate_lines(curve, peak_lr, stop_reason), f"picture: {picture}"]))


def rate_lines(curve: RateCurve, peak_lr: float, stop_reason: str | None) -> list[str]:
    """The lines that a test prints.

    Args:
        curve: losses by rate.
        peak_lr: the configured plan.peak_lr.
        stop_reason: what ended the test before its last step; None if nothing did.
    """
    smooth, n = curve.smooth(), len(curve.rates)
    shown = sorted({round(i * (n - 1) / (_ROWS - 1)) for i in range(_ROWS)}) if n else []
    lines = [f"{'plan.peak_lr':>14}{'loss':>10}{'smoothed':>10}"]
    lines += [f"{curve.rates[i]:>14.2e}{curve.losses[i]:>10.4f}{smooth[i]:>10.4f}" for i in shown]
    if stop_reason not in (None, DIVERGED):
        return [*lines, f"stopped after {n} steps ({stop_reason}); no rate is suggested"]
    if curve.has_diverged:
        lines.append(f"after {n} steps the loss diverged" + (f", at {curve.rates[-1]:.2e}" if n else ""))
    found = curve.suggestion()
    if found is None:
        return [
            *lines,
            "the loss did not fall, so no rate is suggested: give a lower --range.low or more --range.steps",
        ]
    lines += [
        f"the loss falls fastest at {found.steepest:.2e}, is lowest at {found.lowest:.2e}, and leaves its low level at "
        f"{found.edge:.2e}",
        f"suggested: --plan.peak_lr={found.rate:.1e}, a quarter of the last (configured: {peak_lr:.1e})",
        *([] if curve.has_diverged else ["the loss had not diverged at the highest rate: raise --range.high"]),
        "limits: right within a factor of about three; a few steps see the beginning of training alone, and a long "
        "run, or another batch size, may need another rate",
    ]
    return lines


def draw_rates(curve: RateCurve, target: Path, peak_lr: float) -> Path:
    """Draw the losses by rate, on a logarithmic axis; returns the path of the image.

    Raises:
        UserError: the image cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), dpi=120, layout="constrained")
    axes = figure.subplots()
    axes.set_xscale("log")
    axes.plot(curve.rates, curve.losses, color="tab:blue", alpha=0.35, linewidth=0.8)
    axes.plot(curve.rates, curve.smooth(), color="tab:blue", label="loss (smoothed)")
    axes.axvline(peak_lr, color="0.6", linestyle=":", label=f"configured {peak_lr:.1e}")
    if found := curve.suggestion():
        axes.axvline(found.rate, color="tab:green", label=f"suggested {found.rate:.1e}")
        axes.axvline(found.edge, color="tab:orange", linestyle="--", label=f"end of the low level {found.edge:.1e}")
    if curve.losses:
        low, first = min(curve.smooth()), curve.losses[0]
        axes.set_ylim(low - 0.1 * abs(first - low) - 0.05, first + 0.3 * abs(first - low) + 0.05)
    axes.set_xlabel("plan.peak_lr")
    axes.set_ylabel("loss")
    axes.grid(alpha=0.3)
    axes.legend()
    try:
        figure.savefig(target)
    except OSError as error:
        raise write_error(target, error) from error
    return target
