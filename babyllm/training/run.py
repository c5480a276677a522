"""A run directory: begun or resumed, recorded, evaluated and saved between steps.

open_run -> config.yaml, environment.json, newest checkpoint -> Run -> `every`: log, evaluate, save -> summary
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from babyllm.chat.template import ChatTemplate
from babyllm.config import differences, dump, load
from babyllm.errors import UserError
from babyllm.files import locked, write_bytes, write_json
from babyllm.interop.huggingface import config_to_json
from babyllm.json_fields import read_json
from babyllm.machine import lacking
from babyllm.model.config import flops_per_token
from babyllm.progress import format_duration
from babyllm.runtime import environment, memory_bytes, peak_flops
from babyllm.schedule import Plan
from babyllm.tokenizer import Tokenizer
from babyllm.training.checkpoint import CONFIG, latest, save
from babyllm.training.checkpoint import load as load_checkpoint
from babyllm.training.log import RunLog
from babyllm.training.state import STOP_SIGNAL, Every, TrainState

Measure = Callable[[TrainState], dict[str, float]]
"""Gives what is measured on held-out data, by name; called by every rank. "all/loss" says which step is best."""
Show = Callable[[TrainState], list[tuple[str, str]]]
"""Gives prompts and what the model makes of them, for a person to read; called by rank 0."""

ENVIRONMENT, LOCK = "environment.json", ".lock"
LOCK_PATIENCE_S = 10.0  # a process that was killed a moment ago may still be ending


class RunConfig(Protocol):
    """What every stage's configuration has."""

    @property
    def run_dir(self) -> str:
        """Where the run is recorded."""
        ...

    @property
    def log_every(self) -> int:
        """Steps between records."""
        ...

    @property
    def eval_every(self) -> int:
        """Steps between evaluations."""
        ...

    @property
    def save_every(self) -> int:
        """Steps between checkpoints."""
        ...

    @property
    def keep(self) -> int:
        """Newest checkpoints that stay."""
        ...

    @property
    def early_stop(self) -> int:
        """Evaluations without a lower held-out loss that end the run; 0 never does."""
        ...


