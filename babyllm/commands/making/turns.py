"""Find conversations whose turns do not follow from each other, and keep the others and a share of these.

A classifier says how probable it is that a turn follows from those before it, or a model at an endpoint does. --pairs
makes the pairs of turns that such a classifier is trained on (`babyllm classifier --data.path=OUT/train.jsonl
--data.held_out_path=[OUT/heldout.jsonl] --data.held_out=0`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from babyllm.config.values import PathText, expand_paths
from babyllm.endpoint.config import EndpointConfig
from babyllm.errors import UserError
from babyllm.selection.turns.turn_config import PairConfig, TurnConfig

if TYPE_CHECKING:
    from babyllm.pipeline.report import Report

ARGUMENTS = "IN... OUT"


@dataclass(frozen=True)
class Flags:
    """Flags of `babyllm turns`.

    Attributes:
        pairs: whether pairs of turns are made, in place of a choice.
        pair: how they are made.
        choice: what becomes of conversations.
        classifier: run or directory of the classifier.
        endpoint: model that is asked instead, and what that may cost; its replies are stored in OUT.
    """

    pairs: bool = False
    pair: PairConfig = field(default_factory=PairConfig)
    choice: TurnConfig = field(default_factory=TurnConfig)
    classifier: PathText | None = None
    endpoint: EndpointConfig = field(default_factory=lambda: EndpointConfig(temperature=0.0))

    def __post_init__(self) -> None:
        """Expand `~` in paths."""
        expand_paths(self)


def run(flags: Flags, *arguments: str) -> None:
    """Make pairs, or score the conversations of the files IN and write those that are kept into OUT.

    Raises:
        UserError: a file or flag is at fault; the message names it.
    """
    from babyllm.pipeline.report import print_report

    *inputs, out = map(Path, arguments)
    print_report(_report(flags, inputs, out))
    print(f"\n{out / 'report.html'} shows this")


def _report(flags: Flags, inputs: list[Path], out: Path) -> Report:
    from babyllm.selection.turns.select_turns import REPLIES, make_pairs, rarity_in, select_turns

    if flags.pairs:
        return make_pairs(inputs, out, flags.pair)
    if (flags.classifier is None) == (flags.endpoint.url is None):
        raise UserError("give --classifier=DIR or --endpoint.url and --endpoint.model, one of them; or --pairs")
    from babyllm.selection.turns.turn_scorers import classifier_scorer, judge_scorer

    if flags.classifier:
        scorer = classifier_scorer(Path(flags.classifier), rarity_in(inputs))
        return select_turns(inputs, out, flags.choice, scorer)
    with judge_scorer(flags.endpoint, out / REPLIES) as scorer:
        return select_turns(inputs, out, flags.choice, scorer)
