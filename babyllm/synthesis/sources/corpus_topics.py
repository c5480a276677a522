"""Topics of a corpus: its passages in clusters by the characters and words they share, with examples of each."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from babyllm.selection.numeric.k_means import k_means, nearest_members
from babyllm.synthesis.made_items import Item
from babyllm.text.dedup.normal import normal_form

WIDTH = 512  # of the vectors: pairs of characters are counted by their hash
SHOWN = 5  # passages of a cluster that a prompt shows
_EXCERPT = 300  # characters of each
_MOST = 20_000  # passages that are divided into clusters


def topics_of(passages: Sequence[Item], n: int | None, seed: int) -> list[Item]:
    """An item for each cluster of passages, with the beginnings of those nearest to its centre as `excerpts`.

    Args:
        passages: items with a `document`.
        n: number of clusters; None takes the square root of the number of passages.
        seed: seed of the first centres.
    """
    passages = passages[:: max(1, -(-len(passages) // _MOST))]
    if not passages:
        return []
    vectors = _vectors([str(item.values["document"]) for item in passages])
    k = min(len(passages), n or round(len(passages) ** 0.5))
    items = []
    for number, members in enumerate(nearest_members(k_means(vectors, k, seed=seed), SHOWN)):
        near = [passages[i] for i in members.tolist()]
        if near:
            excerpts = [str(item.values["document"])[:_EXCERPT] for item in near]
            parents = tuple(dict.fromkeys(parent for item in near for parent in item.parents))
            items.append(Item(f"cluster-{number}", {"excerpts": excerpts}, parents))
    return items


def _vectors(texts: Sequence[str]) -> NDArray[np.float32]:
    """(n, WIDTH) float32 vectors of length 1: counts of pairs of characters, times log(1 + texts / texts with them)."""
    counts = np.zeros((len(texts), WIDTH), np.float32)
    places: dict[str, int] = {}
    for row, text in zip(counts, texts, strict=True):
        normal = normal_form(text)
        for pair in (normal[i : i + 2] for i in range(len(normal) - 1)):
            if pair not in places:
                places[pair] = int.from_bytes(hashlib.blake2b(pair.encode(), digest_size=4).digest(), "big") % WIDTH
            row[places[pair]] += 1
    counts = np.log1p(counts) * np.log1p(len(texts) / np.maximum(1, (counts > 0).sum(0, dtype=np.int64)))
    vectors: NDArray[np.float32] = counts / np.maximum(1e-6, np.linalg.norm(counts, axis=1, keepdims=True))
    return vectors.astype(np.float32)