@dataclass
class Run:
    """A run directory in use; made by `open_run`.

    Attributes:
        directory: of the run.
        tokenizer: saved with each step.
        template: of conversations, saved with each step; None for a model that does not chat.
        log: on rank 0, else None.
        keep: newest checkpoints that stay.
        patience: evaluations without a lower held-out loss that end the run; 0 never does.
        losses: what the last evaluation gave, by name.
    """

    directory: Path
    tokenizer: Tokenizer | None
    template: ChatTemplate | None
    log: RunLog | None
    keep: int
    patience: int
    losses: dict[str, float] = field(default_factory=dict)
    _tokens_logged: int = 0
    _step_logged: int = 0
    _saved: int = -1

    def message(self, text: str) -> None:
        """Tell the person who watches, on rank 0."""
        if self.log:
            self.log.message(text)

    def logging(self, steps: int, seq_len: int) -> Every:
        """Record loss, learning rate, speed, memory and the stream's numbers every `steps` steps.

        Rows have `seq_len` tokens unless the stream says otherwise.
        """
        peak: list[float] = []

        def record(state: TrainState) -> None:
            runtime = state.runtime
            if self._step_logged == state.step:
                return
            if not peak:
                peak.append(peak_flops(runtime.device, runtime.dtype) * runtime.world_size)
            busy_s, waited_s = state.take_times()
            tokens_per_s = (state.tokens - self._tokens_logged) / max(busy_s, 1e-9)
            self._tokens_logged, self._step_logged = state.tokens, state.step
            stream = state.stream.metrics()
            flops = flops_per_token(state.model.config, int(stream.get("seq_len", seq_len)))
            values: dict[str, float] = {
                **state.take_metrics(),
                **stream,
                "lr": state.lr,
                "grad_norm": state.grad_norm,
                "tokens": state.tokens,
                "tokens_per_s": tokens_per_s,
                "memory_bytes": memory_bytes(runtime.device),
                "data_wait": waited_s / max(busy_s, 1e-9),
                "skipped": state.skipped,
                "mfu": tokens_per_s * flops / peak[0],
            }
            if state.scaler.is_enabled():
                values["scaler_scale"] = state.scaler.get_scale()
            if self.log:
                self.log.record(state.step, values)
                self.log.progress(state.step, values["loss"], tokens_per_s)

        return Every(steps, record, at_stop=True)

    def evaluation(self, steps: int, measure: Measure, show: Show) -> Every:
        """Measure what is held out and show sampled text every `steps` steps.

        A step with the lowest "all/loss" so far is saved; `patience` evaluations without a lower one end the run. An
        evaluation that a stop signal cuts short is made anew by whoever goes on. One at step 0 is only told.
        """

        def evaluate(state: TrainState) -> None:
            result = measure(state)
            if state.heed_stop_signal():
                state.pending = True
                return
            self.losses = {f"val/{name}": value for name, value in result.items()}
            if state.step:
                _judge(state, result.get("all/loss"))
                state.stop_reason = _out_of_patience(state, self.patience) or state.stop_reason
            if self.log:
                if self.losses:
                    self.log.record(state.step, self.losses)
                self.message(f"step {state.step}: {_held_out(result)}")
                for i, (prompt, text) in enumerate(show(state)):
                    self.log.text(state.step, f"sample/{i}", f"{prompt}{text}")
                    self.message(f"    {' '.join(prompt.split())[-100:]}|{text!r}"[:160])
            if state.best and state.best[1] == state.step:
                self._save(state)

        return Every(steps, evaluate)

    def saving(self, steps: int) -> Every:
        """Save a step directory every `steps` steps, at the end and at a stop signal."""

        def write(state: TrainState) -> None:
            if self._saved != state.step:
                self._save(state)

        return Every(steps, write, at_stop=True)

    def _save(self, state: TrainState) -> None:
        if self.log:
            self.log.flush()
        source, end_ids = (self.template.source, self.template.end_ids) if self.template else (None, [])
        save(state, self.directory, self.tokenizer, self.keep, source, end_ids)
        self._saved = state.step


def _held_out(result: dict[str, float]) -> str:
    told: list[str] = []
    for unit, ending in (("bits per byte", "/bpb"), ("loss", "/loss"), ("accuracy", "/accuracy")):
        found = [f"{n.removesuffix(ending)} {v:.3f}" for n, v in result.items() if n.endswith(ending)]
        if found and not (unit == "loss" and told):
            told.append(f"held-out {unit}: {', '.join(found)}")
    return "; ".join(told) or "nothing held out"


def _judge(state: TrainState, loss: float | None) -> None:
    if loss is None:
        return
    if math.isfinite(loss) and (state.best is None or loss < state.best[0]):
        state.best, state.bad_evaluations = (loss, state.step), 0
    else:
        state.bad_evaluations += 1


def _out_of_patience(state: TrainState, patience: int) -> str | None:
    if not patience or not state.best or state.bad_evaluations < patience:
        return None
    return (
        f"no lower held-out loss in {state.bad_evaluations} evaluations, the best was at step {state.best[1]}; "
        "raise --early_stop to go on"
    )


