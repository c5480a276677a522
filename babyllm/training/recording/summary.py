"""The lines that a run prints about itself: how it begins, how it ended, what was measured."""

from __future__ import annotations

import math
from pathlib import Path

from babyllm.model.attention import attention_form
from babyllm.progress import format_duration
from babyllm.run_directory import step_name
from babyllm.schedule import Plan
from babyllm.training.best import LOSS, in_words
from babyllm.training.recording.better import is_better, is_lower_better
from babyllm.training.recording.records import RUN_REPORT
from babyllm.training.state import STOP_SIGNAL, TrainState


def headline(state: TrainState, plan: Plan, newest: Path | None) -> str:
    """The first line of a run: its size, steps and devices, and where its weights come from."""
    runtime = state.runtime
    n_parameters = sum(p.numel() for p in state.model.parameters())
    where = f"{runtime.world_size} x {runtime.device.type}, {str(runtime.dtype).removeprefix('torch.')}"
    origin = state.model.origin
    begins = f"resuming from {newest}" if newest else state.origin or (f"from {origin}" if origin else "from scratch")
    how = {"blocks": ", attention in blocks", "documents": ", attention by document"}.get(
        attention_form(state.model), ""
    )
    how += ", compiled" if runtime.compile else ""
    return f"{_count(n_parameters)} parameters, {plan.n_steps} steps on {where}{how}, {begins}"


def _count(n: int) -> str:
    """A count with the unit (k, M, B) that leaves one to three digits before the point."""
    size, unit = next((s, u) for s, u in ((1e9, " B"), (1e6, " M"), (1e3, " k"), (1, "")) if n >= s or s == 1)
    return f"{n / size:.1f}{unit}" if unit else str(n)


def held_out_line(result: dict[str, float]) -> str:
    """The results on held-out data, in one line."""
    parts: list[str] = []
    for unit, ending in (("bits per byte", "/bpb"), ("loss", "/loss"), ("accuracy", "/accuracy")):
        mine = {n: v for n, v in result.items() if n.endswith(ending) and f"{n}_stderr" not in result}
        found = [f"{n.removesuffix(ending)} {v:.3f}" for n, v in mine.items()]
        if found and not (unit == "loss" and parts):
            parts.append(f"held-out {unit}: {', '.join(found)}")
    return "; ".join(parts + _of_tasks(result)) or "nothing held out"


def _of_tasks(result: dict[str, float]) -> list[str]:
    """The first metric of each task, with its standard error."""
    firsts: dict[str, str] = {}
    for name in result:
        if f"{name}_stderr" in result:
            firsts.setdefault(name.partition("/")[0], name)
    errors = {name: result[f"{name}_stderr"] for name in firsts.values()}
    known = {name: "" if math.isnan(error) else f" ± {error:.3f}" for name, error in errors.items()}
    return [f"{name.replace('/', ' ')} {result[name]:.3f}{error}" for name, error in known.items()]


def summary(state: TrainState, plan: Plan, seconds: float, losses: dict[str, float]) -> list[str]:
    """The last lines of a run.

    Args:
        state: the run at its end.
        plan: plan of the run.
        seconds: time since the last start.
        losses: results of the last evaluation, by name.
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


def risen(state: TrainState, value: float | None) -> str:
    """A remark on a result that is worse than the best so far (`TrainState.best`); empty for one that is not."""
    if state.best is None or value is None or not is_better(state.best_by, state.best[0], value):
        return ""
    best, step = state.best
    if state.best_by == LOSS:
        return f"; lowest at step {step}, {value - best:.3f} nats below"
    return f"; best {state.best_by} {best:.3f} at step {step}"


def hints(run_dir: Path, best_by: str, *, best: int | None, has_tokenizer: bool, chats: bool) -> list[str]:
    """The commands to try a run's model and to see its curves.

    Args:
        run_dir: directory of the run.
        best_by: name of the result by which a step is best.
        best: the best step; None if no later step was evaluated.
        has_tokenizer: whether the model can be given text.
        chats: whether it answers messages.
    """
    curves, model = f"curves: tensorboard --logdir {run_dir.parent}", run_dir
    lines = [f"report: {run_dir / RUN_REPORT}"] if (run_dir / RUN_REPORT).is_file() else []
    if best is not None:
        model = run_dir / step_name(best)
        extreme = "lowest" if is_lower_better(best_by) else "highest"
        since = "; the steps since learn by heart" if best_by == LOSS else ""
        lines.append(f"the {in_words(best_by)} was {extreme} at step {best}, which is kept{since}")
    if has_tokenizer:
        use = f"babyllm chat {model}" if chats else f'babyllm generate {model} "今天"'
        lines.append(f"try it: {use}")
    return [*lines, curves]
