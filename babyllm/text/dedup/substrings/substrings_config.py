"""The settings of spans that are removed because they repeat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from babyllm.config.values import Count, Limits


@dataclass(frozen=True)
class SubstringsConfig:
    """Spans of characters that are removed because they repeat, wherever in a text they begin and end.

    Characters are Unicode code points. All whitespace is equal, and so is what `fold` says, if a character stays one
    character. Code is cut like other text.

    Attributes:
        min_characters: fewest characters of a span that is removed, such as 50; null removes none.
        keep: occurrence that stays: first, the one in --against or else the first in the order of the inputs; or none,
            so that all inputs lose the span.
        min_left: fewest characters that a document keeps; one that lost a span and has fewer left is removed.
    """

    min_characters: Annotated[int, Limits(10, 1 << 16)] | None = None
    keep: Literal["first", "none"] = "first"
    min_left: Count = 20
