"""The way from a configuration to a trained model, the same for all stages of training.

configuration -> processes -> begin: model, data, loss -> run directory -> loop

A stage is a configuration (`RunConfig` with sections of its own) and one function that begins it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from babyllm.objectives import Loss
from babyllm.runtime import Runtime
from babyllm.schedule import Plan
from babyllm.tokenizer import Tokenizer
from babyllm.training.run_config import RunConfig
from babyllm.training.state import TrainState

if TYPE_CHECKING:
    from babyllm.chat.load import ChatTemplate
    from babyllm.training.run import Measure, Show

C = TypeVar("C", bound=RunConfig)


@dataclass(frozen=True)
class Beginning:
    """What a stage brings to its run.

    Attributes:
        state: model, optimizer and data at step 0.
        plan: the learning rate, with its number of steps.
        loss: the objective.
        measure: evaluation on held-out data.
        show: samples for a person to read.
        tokenizer: saved with each step.
        template: of conversations, saved with each step; None for a model that does not chat.
        is_measured_first: whether the held-out data is measured before the first step.
    """

    state: TrainState
    plan: Plan
    loss: Loss
    measure: Measure
    show: Show
    tokenizer: Tokenizer | None
    template: ChatTemplate | None = None
    is_measured_first: bool = False


Begin = Callable[[C, Runtime], Beginning]
"""Prepares the data and makes the model; every rank calls it. Raises `UserError` where they do not fit each other."""


def train_stage(config: C, begin: Begin[C]) -> None:
    """Begin or resume the run of a configuration and train it to its end: one process of it."""
    # Loaded here, so that help and the process that only starts others stay light.
    from babyllm.console import lasting_output
    from babyllm.runtime import start
    from babyllm.training.beginning import take
    from babyllm.training.loop import train
    from babyllm.training.run import open_run

    with lasting_output(), start(config.runtime) as runtime, take(config, runtime):
        stage = begin(config, runtime)
        with open_run(config, stage.state, stage.tokenizer, stage.plan, stage.template, is_taken=True) as run:
            evaluation = run.evaluation(config.eval_every, stage.measure, stage.show)
            if stage.is_measured_first and stage.state.step == 0:
                with runtime.patience():
                    evaluation.run(stage.state)
            every = [
                run.logging(config.log_every, config.data.longest_seq_len),
                run.saving(config.save_every),
                evaluation,
            ]
            train(stage.state, stage.loss, stage.plan, every, run.watch)


def run_stage(
    argv: Sequence[str], kind: type[C], begin: Begin[C], resolve: Callable[[C], C], prog: str, description: str
) -> None:
    """Read the configuration of a stage, then train in as many processes as it says.

    Args:
        argv: the command line, without the program's name.
        kind: the stage's configuration.
        begin: begins a run of it.
        resolve: settles what depends on the machine and on the run so far.
        prog: name of the program in its help.
        description: of the stage, for the help.

    Raises:
        UserError: the command line or the run is at fault.
    """
    from babyllm.config import parse
    from babyllm.runtime.launching.launch import launch

    launch(partial(train_stage, begin=begin), parse(kind, argv, prog=prog, description=description, resolve=resolve))
