"""Settings of the harvest of stored sessions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from babyllm.config.values import Limits, Seed, ShareBelow1
from babyllm.flywheel.answer_rules import AnswerRules
from babyllm.flywheel.labels.judged_labels import check_classifiers
from babyllm.flywheel.labels.labeller_config import LabellerConfig
from babyllm.text.personal.removal import RULES, check_kinds


@dataclass(frozen=True)
class HarvestConfig(LabellerConfig):
    """Settings of the harvest.

    Attributes:
        personal: kinds of personal data that placeholders replace.
        unrated: treatment of answers that nobody has rated: those of at least min_quality are good ones (judged), all
            that the rules leave are (keep), or none is (drop). Without a judge or a classifier of quality, judged is
            the same as drop.
        min_quality: least quality of a good answer, from 1 to 5, where a judge or classifier says it.
        max_bad_quality: largest quality of a bad answer.
        near: similarity from which a record repeats another one, from 0 to 1; 1 leaves out equal ones alone.
        held_out: share of the sessions that no model is trained on, for comparisons; a hash of the question decides.
        rules: rules about questions and answers.
        seed: number that decides, with the questions, which are held out.
    """

    personal: list[str] = field(default_factory=lambda: list(RULES))
    unrated: Literal["judged", "keep", "drop"] = "judged"
    min_quality: Annotated[float, Limits(1, 5)] = 4.0
    max_bad_quality: Annotated[float, Limits(0, 5)] = 2.0
    near: Annotated[float, Limits(0, 1, above=True)] = 0.8
    held_out: ShareBelow1 = 0.1
    rules: AnswerRules = field(default_factory=AnswerRules)
    seed: Seed = 0

    def check(self) -> None:
        """Check the names of kinds and labels.

        Raises:
            UserError: one of them is unknown.
        """
        check_kinds(self.personal)
        check_classifiers(self.classifiers)
