"""Topics: the centres of clusters of vectors, with the words that set them apart, in one file.

sample of texts -> vectors -> k-means on the sphere (Dhillon and Modha 2001) -> centres, the largest cluster first
texts -> vectors -> nearest centre
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from babyllm.errors import UserError
from babyllm.files import fsync
from babyllm.selection.numeric.importance import ImportanceConfig
from babyllm.selection.numeric.k_means import assign, k_means
from babyllm.selection.numeric.vectors import F32, F64, Rows, Vectors
from babyllm.selection.topics.word_vectors import WordVectors

TOPICS = "topics.npz"


class Embedding(Protocol):
    """What turns texts into vectors."""

    def vectors(self, texts: Sequence[str]) -> F32:
        """(n, d) float32; zero for a text that has none."""


@dataclass(frozen=True)
class TopicModel:
    """Topics, the largest in the sample first.

    Attributes:
        centres: (k, d) float32 centres of the topics.
        words: words that set each topic apart.
        by_words: what turns texts into vectors; None where a language model does.
        model: identity of that language model; empty for words.
    """

    centres: F32
    words: list[list[str]]
    by_words: WordVectors | None
    model: str = ""

    def __len__(self) -> int:
        """The number of topics."""
        return len(self.centres)

    def name(self, topic: int) -> str:
        """The name of a topic, such as topic-07; topic-none for a negative number."""
        return f"topic-{topic:0{len(str(len(self) - 1))}d}" if topic >= 0 else "topic-none"

    def nearest(self, vectors: F32) -> tuple[Rows, F64]:
        """The topic of each of (n, d) vectors, (n,) int64, and the squared distance to its centre, (n,) float64.

        Vectors are those over their lengths, so the latter is from 0 to 4. A vector of zeros has topic -1 and no
        distance, NaN.
        """
        topics, squares = np.full(len(vectors), -1, np.int64), np.full(len(vectors), np.nan)
        known = np.flatnonzero(vectors.any(axis=1))
        if len(known):
            topics[known], squares[known] = assign(Vectors(vectors, known, "cosine"), self.centres)
        return topics, squares

    def save(self, path: Path) -> None:
        """Write the topics to one file, the same bytes for the same topics."""
        about: dict[str, Any] = {"words": self.words, "model": self.model}
        arrays: dict[str, Any] = {"centres": self.centres}
        if self.by_words:
            about["buckets"], about["tokens"] = self.by_words.hashing.buckets, self.by_words.hashing.tokens
            arrays |= {"rarity": self.by_words.rarity, "directions": self.by_words.directions}
        text = json.dumps(about, ensure_ascii=False).encode("utf-8", "backslashreplace")
        with path.open("wb") as file:
            np.savez(file, about=np.frombuffer(text, np.uint8), **arrays)
        fsync(path)


def load_topics(directory: Path, flag: str = "--like") -> TopicModel:
    """The topics that `babyllm topics` wrote to a directory.

    Raises:
        UserError: there are none, or the file is damaged; the message names `flag`.
    """
    path = directory / TOPICS
    try:
        with np.load(path) as file:
            about = json.loads(file["about"].tobytes())
            by_words = None
            if "rarity" in file.files:
                hashing = ImportanceConfig(about["buckets"], 2, about["tokens"])
                by_words = WordVectors(hashing, file["rarity"], file["directions"])
            return TopicModel(file["centres"], about["words"], by_words, about["model"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{flag}={directory}: {path.name} cannot be read ({error}); give a directory that `babyllm topics` has made"
        ) from None


def cluster(vectors: F32, n: int, seed: int) -> tuple[F32, Rows]:
    """The centres of `n` clusters of vectors, (n, d) float32, and the cluster of each vector, the largest first.

    Args:
        vectors: (m, d) float32; those that are zero belong to no cluster, -1.
        n: number of clusters.
        seed: seed of the first centres.

    Raises:
        UserError: there are fewer vectors than clusters.
    """
    known = np.flatnonzero(vectors.any(axis=1))
    if len(known) < n:
        raise UserError(f"--n={n}: the sample has {len(known):,} documents with words; ask for fewer topics")
    found = k_means(vectors, n, metric="cosine", among=known, seed=seed)
    order = np.lexsort((np.arange(n), -np.bincount(found.labels, minlength=n)))
    labels = np.full(len(vectors), -1, np.int64)
    labels[known] = np.argsort(order)[found.labels]
    return found.centres[order], labels
