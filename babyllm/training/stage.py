"""From a stage's beginning to a trained model, in the same way for all training stages.

begin: model, data, loss -> run directory -> loop

A stage is a configuration (`RunConfig` with sections of its own) and one function that begins it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from babyllm.console import lasting_output
from babyllm.errors import UserError
from babyllm.objectives import Loss
from babyllm.parallel.forms import choose_forms
from babyllm.runtime import Runtime, start
from babyllm.schedule import Plan
from babyllm.tokenizer import Tokenizer
from babyllm.training.beginning import take
from babyllm.training.best import LOSS, require_known
from babyllm.training.loop import train
from babyllm.training.run import Measure, Show, open_run
from babyllm.training.run_config import C, RunConfig
from babyllm.training.state import STOP_SIGNAL, Every, TrainState

if TYPE_CHECKING:
    from babyllm.evaluate.tasks.items import TaskItems


@dataclass(frozen=True)
class Beginning:
    """What a stage begins its run with.

    Attributes:
        state: model, optimizer and data stream at step 0.
        plan: learning-rate schedule, with its number of steps.
        loss: objective.
        measure: evaluation on held-out data.
        show: samples for a person to read.
        tokenizer: tokenizer to save with each step, or None.
        chat_template: Jinja template to save with each step; None for a model that does not chat.
        end_ids: tokens that end an answer, in addition to <eos>.
        is_measured_first: whether to evaluate on the held-out data before the first step.
        results: names of the results that `measure` may return, such as zh/loss.
        renewals: actions between steps that change the state of the stream.
        is_packed: whether rows hold documents that do not see each other.
    """

    state: TrainState
    plan: Plan
    loss: Loss
    measure: Measure
    show: Show
    tokenizer: Tokenizer | None
    chat_template: str | None = None
    end_ids: Sequence[int] = ()
    is_measured_first: bool = False
    results: Sequence[str] = ()
    renewals: Sequence[Every] = ()
    is_packed: bool = False


def train_stage(config: C, begin: Callable[[C, Runtime], Beginning]) -> Beginning:
    """Begin or resume the run of a configuration and train it to its end, as one process of the run.

    Args:
        config: configuration of the stage.
        begin: function that prepares the data and makes the model; every rank calls it.

    Returns:
        The stage's beginning, whose `state` is now that of the run's end.

    Raises:
        UserError: the configuration, the data or the run directory is at fault.
    """
    groups = config.parallel.tensor, config.parallel.context
    with lasting_output(), start(config.runtime, *groups) as runtime, take(config, runtime):
        _require_epochs(config)
        found = _items(config)  # before the data, which may take hours to prepare
        stage = begin(config, runtime)
        choose_forms(stage.state.model, runtime, config.data.longest_seq_len, is_packed=stage.is_packed)
        chat = stage.chat_template, stage.end_ids
        on_tasks = _on_tasks(found, config, stage)
        with open_run(config, stage.state, stage.tokenizer, stage.plan, *chat, is_taken=True) as run:
            evaluation = run.evaluation(config.eval_every, stage.measure, stage.show, on_tasks)
            if stage.is_measured_first and stage.state.step == 0:
                with runtime.patience():
                    evaluation.run(stage.state)
            every = [
                run.logging(config.log_every, config.data.longest_seq_len),
                *map(run.renewing, stage.renewals),
                run.saving(_save_interval(config, stage.plan)),
                evaluation,
            ]
            train(stage.state, stage.loss, stage.plan, every, run.watch)
    if stage.state.stop_reason == STOP_SIGNAL:
        runtime.leave_stopped()
    return stage


def _require_epochs(config: RunConfig) -> None:
    if isinstance(config.save_every, float) and config.plan.steps is not None:
        raise UserError(
            f"--save_every={config.save_every}: counts epochs, but plan.steps is given; give plan.epochs instead, or "
            "steps without a point"
        )


def _save_interval(config: RunConfig, plan: Plan) -> int:
    """The number of steps between checkpoints."""
    if isinstance(config.save_every, int):
        return config.save_every
    return max(1, round(config.save_every * (plan.steps or 1) / config.plan.epochs))


def _items(config: RunConfig) -> list[TaskItems]:
    """The items of the run's tasks.

    Raises:
        UserError: a task or its data are missing or malformed.
    """
    if not config.evaluate.names:
        return []
    from babyllm.evaluate.tasks.evaluation import find_items  # a run without tasks loads none of this

    return [find_items(name, config.evaluate) for name in config.evaluate.names]


def _on_tasks(found: Sequence[TaskItems], config: RunConfig, stage: Beginning) -> Measure | None:
    """The function that evaluates on the run's tasks, if it has any.

    Raises:
        UserError: the tasks do not fit the run, or no result has the name by which steps are to be judged.
    """
    plain = [f"plain/{name}" for name in stage.results if name.startswith("all/")] if stage.state.average else []
    measure, of_tasks = None, list[str]()
    if found:
        from babyllm.training.stages.task_measure import on_tasks, results_on

        of_tasks = results_on(found, stage.results)
        measure = on_tasks(found, config.evaluate, stage.tokenizer, stage.chat_template, stage.end_ids)
    if config.best != LOSS:
        require_known(config.best, [*stage.results, *plain, *of_tasks])
    return measure