@contextmanager
def open_run(
    config: RunConfig,
    state: TrainState,
    tokenizer: Tokenizer | None,
    plan: Plan,
    template: ChatTemplate | None = None,
) -> Iterator[Run]:
    """Begin the run of `config`, or go on with it where its newest checkpoint stands; every rank must call it.

    Args:
        config: of the run.
        state: at step 0; gets what the checkpoint holds.
        tokenizer: saved with each step, like `template`.
        plan: with its number of steps.
        template: of conversations.

    Yields:
        The run; behind the body its records are closed and the summary is printed.

    Raises:
        UserError: the directory holds a run of another model or a damaged checkpoint, cannot be written, or is not the
            same on all machines.
    """
    directory, runtime = Path(config.run_dir), state.runtime
    began = time.monotonic()
    with ExitStack() as stack:
        if runtime.is_main:
            _take(directory, stack)
        newest = latest(directory)
        if newest:
            _require_same_model(newest, state, tokenizer)
            load_checkpoint(state, newest)
        state.stop_reason = _out_of_patience(state, config.early_stop)
        first_step = state.step
        if runtime.sum([float(first_step)])[0] != first_step * runtime.world_size:
            raise UserError(
                f"{directory}: ranks find other checkpoints there; --run_dir must lie on a disk they all share"
            )
        run = Run(directory, tokenizer, template, None, config.keep, config.early_stop)
        run._tokens_logged, run._step_logged = state.tokens, state.step
        if runtime.is_main:
            changed = _write_config(directory, config)
            run.log = RunLog(directory, start_step=state.step, total_steps=plan.n_steps)
            for line in changed if newest else []:
                run.message(f"changed since the last start: {line}")
            for line in [] if newest else lacking():
                run.message(line)
            run.message(_headline(state, plan, newest))
        try:
            yield run
        except BaseException:
            if run.log:
                run.log.close(summary=False)
            raise
        if run.log:
            run.log.close(summary=state.step > first_step)
            print(_summary(state, run, plan, time.monotonic() - began))


def _take(directory: Path, stack: ExitStack) -> None:
    """Keep other processes out of a run directory for as long as `stack` is open."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        is_free = stack.enter_context(locked(directory / LOCK, LOCK_PATIENCE_S))
    except OSError as e:
        raise UserError(f"{directory}: cannot be written ({e.strerror}); choose another --run_dir") from e
    if not is_free:
        raise UserError(f"{directory}: another process is training there; wait for it or choose another --run_dir")


def _require_same_model(directory: Path, state: TrainState, tokenizer: Tokenizer | None) -> None:
    if not (directory / "config.json").is_file():
        return  # an adapter: its base is compared when it is loaded
    theirs, mine = read_json(directory / "config.json"), config_to_json(state.model.config, tokenizer)
    changed = [f"{key} {theirs.get(key)} (now {mine[key]})" for key in mine if theirs.get(key) != mine[key]]
    if changed:
        raise UserError(
            f"{directory.parent}: was made with another model: {', '.join(changed)}; choose another --run_dir, "
            "or delete this one to begin anew"
        )


def _write_config(directory: Path, config: RunConfig) -> list[str]:
    path = directory / CONFIG
    try:
        changed = differences(load(type(config), path), config) if path.is_file() else []
    except UserError as e:
        changed = [f"{path} was written by another version of babyllm ({e})"]
    try:
        write_bytes(path, dump(config).encode())
        write_json(directory / ENVIRONMENT, environment())
    except OSError as e:
        raise UserError(f"{directory}: cannot be written ({e.strerror}); choose another --run_dir") from e
    return changed


def _headline(state: TrainState, plan: Plan, newest: Path | None) -> str:
    runtime = state.runtime
    millions = sum(p.numel() for p in state.model.parameters()) / 1e6
    where = f"{runtime.world_size} x {runtime.device.type}, {str(runtime.dtype).removeprefix('torch.')}"
    origin = state.model.origin
    begins = f"resuming from {newest}" if newest else state.origin or (f"from {origin}" if origin else "from scratch")
    return f"{millions:.1f} M parameters, {plan.n_steps} steps on {where}, {begins}"


def _summary(state: TrainState, run: Run, plan: Plan, seconds: float) -> str:
    lines = [
        f"{'stopped' if state.stop_reason else 'finished'} at step {state.step} of {plan.n_steps} after "
        f"{format_duration(seconds)}, {state.tokens:,} tokens"
        + (f", {state.skipped} steps skipped" if state.skipped else "")
    ]
    if state.stop_reason:
        advice = "; the same command goes on from here" if state.stop_reason == STOP_SIGNAL else ""
        lines.append(f"reason: {state.stop_reason}{advice}")
    if run.losses:
        lines.append(_held_out({name.removeprefix("val/"): value for name, value in run.losses.items()}))
    if run.tokenizer:
        command = "chat" if run.template else "generate"
        lines.append(f"try it: babyllm {command} {run.directory}" + ("" if run.template else ' "今天"'))
    lines.append(f"curves: tensorboard --logdir {run.directory.parent}")
    return "\n".join(lines)
