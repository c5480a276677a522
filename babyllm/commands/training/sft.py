"""Teach a model to converse from files of chats, in a process per GPU or core.

With no arguments it teaches the model of `runs/pretrain` to judge and write shop reviews, from the sample set.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from babyllm.runtime import Runtime
    from babyllm.training.stage import Beginning
    from babyllm.training.stages.fine_tuning_config import FineTuneConfig

ARGUMENTS = ""


def begin(config: FineTuneConfig, runtime: Runtime) -> Beginning:
    """A run at step 0; the sample set is made first if the configuration names it. Every rank must call this.

    Raises:
        UserError: the model, the data, the template and the plan do not fit each other.
    """
    from babyllm.recipes.sample_sft import prepare_sft_sample
    from babyllm.training.stages import fine_tuning

    with runtime.main_first():
        prepare_sft_sample(config.data.path or "")
    return fine_tuning.begin(config, runtime)


def main(argv: Sequence[str] | None = None, prog: str = "babyllm sft") -> None:
    """Read the configuration, then train in as many processes as it says.

    Args:
        argv: flags; None takes those of this program.
        prog: name of the program in its help.

    Raises:
        UserError: a flag is wrong, or the run fails by a user's mistake.
    """
    from babyllm.training.script import run_stage
    from babyllm.training.stages.fine_tuning_config import FineTuneConfig, resolved

    run_stage(sys.argv[1:] if argv is None else argv, FineTuneConfig, begin, resolved, prog, __doc__ or "")
