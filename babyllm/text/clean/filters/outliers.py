"""The filter for texts that are far from what is usual in their domain, by one measure or several.

What is usual is known when all texts have been measured, so the filters before this one make a pass of their own.
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
    """Exact sums of a measure over texts: how many, their values, their squared values."""

    n: int = 0
    total: int = 0
    squares: int = 0

    def __add__(self, other: Sums) -> Sums:
        return Sums(self.n + other.n, self.total + other.total, self.squares + other.squares)


SumsByMeasure = dict[str, Sums]
Bounds = dict[str, tuple[float, float]]
"""The least and greatest usual value by measure."""


@dataclass(frozen=True)
class Outliers:
    """Turn away texts that are far from the mean of their domain.

    Attributes:
        deviations: how far, in standard deviations.
        measures: what is measured: characters, lines, line_characters (their mean), compression (bytes that zlib
            needs, of all), chinese, letters, digits, symbols (shares of characters). One that is far off is enough.
    """

    deviations: Rate = 3.0
    measures: list[str] = field(default_factory=lambda: ["characters"])

    def values(self, text: str) -> dict[str, int]:
        """The text by each measure.

        Raises:
            UserError: there is no such measure.
        """
        for name in self.measures:
            if name not in MEASURES:
                raise UserError(
                    f"--outliers.measures: there is no '{name}': did you mean '{nearest(name, list(MEASURES))}'?"
                )
        return {name: MEASURES[name](text) for name in self.measures}

    def bounds(self, sums: Mapping[str, SumsByMeasure]) -> dict[str, Bounds]:
        """The usual values of each domain."""
        return {domain: {name: self._usual(s) for name, s in by_measure.items()} for domain, by_measure in sums.items()}

    def _usual(self, sums: Sums) -> tuple[float, float]:
        mean = sums.total / sums.n
        spread = self.deviations * math.sqrt(sums.n * sums.squares - sums.total**2) / sums.n
        return mean - spread, mean + spread

    def test_in(self, text: str, usual: Bounds) -> str | None:
        """Why a text of a domain with these usual values is turned away, or None."""
        for name, value in self.values(text).items():
            least, most = usual[name]
            if not least <= value <= most:
                side = "below" if value < least else "above"
                return f"{name} {side} what is usual in its domain by {self.deviations:g} standard deviations"
        return None


def add(sums: dict[str, SumsByMeasure], domain: str, values: Mapping[str, int | Sums]) -> None:
    """Add the values of a text, or the sums of texts, to the sums of a domain."""
    mine = sums.setdefault(domain, {})
    for name, value in values.items():
        mine[name] = mine.get(name, Sums()) + (value if isinstance(value, Sums) else Sums(1, value, value * value))
