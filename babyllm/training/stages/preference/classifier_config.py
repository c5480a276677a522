"""The configuration of classifiers."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from babyllm.config.values import AnyCount, Epochs, PathText
from babyllm.data.labelling.label_config import LabelConfig
from babyllm.schedule import Plan
from babyllm.training.adapted_config import AdaptedRunConfig
from babyllm.training.run_config import settled

SAMPLE = "data/sample_labels"


@dataclass(frozen=True)
class ClassifierConfig(AdaptedRunConfig):
    """The configuration of `train_classifier.py`."""

    run_dir: PathText = "runs/classifier"
    data: LabelConfig = field(default_factory=LabelConfig)
    plan: Plan = field(default_factory=lambda: Plan(epochs=3, peak_lr=3e-4))
    eval_every: AnyCount = 100
    save_every: AnyCount | Epochs = 100
    best: str = "all/accuracy"


def resolved(config: ClassifierConfig) -> ClassifierConfig:
    """The same configuration with the number of processes, and with the sample set if it names no data.

    Raises:
        UserError: there is no such device, or too few of them.
    """
    data = config.data
    if data.path is None:
        held_out = [f"{SAMPLE}/heldout.jsonl"]
        data = replace(data, path=f"{SAMPLE}/train.jsonl", held_out_path=held_out, held_out=0.0)
    return settled(replace(config, data=data))
