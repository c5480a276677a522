"""The filter for texts whose length is far from what is usual in their domain.

What is usual is known when all texts have been measured, so the filters before this one make a pass of their own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from babyllm.values import Rate


@dataclass(frozen=True)
class LengthSums:
    """Exact sums over texts, which do not depend on their order: how many, their lengths, their squared lengths."""

    n: int = 0
    total: int = 0
    squares: int = 0

    def __add__(self, other: LengthSums) -> LengthSums:
        return LengthSums(self.n + other.n, self.total + other.total, self.squares + other.squares)


@dataclass(frozen=True)
class Outliers:
    """Turn away texts whose length in characters is far from the mean of their domain.

    Attributes:
        deviations: how far, in standard deviations.
    """

    deviations: Rate = 3.0

    def bounds(self, sums: Mapping[str, LengthSums]) -> dict[str, tuple[float, float]]:
        """The least and greatest usual length of each domain."""
        usual = {}
        for domain, s in sums.items():
            mean = s.total / s.n
            spread = self.deviations * math.sqrt(s.n * s.squares - s.total**2) / s.n
            usual[domain] = (mean - spread, mean + spread)
        return usual

    def test_in(self, text: str, usual: tuple[float, float]) -> str | None:
        """Why a text of a domain with these bounds is turned away, or None."""
        if usual[0] <= len(text) <= usual[1]:
            return None
        side = "shorter" if len(text) < usual[0] else "longer"
        return f"{side} than usual in its domain by {self.deviations:g} standard deviations"
