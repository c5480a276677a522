"""Filters that ask a model: perplexity under a language model, and a classifier of quality."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from babyllm.config.values import Finite, PathText
from babyllm.errors import UserError
from babyllm.text.clean import quality

Scorer = Callable[[Sequence[str]], Sequence[float]]
"""texts -> bits per byte of each."""


@dataclass(frozen=True)
class Perplexity:
    """Turn away texts that a language model finds too surprising (noise) or not surprising at all (boilerplate).

    Bits per byte compare models with different tokenizers: the nats of all tokens over ln 2 over the UTF-8 bytes.

    Attributes:
        model: a run, step or Hugging Face directory; needed when the filter is used.
        min: fewest bits per byte.
        max: most bits per byte; null for no limit.
    """

    model: PathText = ""
    min: Finite = 0.0
    max: Finite | None = None

    def judge(self, texts: Sequence[str], scorer: Scorer) -> list[str | None]:
        """Why each text is turned away, or None."""
        return [self._reason(bits) for bits in scorer(texts)]

    def _reason(self, bits: float) -> str | None:
        if bits < self.min:
            return f"below {self.min:g} bits per byte"
        if self.max is not None and bits > self.max:
            return f"above {self.max:g} bits per byte"
        return None


@dataclass(frozen=True)
class Quality:
    """Turn away texts that a classifier finds poor.

    It is a linear model on character n-grams. With `good` and `bad` it is trained first and stored with the corpus, its
    accuracy on examples held out in `quality.json`; `model` takes one that was stored before.

    Attributes:
        model: the directory of an earlier corpus whose classifier is used.
        good: files or folders with good texts to learn from.
        bad: files or folders with bad texts to learn from.
        min: least probability of being good, 0 to 1.
    """

    model: PathText = ""
    good: list[PathText] | None = None
    bad: list[PathText] | None = None
    min: Finite = 0.5

    def judge(self, texts: Sequence[str]) -> list[str | None]:
        """Why each text is turned away, or None."""
        poor = f"probability of being good below {self.min:g}"
        return [poor if p < self.min else None for p in _classifier(self.model).probabilities(texts).tolist()]


@cache
def _classifier(directory: str) -> quality.Classifier:
    if not directory:
        raise UserError("--quality.model is missing: name a directory, or give --quality.good and --quality.bad")
    return quality.load(Path(directory))
