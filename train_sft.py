"""Teach a model to converse: `python train_sft.py [--section.key=value ...]`, a process per GPU or core.

With no arguments it teaches the model of `runs/pretrain` to judge and write shop reviews, from the sample set.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from babyllm.runtime import Runtime, user_errors
from babyllm.training.script import run_stage
from babyllm.training.stages.fine_tuning_config import FineTuneConfig, resolved
from data.sample_sft import prepare_sft_sample

if TYPE_CHECKING:
    from babyllm.training.stage import Beginning


def begin(config: FineTuneConfig, runtime: Runtime) -> Beginning:
    """A run at step 0, after the sample set was made where it is asked for."""
    from babyllm.training.stages import fine_tuning

    with runtime.main_first():
        prepare_sft_sample(config.data.path or "")
    return fine_tuning.begin(config, runtime)


def main() -> None:
    """Read the configuration, then train in as many processes as it says."""
    run_stage(sys.argv[1:], FineTuneConfig, begin, resolved, "train_sft.py", __doc__ or "")


if __name__ == "__main__":
    with user_errors():
        main()
