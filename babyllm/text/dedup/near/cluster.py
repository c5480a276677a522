"""Clusters: the connected parts of the graph of links, and the one document of each that survives."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from babyllm.ragged import U64
from babyllm.text.dedup.near.candidates import unpack


def components(n: int, a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.int64]:
    """The least number of the part of the graph that each of n nodes is in, given edges between a[i] and b[i].

    Union-find on all edges at once: roots are hung below the smaller root of a neighbour and paths are halved until
    nothing changes, which takes about log2(n) rounds.
    """
    root = np.arange(n)
    while len(a):
        low, high = np.minimum(root[a], root[b]), np.maximum(root[a], root[b])
        apart = low != high
        a, b = a[apart], b[apart]
        np.minimum.at(root, high[apart], low[apart])
        while not np.array_equal(above := root[root], root):
            root = above
    return root


class Members(NamedTuple):
    """The documents that are alike to another, in ascending order.

    Attributes:
        documents: their numbers.
        survivor: the document that stands for each.
        neighbour: the alike document that joined it: of equal documents the first; for that one the survivor where the
            two are linked, else the most similar; a survivor's is itself.
        similarity: to the neighbour.
        method: of the link to the neighbour, as a number; -1 for a survivor.
    """

    documents: NDArray[np.int64]
    survivor: NDArray[np.int64]
    neighbour: NDArray[np.int64]
    similarity: NDArray[np.float64]
    method: NDArray[np.int64]


def cluster(
    documents: NDArray[np.int64],
    order: NDArray[np.int64],
    pairs: U64,
    similarity: NDArray[np.float64],
    method: NDArray[np.int64],
) -> Members:
    """The clusters that links make.

    Args:
        documents: the numbers of all documents with a link, ascending.
        order: of each document, a number of its own: the smallest of a cluster survives, and it decides between
            neighbours of the same similarity.
        pairs: the links, packed; a pair may be there more than once.
        similarity: of each link.
        method: of each link: 0 joins equal documents; between links of one pair and similarity the smallest counts.
    """
    n = len(documents)
    by_rank = np.argsort(order)
    rank = np.empty(n, np.int64)
    rank[by_rank] = np.arange(n)
    # Nodes are numbered by rank, so the least of a part is the one that survives, or the first of equal documents.
    a, b = (rank[np.searchsorted(documents, side)] for side in unpack(pairs))
    is_equal = method == 0
    first = components(n, a[is_equal], b[is_equal])
    a, b = first[a[~is_equal]], first[b[~is_equal]]
    others = np.flatnonzero(first != np.arange(n))
    survivor = components(n, np.concatenate([a, others]), np.concatenate([b, first[others]]))
    source, target = np.concatenate([others, a, b]), np.concatenate([first[others], b, a])
    similarity = np.concatenate([np.ones(len(others)), np.tile(similarity[~is_equal], 2)])
    method = np.concatenate([np.zeros(len(others), np.int64), np.tile(method[~is_equal], 2)])
    best = np.lexsort((method, target, -similarity, target != survivor[source], source))
    best = best[np.unique(source[best], return_index=True)[1]]
    link = np.zeros(n, np.int64)
    link[source[best]] = best
    is_survivor = survivor == np.arange(n)
    neighbour = np.where(is_survivor, survivor, target[link])
    similarity = np.where(is_survivor, 1.0, similarity[link])
    method = np.where(is_survivor, -1, method[link])
    return Members(
        documents,
        documents[by_rank[survivor]][rank],
        documents[by_rank[neighbour]][rank],
        similarity[rank],
        method[rank],
    )


def select(members: Members, chosen: NDArray[np.bool_]) -> Members:
    """The members for which `chosen` is true; of a cluster all or none."""
    documents, survivor, neighbour, similarity, method = members
    return Members(documents[chosen], survivor[chosen], neighbour[chosen], similarity[chosen], method[chosen])
