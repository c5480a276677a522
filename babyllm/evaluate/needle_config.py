"""The settings of a needle test."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from babyllm.config.values import Count, Members, PathText, Seed, Share


@dataclass(frozen=True)
class NeedleConfig:
    """The prompts of a needle test.

    Attributes:
        lengths: numbers of tokens of the prompts; empty takes a quarter, a half and all of the model's context.
        depths: places of the fact, from 0 at the beginning of the text to 1 at its end.
        repeats: number of prompts of each length and depth, with facts of their own.
        language: language of fact and question; null makes no needle test.
        text: file of text that surrounds the fact; null takes some sentences, over and over.
        seed: seed of names, numbers and places in the text.
    """

    lengths: list[Members] = field(default_factory=list)
    depths: list[Share] = field(default_factory=lambda: [0.0, 0.25, 0.5, 0.75, 1.0])
    repeats: Count = 10
    language: Literal["zh", "en"] | None = None
    text: PathText | None = None
    seed: Seed = 0
