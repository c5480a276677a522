"""A stage of training as a program: its command line, its processes, its run.

command line -> configuration, completed for the machine and the run so far -> processes -> `begin` in each
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from babyllm.config import parse
from babyllm.runtime.launching.launch import launch
from babyllm.training.run_config import C

if TYPE_CHECKING:
    from babyllm.runtime import Runtime
    from babyllm.training.stage import Beginning


def run_stage(
    argv: Sequence[str],
    kind: type[C],
    begin: Callable[[C, Runtime], Beginning],
    resolve: Callable[[C], C],
    prog: str,
    description: str,
) -> None:
    """Read the configuration of a stage, then train in its number of processes.

    Args:
        argv: command line without the program's name.
        kind: type of the stage's configuration.
        begin: function that begins a run, called in each process.
        resolve: function that fills in the settings that depend on the machine and on the run so far.
        prog: name of the program in its help.
        description: description of the stage in its help.

    Raises:
        UserError: the command line or the run is at fault.
    """
    launch(partial(_train, begin=begin), parse(kind, argv, prog=prog, description=description, resolve=resolve))


def _train(config: C, begin: Callable[[C, Runtime], Beginning]) -> None:
    from babyllm.training.stage import train_stage  # neither the help nor a process that starts others needs torch

    train_stage(config, begin)
