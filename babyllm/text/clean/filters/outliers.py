"""The filter for texts that are far from the mean of their domain, by one measure or several.

The means are known after all texts have been measured, so the filters before this one make a pass of their own.
Measures are whole numbers, so that sums over texts are exact and do not depend on their order.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from babyllm.config import nearest
from babyllm.config.values import Rate
from babyllm.errors import UserError
from babyllm.text.clean.filters.contract import Bounds, Judge, Resources
from babyllm.text.clean.filters.measures import KINDS, kind_counts

_MILLION = 1_000_000  # shares are counted in millionths


def _compression(text: str) -> int:
    raw = text.encode()
    return _MILLION * len(zlib.compress(raw)) // max(1, len(raw))


def _share(kind: int) -> Callable[[str], int]:
    def share(text: str) -> int:
        counts = kind_counts([text])[0]
        return _MILLION * counts[kind] // max(1, sum(counts))

    return share


MEASURES: Mapping[str, Callable[[str], int]] = {
    "characters": len,
    "lines": lambda text: text.count("\n") + 1,
    "line_characters": lambda text: 1000 * len(text) // (text.count("\n") + 1),
    "compression": _compression,
    **{name: _share(kind) for kind, name in enumerate(KINDS)},
}


@dataclass(frozen=True)
class Sums:
    """Exact sums of a measure over texts.

    Attributes:
        n: number of texts.
        total: sum of the values.
        squares: sum of the squared values.
    """

    n: int = 0
    total: int = 0
    squares: int = 0

    def __add__(self, other: Sums) -> Sums:
        return Sums(self.n + other.n, self.total + other.total, self.squares + other.squares)


SumsByMeasure = dict[str, Sums]


@dataclass(frozen=True)
class Outliers:
    """Reject texts that are far from the mean of their domain.

    Attributes:
        deviations: largest distance from the mean in standard deviations.
        measures: measures; a text is rejected if any of them is too far from its mean. Available are characters, lines,
            line_characters (mean length of a line), compression (share of the bytes left by zlib), and the shares of
            characters chinese, letters, digits and symbols.
    """

    deviations: Rate = 3.0
    measures: list[str] = field(default_factory=lambda: ["characters"])

    def values(self, text: str) -> dict[str, int]:
        """The value of each chosen measure for a text.

        Raises:
            UserError: a measure is unknown.
        """
        for name in self.measures:
            if name not in MEASURES:
                raise UserError(
                    f"--outliers.measures: there is no '{name}': did you mean '{nearest(name, list(MEASURES))}'?"
                )
        return {name: MEASURES[name](text) for name in self.measures}

    def bounds(self, sums: Mapping[str, SumsByMeasure]) -> dict[str, Bounds]:
        """The lowest and highest usual value of each measure, by domain."""
        return {domain: {name: self._usual(s) for name, s in by_measure.items()} for domain, by_measure in sums.items()}

    def _usual(self, sums: Sums) -> tuple[float, float]:
        mean = sums.total / sums.n
        spread = self.deviations * math.sqrt(sums.n * sums.squares - sums.total**2) / sums.n
        return mean - spread, mean + spread

    def prepare(self, resources: Resources) -> Judge:
        """The function that judges documents by the usual values of their domain.

        Raises:
            UserError: a measure is unknown.
        """
        self.values("")
        return lambda documents: [
            self._reason(document.text, resources.usual.get(document.domain, {})) for document in documents
        ]

    def _reason(self, text: str, usual: Bounds) -> str | None:
        for name, (least, most) in usual.items():
            value = MEASURES[name](text)
            if not least <= value <= most:
                side = "below" if value < least else "above"
                return f"{name} {side} what is usual in its domain by {self.deviations:g} standard deviations"
        return None


def add(sums: dict[str, SumsByMeasure], domain: str, values: Mapping[str, int | Sums]) -> None:
    """Add the values of a text, or the sums of texts, to the sums of a domain."""
    mine = sums.setdefault(domain, {})
    for name, value in values.items():
        mine[name] = mine.get(name, Sums()) + (value if isinstance(value, Sums) else Sums(1, value, value * value))
