"""Settings of a whole turn of the flywheel."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from babyllm.config.values import Count, Limits, PathText, ShareBelow1, expand_paths
from babyllm.flywheel.harvest_config import HarvestConfig


@dataclass(frozen=True)
class TurnConfig:
    """Settings of a turn of the flywheel.

    Attributes:
        current: model in use. A symbolic link is set to the new model if that is the better one; a directory stays.
        replay: file or folder, or [several], of the conversations that the model was trained on before; they are mixed
            in, so that it forgets less.
        replay_share: share of the training that is replay.
        also: file or folder, or [several], of further conversations to train on.
        repaired: file or folder, or [several], of pairs whose chosen answers are trained on, such as those that
            `babyllm synth repair` makes of bad cases.
        train: YAML file with settings of `babyllm sft`, such as plan.peak_lr; null takes the defaults.
        epochs: number of times that each new conversation is trained on.
        test: file of conversations whose last answers are right, for a comparison by task; null compares by none.
        answers: possible answers of the held-out questions, such as [好评, 差评], if they are few. One that is not the
            answer that people found bad then counts by the chance that it is right.
        verdict: what replaces the model in use. better asks for a comparison that the new model wins beyond its error
            and none that it loses so; not_worse only for none that it loses so.
        max_new_tokens: largest number of tokens of an answer in the comparisons.
        dry_run: whether to say what would be done, and do nothing.
        harvest: settings of the harvest; its judge also compares answers.
    """

    current: PathText = "runs/sft"
    replay: PathText | list[PathText] = field(default_factory=list)
    replay_share: ShareBelow1 = 0.5
    also: PathText | list[PathText] = field(default_factory=list)
    repaired: PathText | list[PathText] = field(default_factory=list)
    train: PathText | None = None
    epochs: Annotated[float, Limits(0, 1000, above=True)] = 2.0
    test: PathText | None = None
    answers: list[str] = field(default_factory=list)
    verdict: Literal["better", "not_worse"] = "better"
    max_new_tokens: Count = 256
    dry_run: bool = False
    harvest: HarvestConfig = field(default_factory=HarvestConfig)

    def __post_init__(self) -> None:
        """Expand `~` in paths."""
        expand_paths(self)

    @property
    def files(self) -> dict[str, list[str]]:
        """The files and folders that each flag names."""
        given = {name: getattr(self, name) for name in ("replay", "also", "repaired", "test", "train")}
        return {name: [value] if isinstance(value, str) else list(value or []) for name, value in given.items()}
