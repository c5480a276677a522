"""Train a classifier on texts, or pairs of texts, with labels, in a process per GPU or core.

With no arguments it teaches the model of `runs/pretrain` whether a shop review is positive, from the sample set. Your
own files (--data.path) hold records such as {"text": ..., "label": ...} or {"sentence1", "sentence2", "label"}.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from babyllm.runtime import Runtime
    from babyllm.training.stage import Beginning
    from babyllm.training.stages.preference.classifier_config import ClassifierConfig

ARGUMENTS = ""


def begin(config: ClassifierConfig, runtime: Runtime) -> Beginning:
    """A run at step 0; the sample set is made first if the configuration names it. Every rank must call this.

    Raises:
        UserError: the model, the data and the plan do not fit each other.
    """
    from babyllm.recipes.sample_labels import prepare_labels_sample
    from babyllm.training.stages.preference import classifier

    with runtime.main_first():
        prepare_labels_sample(config.data.path or "")
    return classifier.begin(config, runtime)


def main(argv: Sequence[str] | None = None, prog: str = "babyllm classifier") -> None:
    """Read the configuration, then train in as many processes as it says.

    Args:
        argv: flags; None takes those of this program.
        prog: name of the program in its help.

    Raises:
        UserError: a flag is wrong, or the run fails by a user's mistake.
    """
    from babyllm.training.script import run_stage
    from babyllm.training.stages.preference.classifier_config import ClassifierConfig, resolved

    run_stage(sys.argv[1:] if argv is None else argv, ClassifierConfig, begin, resolved, prog, __doc__ or "")
