"""The configuration of classifiers."""

from __future__ import annotations

from dataclasses import dataclass, field

from babyllm.config.values import AnyCount, PathText
from babyllm.data.labelling.label_config import LabelConfig
from babyllm.schedule import Plan
from babyllm.training.adapted_config import AdaptedRunConfig


@dataclass(frozen=True)
class ClassifierConfig(AdaptedRunConfig):
    """The configuration of `train_classifier.py`."""

    run_dir: PathText = "runs/classifier"
    data: LabelConfig = field(default_factory=LabelConfig)
    plan: Plan = field(default_factory=lambda: Plan(epochs=3, peak_lr=3e-4))
    eval_every: AnyCount = 100
    save_every: AnyCount = 100
    best: str = "all/accuracy"
