"""Train a reward model on pairs of answers, the better one first, in a process per GPU or core.

With no arguments it teaches the model of `runs/sft` which of two reviews is the positive one, from the sample pairs.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from babyllm.runtime import Runtime
    from babyllm.training.stage import Beginning
    from babyllm.training.stages.preference.reward_config import RewardConfig

ARGUMENTS = ""


def begin(config: RewardConfig, runtime: Runtime) -> Beginning:
    """A run at step 0; the sample pairs are made first if the configuration names them. Every rank must call this.

    Raises:
        UserError: the model, the data, the template and the plan do not fit each other.
    """
    from babyllm.recipes.sample_pairs import prepare_pairs_sample
    from babyllm.training.stages.preference import reward

    with runtime.main_first():
        prepare_pairs_sample(config.data.path or "")
    return reward.begin(config, runtime)


def main(argv: Sequence[str] | None = None, prog: str = "babyllm reward") -> None:
    """Read the configuration, then train in as many processes as it says.

    Args:
        argv: flags; None takes those of this program.
        prog: name of the program in its help.

    Raises:
        UserError: a flag is wrong, or the run fails by a user's mistake.
    """
    from babyllm.training.script import run_stage
    from babyllm.training.stages.preference.reward_config import RewardConfig, resolved

    run_stage(sys.argv[1:] if argv is None else argv, RewardConfig, begin, resolved, prog, __doc__ or "")
