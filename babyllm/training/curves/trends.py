"""Statistics of noisy curves: levels of stretches, and the trend of a window with its standard error."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
BLOCKS = 12


class Trend(NamedTuple):
    """The straight line through a window.

    Attributes:
        level: mean of the window.
        change: fitted change from the window's beginning to its end.
        error: standard error of `change`.
    """

    level: float
    change: float
    error: float

    @property
    def t(self) -> float:
        """`change` over its standard error; infinite for a line without noise."""
        return self.change / self.error if self.error else math.copysign(math.inf, self.change) if self.change else 0.0


def trend(values: Values) -> Trend:
    """The least-squares line through the means of `BLOCKS` successive blocks.

    Noise that lasts for some records, and a curve that bends, count as noise of the blocks and widen the error.

    Args:
        values: (n,) finite values at equal distances, n at least `BLOCKS`.
    """
    means = np.array([block.mean() for block in np.array_split(values, BLOCKS)])
    x = np.arange(BLOCKS) - (BLOCKS - 1) / 2
    slope = float(x @ means / (x @ x))
    rest = means - means.mean() - slope * x
    error = math.sqrt(float(rest @ rest) / (BLOCKS - 2) / float(x @ x))
    return Trend(float(values.mean()), BLOCKS * slope, BLOCKS * error)


def levels(values: Values, length: int) -> tuple[Values, float]:
    """The means of successive stretches, and the standard error of one of them.

    The error is that of independent noise, whose deviation is estimated from differences of neighbours, so a trend does
    not count.

    Args:
        values: (n,) finite values.
        length: values of a stretch; values at the beginning that do not fill one are left out.
    """
    n = len(values) // length
    means = values[len(values) - n * length :].reshape(n, length).mean(axis=1)
    noise = float(np.square(np.diff(values)).mean()) / 2 if len(values) > 1 else 0.0
    return means, math.sqrt(noise / length)
