"""The configuration of a test of learning rates for fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass, field

from babyllm.config.values import PathText
from babyllm.training.curves.rate_range import RUN_DIR, RangeOptions
from babyllm.training.stages.fine_tuning_config import FineTuneConfig


@dataclass(frozen=True)
class FineTuneRange(FineTuneConfig):
    """Flags of `babyllm lr-range sft`.

    Attributes:
        run_dir: directory of the test, for the picture and for data that are prepared; not that of a run.
        range: learning rates of the test.
    """

    run_dir: PathText = RUN_DIR
    range: RangeOptions = field(default_factory=RangeOptions)
