"""Pretrain a language model: `python train_pretrain.py [--section.key=value ...]`, a process per GPU or core.

With no arguments it prepares the sample corpus and trains a small model on it.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from babyllm.runtime import Runtime, user_errors
from babyllm.training.script import run_stage
from babyllm.training.stages.pretraining_config import PretrainConfig, resolved
from data.sample import prepare_sample

if TYPE_CHECKING:
    from babyllm.training.stage import Beginning


def begin(config: PretrainConfig, runtime: Runtime) -> Beginning:
    """A run at step 0, after the sample corpus was made where it is asked for."""
    from babyllm.training.stages import pretraining

    with runtime.main_first():
        prepare_sample(config.data.path)
    return pretraining.begin(config, runtime)


def main() -> None:
    """Read the configuration, then train in as many processes as it says."""
    run_stage(sys.argv[1:], PretrainConfig, begin, resolved, "train_pretrain.py", __doc__ or "")


if __name__ == "__main__":
    with user_errors():
        main()
