"""A run in its directory: begun or resumed, then logged, evaluated and saved between steps.

open_run -> config.yaml, environment.json, newest checkpoint -> Run -> `every`: log, evaluate, save -> summary
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

from babyllm.data.stream_state import StreamState, gather
from babyllm.errors import UserError, in_one_line
from babyllm.model.config import flops_per_token
from babyllm.model.heads import writes
from babyllm.optim.average import averaged, evaluated
from babyllm.parallel.twin import readable, together, whole
from babyllm.run_directory import point, step_directories, step_name
from babyllm.runtime import memory_bytes, peak_flops
from babyllm.runtime.health.wiring import sharing_hint
from babyllm.runtime.machine import lacking
from babyllm.schedule import Plan
from babyllm.tokenizer import Tokenizer
from babyllm.training.beginning import take, unwritable, write_config
from babyllm.training.best import judge, judge_by, out_of_patience
from babyllm.training.checkpoint import Saver, resume
from babyllm.training.checkpoint import load as load_checkpoint
from babyllm.training.curves.curve_facts import FIRST_LOSS, RunFacts, facts_of_state
from babyllm.training.recording.log import RunLog
from babyllm.training.recording.plot import PLOT_FILE
from babyllm.training.recording.records import require_own_names
from babyllm.training.recording.summary import headline, held_out_line, hints, risen, summary
from babyllm.training.run_config import RunConfig
from babyllm.training.state import Every, TrainState, Watch
from babyllm.training.watch import WatchConfig

T = TypeVar("T")
Measure = Callable[[TrainState], dict[str, float]]
"""Returns the results on held-out data, by name; called by every rank."""
Show = Callable[[TrainState], list[tuple[str, str]]]
"""Returns (prompt, the model's text) pairs for people to read; called by every rank, written by rank 0."""


@dataclass
class Run:
    """A run directory in use; made by `open_run`.

    Attributes:
        directory: path of the run directory.
        saver: writer of its steps.
        log: records of the run; None on ranks other than 0.
        patience: evaluations in a row without a lower held-out loss that end the run; 0 never ends it.
        n_steps: number of steps of the plan.
        watching: criteria by which steps are judged.
        facts: what the run is, by which its curve is judged; None does not judge it.
        losses: results of the last evaluation, by name.
    """

    directory: Path
    saver: Saver
    log: RunLog | None
    patience: int
    n_steps: int
    watching: WatchConfig
    facts: RunFacts | None = None
    losses: dict[str, float] = field(default_factory=dict)
    _tokens_logged: int = 0
    _step_logged: int = 0
    _saved: int = -1
    _is_open: bool = True

    def message(self, text: str, *, is_kept: bool = True) -> None:
        """Print a line, on rank 0 alone, and record it if it `is_kept`."""
        if self.log:
            self.log.message(text, is_kept=is_kept)

    def logging(self, steps: int, seq_len: int) -> Every:
        """Record loss, learning rate, speed, memory and the stream's numbers every `steps` steps.

        The model's FLOPs are those of rows of `seq_len` tokens, unless the stream reports another row length.
        """
        peak: list[float] = []

        def record(state: TrainState) -> None:
            self._require_open()
            self.saver.join(block=False)  # an error is reported now, not at the next save
            runtime = state.runtime
            if self._step_logged == state.step:
                return
            if not peak:
                peak.append(peak_flops(runtime.device, runtime.dtype) * runtime.world_size)
            busy_s, waited_s = state.take_times()
            tokens_per_s, is_first = (state.tokens - self._tokens_logged) / max(busy_s, 1e-9), not self._step_logged
            self._tokens_logged, self._step_logged = state.tokens, state.step
            by_rank, advice = runtime.pace.report(waited_s)
            stream = state.stream.metrics()
            flops = flops_per_token(state.model.config, int(stream.get("seq_len", seq_len)))
            of_loss = state.take_metrics()
            require_own_names(of_loss, stream)
            values: dict[str, float] = {
                **of_loss,
                **stream,
                "lr": state.lr,
                "grad_norm": state.grad_norm,
                "tokens": state.tokens,
                "tokens_per_s": tokens_per_s,
                "memory_bytes": memory_bytes(runtime.device),
                "data_wait": waited_s / max(busy_s, 1e-9),
                "skipped": state.skipped,
                "mfu": tokens_per_s * flops / peak[0],
                **by_rank,
            }
            if is_first and len(state.memory.losses) == state.step:
                values[FIRST_LOSS] = state.memory.losses[0]
            if state.scaler.is_enabled():
                values["scaler_scale"] = state.scaler.get_scale()
            if self.log:
                self.log.record(state.step, values)
                name = "rollout/reward" if "rollout/reward" in values else "loss"  # a policy's loss says little
                self.log.progress(state.step, values.get(name), tokens_per_s, name=name.split("/")[-1])
            if advice:
                self.message(advice)

        return Every(steps, record, at_stop=True)

    def evaluation(self, steps: int, measure: Measure, show: Show, on_tasks: Measure | None = None) -> Every:
        """Evaluate on held-out data, and on tasks if there are any, and show sampled text every `steps` steps.

        A step with the best result so far is saved (`TrainState.best_by`); `patience` evaluations without a better one
        end the run. If an evaluation fails or a stop signal cuts it short, the step is saved and the resumed run
        evaluates it again. At step 0 the results are only recorded.
        """

        def evaluate(state: TrainState) -> bool:
            self._require_open()
            # All ranks gather before they evaluate: an error may reach rank 0 alone, which then saves the step.
            is_unsaved = state.step > 0 and self._saved != state.step
            stream = gather(state.stream, state.runtime) if is_unsaved else None
            with together(state.model, partial(self._save_unevaluated, state, stream)):
                result = evaluated(state.average, partial(_read, measure, state))
                if on_tasks:
                    with averaged(state.average):
                        result |= _read(on_tasks, state)
                if state.heed_stop_signal():
                    return False
                self._report(state, result, show)
                if state.step:
                    judge(state, result)
            if state.step:
                state.stop_reason = out_of_patience(state, self.patience) or state.stop_reason
            if self._saved == state.step:
                self._flush()
                self.saver.update(state)
            elif state.best and state.best[1] == state.step:
                self._save(state)
            return True

        return Every(steps, evaluate, is_owed=True)

    def _report(self, state: TrainState, result: dict[str, float], show: Show) -> None:
        """Record and print the results of an evaluation, with samples of the model's text."""
        self.losses = {f"val/{name}": value for name, value in result.items()}
        if self.log and self.losses:
            self.log.record(state.step, self.losses)
        rise = risen(state, result.get(state.best_by))
        self.message(f"step {state.step}: {held_out_line(result)}{rise}", is_kept=False)
        with averaged(state.average):
            shown = _read(show, state)
        if self.log:
            for i, (prompt, text) in enumerate(shown):
                self.log.text(state.step, f"sample/{i}", f"{prompt}{text}")
                self.message(f"    {' '.join(prompt.split())[-100:]}|{text!r}"[:160], is_kept=False)

    def renewing(self, change: Every) -> Every:
        """An action that changes the state of the stream; if the step is saved already, it is saved again.

        Place it before the saving in the loop's `every`.
        """

        def renew(state: TrainState) -> object:
            self._require_open()
            done = _read(change.run, state)
            if self._saved == state.step:
                self._save(state)
            return done

        return change._replace(run=renew)

    def saving(self, steps: int) -> Every:
        """Save a step directory every `steps` steps, at the end and at a stop signal; it is written beside training.

        Place it before the evaluation in the loop's `every`, so that a failed evaluation loses nothing.
        """

        def write(state: TrainState) -> None:
            self._require_open()
            if self._saved != state.step:
                self._save(state)

        return Every(steps, write, at_stop=True)

    def _save(self, state: TrainState) -> None:
        self.saver.save(state, self._flush)
        self._saved = state.step

    def _save_unevaluated(self, state: TrainState, stream: StreamState | None) -> None:
        """Save the step of a failed evaluation, unless it is saved; of a divided model, every rank saves its parts."""
        if stream is not None:
            state.pending = True
            try:
                self.saver.save(state, self._flush, stream)
            except Exception as error:  # the evaluation's own error is the one that ends the run
                self.message(str(error))

    def end(self, state: TrainState) -> None:
        """Wait until the last step is complete, on every rank.

        Raises:
            UserError: the step could not be written.
        """
        with state.runtime.patience():
            self.saver.join()
            state.runtime.barrier()

    def break_off(self, state: TrainState, cause: BaseException) -> None:
        """Wait as `end` does, on this rank alone, after an error that is still to be reported; others are printed."""
        with state.runtime.patience():
            try:
                self.saver.join()
            except Exception as error:
                self.message(str(error))
        with suppress(UserError):
            if self.log:
                self.log.end(f"ended by {type(cause).__name__}: {in_one_line(cause)}")
                self.log.close(summary=False)
                self.log.report()

    def close(self) -> None:
        """Refuse every later write."""
        self._is_open = False

    def _require_open(self) -> None:
        """Refuse to write after the body of `open_run`, when another process may use the directory."""
        if not self._is_open:
            raise UserError(f"{self.directory}: this run was closed after its with block; go on in another open_run")

    def _flush(self) -> None:
        if self.log:
            self.log.flush()

    def point(self, state: TrainState) -> None:
        """Point `latest` at the best step if early stopping has ended the run, else at the newest.

        Raises:
            UserError: the directory cannot be written.
        """
        if self.log and self._saved >= 0:
            is_over = out_of_patience(state, self.patience) is not None
            try:
                point(self.directory, state.best[1] if is_over and state.best else self._saved)
            except OSError as e:
                raise unwritable(self.directory, e) from e

    @property
    def watch(self) -> Watch:
        """The loop's `watch`: it reports unusual losses here and goes back to this run's last saved step."""
        return Watch(self.watching, self.message, self._go_back)

    def _go_back(self, state: TrainState, row: int) -> bool:
        """Restore the last saved step, which continues with row `row`; returns whether there is such a step."""
        self._require_open()
        best_by, runtime = state.best_by, state.runtime
        self.saver.join()
        # Rank 0 chooses the step: on a network disk other ranks may see it later.
        newest = max(step_directories(self.directory), default=-1) if runtime.is_main else 0
        step = int(runtime.sum([float(newest)])[0])
        if step < 0:
            return False
        load_checkpoint(state, self.directory / step_name(step))
        judge_by(state, best_by)  # a step from before a change has the old name
        state.stream.leave_out(row)
        state.memory.rollbacks += 1
        runtime.barrier()  # every rank has read the step before it is overwritten
        self._save(state)  # the whole step, since leaving out rows can change the stream's tensors
        self.saver.join()
        state.take_metrics()
        state.take_times()
        self.begin_at(state)
        self.message(f"back to step {state.step}, without the rows read since")
        return True

    def begin_at(self, state: TrainState) -> None:
        """Remove the records after the step of `state`, from which the run continues."""
        self._tokens_logged, self._step_logged = state.tokens, state.step
        if state.runtime.is_main:
            if self.log:
                self.log.close(summary=False)
            self.log = RunLog(self.directory, start_step=state.step, total_steps=self.n_steps, facts=self.facts)


def _read(function: Callable[[TrainState], T], state: TrainState) -> T:
    """What a function returns that reads the model with all its weights; every rank must call it."""
    with whole(trained := state.model):
        state.model = readable(trained)
        try:
            return function(state)
        finally:
            state.model = trained


@contextmanager
def open_run(
    config: RunConfig,
    state: TrainState,
    tokenizer: Tokenizer | None,
    plan: Plan,
    chat_template: str | None = None,
    end_ids: Sequence[int] = (),
    is_taken: bool = False,
) -> Iterator[Run]:
    """Begin the run of `config`, or resume it from its newest checkpoint; every rank must call it.

    Args:
        config: configuration of the run.
        state: state at step 0, or from an earlier `open_run` of this directory; a checkpoint is loaded into it.
        tokenizer: tokenizer to save with each step, or None.
        plan: plan with its number of steps.
        chat_template: Jinja template to save with each step; None for a model that does not chat.
        end_ids: tokens that end an answer, in addition to <eos>, to save with each step.
        is_taken: whether the caller holds the lock of `take`.

    Yields:
        The run. After the body its records are closed and a summary is printed; its actions between steps are then
        refused. To train further, call `open_run` again.

    Raises:
        UserError: as `take`; or the directory holds a run of another model or a damaged checkpoint, or differs between
            machines.
    """
    directory, runtime = Path(config.run_dir), state.runtime
    began = time.monotonic()
    with ExitStack() as stack:
        if not is_taken:
            stack.enter_context(take(config, runtime))
        newest = resume(directory, state, tokenizer)
        judged_anew = judge_by(state, config.best)
        state.stop_reason, first_step = out_of_patience(state, config.early_stop), state.step
        run = Run(
            directory,
            Saver(directory, tokenizer, config.keep, chat_template, end_ids, config.keep_every),
            log=None,
            patience=config.early_stop,
            n_steps=plan.n_steps,
            watching=config.watch,
            facts=facts_of_state(config, state, plan),
            _saved=first_step if newest else -1,
        )
        run.begin_at(state)
        # After the records are cut, since the old ones were made with the configuration stored there.
        changed = write_config(directory, config) if runtime.is_main else []
        remarks = [f"changed since the last start: {line}" for line in changed] if newest else lacking()
        for line in (*remarks, *filter(None, [judged_anew, sharing_hint()]), headline(state, plan, newest)):
            run.message(line)
        run.point(state)
        try:
            yield run
            run.end(state)
        except BaseException as error:
            run.break_off(state, error)
            raise
        finally:
            run.close()
        run.point(state)
        if run.log:
            lines = summary(state, plan, time.monotonic() - began, run.losses)
            run.log.end("; ".join(lines))
            run.log.close(summary=state.step > first_step or not (directory / PLOT_FILE).exists())
            best = state.best[1] if state.best and state.bad_evaluations else None
            can_write = tokenizer is not None and writes(state.model)
            how = {"has_tokenizer": can_write, "chats": chat_template is not None}
            print("\n".join(lines + hints(directory, state.best_by, best=best, **how)))
