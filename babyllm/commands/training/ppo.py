"""Train a model on its own answers by a reward model, with a critic, in a process per GPU or core.

Answers that are worth more than the critic expected become more likely, and pay for leaving the model they began with.
With no arguments it raises the score of reviews by `runs/reward` when `runs/sft` writes them, on the sample prompts: 48
steps at a learning rate of 3e-4, with a divergence of about 10 nats an answer as the limit.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from babyllm.runtime import Runtime
    from babyllm.training.stage import Beginning
    from babyllm.training.stages.policy.ppo_config import PpoConfig

ARGUMENTS = ""


def begin(config: PpoConfig, runtime: Runtime) -> Beginning:
    """A run at step 0; the sample prompts are made first if the configuration names them. Every rank must call this.

    Raises:
        UserError: the model, the critic, the prompts, the rewards and the plan do not fit each other.
    """
    from babyllm.recipes.sample_pairs import prepare_pairs_sample
    from babyllm.training.stages.policy import ppo

    with runtime.main_first():
        prepare_pairs_sample(config.data.path or "")
    return ppo.begin(config, runtime)


def main(argv: Sequence[str] | None = None, prog: str = "babyllm ppo") -> None:
    """Read the configuration, then train in as many processes as it says.

    Args:
        argv: flags; None takes those of this program.
        prog: name of the program in its help.

    Raises:
        UserError: a flag is wrong, or the run fails by a user's mistake.
    """
    from babyllm.training.script import run_stage
    from babyllm.training.stages.policy.ppo_config import PpoConfig, resolved

    run_stage(sys.argv[1:] if argv is None else argv, PpoConfig, begin, resolved, prog, __doc__ or "")
