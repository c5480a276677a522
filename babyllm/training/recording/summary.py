"""What a run says of itself: how it begins, how it has ended, what was measured."""

from __future__ import annotations

from pathlib import Path

from babyllm.progress import format_duration
from babyllm.schedule import Plan
from babyllm.training.state import STOP_SIGNAL, TrainState


def headline(state: TrainState, plan: Plan, newest: Path | None) -> str:
    """The line a run begins with."""
    runtime = state.runtime
    n_parameters = sum(p.numel() for p in state.model.parameters())
    where = f"{runtime.world_size} x {runtime.device.type}, {str(runtime.dtype).removeprefix('torch.')}"
    origin = state.model.origin
    begins = f"resuming from {newest}" if newest else state.origin or (f"from {origin}" if origin else "from scratch")
    return f"{_count(n_parameters)} parameters, {plan.n_steps} steps on {where}, {begins}"


def _count(n: int) -> str:
    """A number in the unit that leaves one to three digits before the point."""
    size, unit = next((s, u) for s, u in ((1e9, " B"), (1e6, " M"), (1e3, " k"), (1, "")) if n >= s or s == 1)
    return f"{n / size:.1f}{unit}" if unit else str(n)


def held_out_line(result: dict[str, float]) -> str:
    """What was measured on held-out data, in one line."""
    told: list[str] = []
    for unit, ending in (("bits per byte", "/bpb"), ("loss", "/loss"), ("accuracy", "/accuracy")):
        found = [f"{n.removesuffix(ending)} {v:.3f}" for n, v in result.items() if n.endswith(ending)]
        if found and not (unit == "loss" and told):
            told.append(f"held-out {unit}: {', '.join(found)}")
    return "; ".join(told) or "nothing held out"


def summary(state: TrainState, plan: Plan, seconds: float, losses: dict[str, float]) -> list[str]:
    """The lines a run ends with.

    Args:
        state: at its end.
        plan: of the run.
        seconds: it took since its last start.
        losses: what the last evaluation gave, by name.
    """
    if state.step > plan.n_steps:
        ends = f"nothing to do: the run is at step {state.step} already, the plan ends at step {plan.n_steps}"
    else:
        how = "stopped" if state.stop_reason else "finished"
        ends = f"{how} at step {state.step} of {plan.n_steps} after {format_duration(seconds)}"
    skipped = f", {state.skipped} steps skipped" if state.skipped else ""
    lines = [f"{ends}, {state.tokens:,} tokens{skipped}"]
    if state.stop_reason:
        advice = "; the same command goes on from here" if state.stop_reason == STOP_SIGNAL else ""
        lines.append(f"reason: {state.stop_reason}{advice}")
    if losses:
        lines.append(held_out_line({name.removeprefix("val/"): value for name, value in losses.items()}))
    return lines


def hints(run_dir: Path, *, has_tokenizer: bool, chats: bool) -> list[str]:
    """Return the commands that use a run: with its model as text, as a chat, and with its curves."""
    curves = f"curves: tensorboard --logdir {run_dir.parent}"
    if not has_tokenizer:
        return [curves]
    use = f"babyllm chat {run_dir}" if chats else f'babyllm generate {run_dir} "今天"'
    return [f"try it: {use}", curves]
