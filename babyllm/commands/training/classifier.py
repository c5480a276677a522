"""Train a classifier on texts, or pairs of texts, with labels, in a process per GPU or core.

It needs --data.path: files of records such as {"text": ..., "label": ...} or {"sentence1", "sentence2", "label"}.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

ARGUMENTS = ""


def main(argv: Sequence[str] | None = None, prog: str = "babyllm classifier") -> None:
    """Read the configuration, then train in as many processes as it says.

    Args:
        argv: flags; None takes those of this program.
        prog: name of the program in its help.

    Raises:
        UserError: a flag is wrong, or the run fails by a user's mistake.
    """
    from babyllm.training.run_config import settled
    from babyllm.training.script import run_stage
    from babyllm.training.stages.preference.classifier import begin
    from babyllm.training.stages.preference.classifier_config import ClassifierConfig

    run_stage(sys.argv[1:] if argv is None else argv, ClassifierConfig, begin, settled, prog, __doc__ or "")
