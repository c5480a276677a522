"""Test learning rates for a run: the rate grows until the loss diverges; a table, a picture and a suggestion.

The first argument is the stage, pretrain or sft. The flags are those of the stage, so that the test has the data,
model, batch and optimizer of the run. The weights are thrown away; data that are prepared stay in run_dir.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from babyllm.config import parse
from babyllm.config.values import PathText
from babyllm.errors import UserError
from babyllm.runtime.launching.launch import launch
from babyllm.training.curves.rate_range import RUN_DIR, RangeOptions
from babyllm.training.stages.pretraining_config import PretrainConfig, resolved

if TYPE_CHECKING:
    from collections.abc import Callable

    from babyllm.runtime import Runtime
    from babyllm.training.stage import Beginning

ARGUMENTS = "STAGE"


@dataclass(frozen=True)
class Flags(PretrainConfig):
    """Flags of `babyllm lr-range pretrain`.

    Attributes:
        run_dir: directory of the test, for the picture and for data that are prepared; not that of a run.
        range: learning rates of the test.
    """

    run_dir: PathText = RUN_DIR
    range: RangeOptions = field(default_factory=RangeOptions)


STAGES = ("pretrain", "sft")


def _kind(stage: str) -> tuple[type[Any], Callable[[Any], Any]]:
    """The type of a stage's configuration, and the function that completes it."""
    if stage == "pretrain":
        return Flags, resolved
    from babyllm.training.curves.fine_tuning_range import FineTuneRange  # its section `data` needs torch
    from babyllm.training.stages import fine_tuning_config

    return FineTuneRange, fine_tuning_config.resolved


def main(argv: Sequence[str]) -> None:
    """Read the stage and its configuration, then test learning rates in as many processes as it says.

    Raises:
        UserError: a flag is wrong, or the stage cannot begin.
    """
    stage, flags = (argv[0], argv[1:]) if argv and not argv[0].startswith("-") else ("", argv)
    if not stage and {"--help", "-h"} & set(argv):
        stage = "pretrain"
    if stage not in STAGES:
        raise UserError(
            f"lr-range: the first argument is the stage, {' or '.join(STAGES)}, not {stage!r}; for example babyllm "
            "lr-range pretrain --data.path=data/mine"
        )
    kind, resolve = _kind(stage)
    config = parse(kind, flags, prog=f"babyllm lr-range {stage}", description=__doc__ or "", resolve=resolve)
    launch(partial(_test, stage=stage), config)


def _test(config: Any, stage: str) -> None:
    from babyllm.training.curves.rate_range import measure_rates
    from babyllm.training.curves.rate_report import report_rates

    begin: Callable[[Any, Runtime], Beginning] = import_module(f"babyllm.commands.training.{stage}").begin
    measure_rates(config, config.range, begin, report_rates)
