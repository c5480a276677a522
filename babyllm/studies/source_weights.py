"""Weights of a mixture from the sizes of domains and the quality of their documents.

corpora -> bytes and quality of each domain -> weights -> data.mix

The weight of a domain of n bytes and quality q is q * n**alpha over the sum of all. n**alpha is the sampling of Conneau
and Lample 2019, Cross-lingual Language Model Pretraining (arXiv:1901.07291), section 3.1: with alpha below 1, small
domains get more than their share. The factor q does with measured scores what the hand-set weights of Brown et al. 2020
(arXiv:2005.14165), table 2.2, do: better sources are read more often than their size says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from babyllm.errors import UserError
from babyllm.store.corpus import open_corpus
from babyllm.store.parquet import FAULTS, open_parquet

SCORES = "scores.parquet"


@dataclass
class Domain:
    """The amount of text of a domain, and the quality of its documents.

    Attributes:
        size: UTF-8 bytes of its text.
        scored: bytes of the documents that have a score.
        good: sum over these of bytes times score, or the bytes of those whose score is high enough.
    """

    size: int = 0
    scored: int = 0
    good: float = 0.0

    @property
    def quality(self) -> float:
        """The mean score by bytes, or the share of bytes in documents whose score is high enough."""
        return self.good / self.scored if self.scored else float("nan")


def measure(corpora: Sequence[Path], score: str | None, at_least: float | None) -> dict[str, Domain]:
    """The domains of some corpora together, sorted by name.

    Args:
        corpora: directories of corpora; with a score, those that `babyllm select` wrote.
        score: column of their `scores.parquet`; None measures sizes alone.
        at_least: score from which a document counts as good; None takes the mean of the scores.

    Raises:
        UserError: a corpus cannot be read or has no such score, or a mean is not above 0.
    """
    found: dict[str, Domain] = {}
    for path in corpora:
        for name, count in open_corpus(path).domains().items():
            found.setdefault(name, Domain()).size += count.bytes
        if score is not None:
            _add_scores(found, path / SCORES, score, at_least)
    for name, domain in found.items() if score is not None else ():
        if not domain.quality >= 0:
            why = f"a mean score of {domain.quality:g}" if domain.scored else "no document with a score"
            raise UserError(
                f"--quality={score}: the domain {name} has {why}; set --at_least, or choose scores that are at least 0"
            )
    return dict(sorted(found.items()))


def _add_scores(found: dict[str, Domain], path: Path, score: str, at_least: float | None) -> None:
    """Add the scores of the documents that were kept."""
    try:
        with open_parquet(path) as file:
            if score not in file.schema_arrow.names:
                there = ", ".join(file.schema_arrow.names)
                raise UserError(f"--quality={score}: {path} has no such column; it has {there}")
            for batch in file.iter_batches(columns=["task", "bytes", "rank", score], use_threads=False):
                values = np.array(batch.column(score).to_pylist(), np.float64)
                sizes = batch.column("bytes").to_numpy().astype(np.float64)
                kept = batch.column("rank").is_valid().to_numpy(zero_copy_only=False) & ~np.isnan(values)
                worth = values if at_least is None else (values >= at_least).astype(np.float64)
                names, places = np.unique(np.array(batch.column("task").to_pylist(), object), return_inverse=True)
                scored = np.bincount(places[kept], sizes[kept], len(names))
                good = np.bincount(places[kept], (sizes * worth)[kept], len(names))
                for name, n_scored, n_good in zip(names.tolist(), scored.tolist(), good.tolist(), strict=True):
                    if n_scored and name in found:
                        found[name].scored += int(n_scored)
                        found[name].good += n_good
    except FAULTS as error:
        raise UserError(f"{path}: cannot be read ({error}); score the corpus with babyllm select") from None


def source_weights(sizes: NDArray[np.float64], quality: NDArray[np.float64], alpha: float) -> NDArray[np.float64]:
    """(D,) weights q * n**alpha over their sum.

    Args:
        sizes: (D,) bytes n of each domain.
        quality: (D,) quality q of each, at least 0.
        alpha: exponent of the size.

    Raises:
        UserError: all weights are 0.
    """
    raw = quality * np.power(sizes / max(1.0, sizes.max()), alpha)
    if not raw.sum() > 0:
        raise UserError("no domain has any good text; lower --at_least, or choose another --quality")
    weights: NDArray[np.float64] = raw / raw.sum()
    return weights
