"""Pretrain a language model on token data or raw texts, in a process per GPU or core.

With no arguments it prepares the sample corpus and trains a small model on it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from babyllm.runtime import Runtime
    from babyllm.training.stage import Beginning
    from babyllm.training.stages.pretraining_config import PretrainConfig

ARGUMENTS = ""


def begin(config: PretrainConfig, runtime: Runtime) -> Beginning:
    """A run at step 0; the sample corpus is made first if the configuration names it. Every rank must call this.

    Raises:
        UserError: the model, the data and the plan do not fit each other.
    """
    from babyllm.recipes.sample import prepare_sample
    from babyllm.training.stages import pretraining

    with runtime.main_first():
        prepare_sample(config.data.path)
    return pretraining.begin(config, runtime)


def main(argv: Sequence[str] | None = None, prog: str = "babyllm pretrain") -> None:
    """Read the configuration, then train in as many processes as it says.

    Args:
        argv: flags; None takes those of this program.
        prog: name of the program in its help.

    Raises:
        UserError: a flag is wrong, or the run fails by a user's mistake.
    """
    from babyllm.training.script import run_stage
    from babyllm.training.stages.pretraining_config import PretrainConfig, resolved

    run_stage(sys.argv[1:] if argv is None else argv, PretrainConfig, begin, resolved, prog, __doc__ or "")
