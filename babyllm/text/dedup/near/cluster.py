"""Clusters: which documents stand for which, and the one of each cluster that survives.

Chains are the connected parts of the graph of links. A direct cluster is a document that stays, with documents that it
is linked to itself.
"""

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


def independent(n: int, low: NDArray[np.int64], high: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Of n nodes whether each stays: no edge joins it to a smaller one that stays.

    Args:
        n: nodes, the smaller the rather kept.
        low: the smaller node of each edge.
        high: the greater one.
    """
    stays = np.ones(n, bool)
    order = np.argsort(low, kind="stable")
    nodes, starts = np.unique(low[order], return_index=True)
    neighbours = np.split(high[order], starts[1:])
    for node, above in zip(nodes.tolist(), neighbours, strict=False):
        if stays[node]:
            stays[above] = False
    return stays


class Members(NamedTuple):
    """The documents that are alike to another, in ascending order.

    Attributes:
        documents: their numbers.
        survivor: the document that stands for each.
        neighbour: the alike document that joined it: of equal documents the first; for that one the survivor where the
            two are linked, else the most similar; a survivor's is itself. In direct clusters it is the survivor.
        similarity: the similarity to the neighbour.
        method: the method of the link to the neighbour, as a number; -1 for a survivor.
    """

    documents: NDArray[np.int64]
    survivor: NDArray[np.int64]
    neighbour: NDArray[np.int64]
    similarity: NDArray[np.float64]
    method: NDArray[np.int64]


class Graph(NamedTuple):
    """Documents as nodes, numbered by preference, and their links as edges.

    Attributes:
        documents: the numbers of the documents, ascending.
        rank: the node of each document.
        by_rank: the place among the documents of each node.
        first: the least node of those that equal each node.
        low: the smaller node of each link between unequal ones, where the least of equal ones stands for all.
        high: the greater one.
        similarity: of each of these links.
        method: of each of these links.
    """

    documents: NDArray[np.int64]
    rank: NDArray[np.int64]
    by_rank: NDArray[np.int64]
    first: NDArray[np.int64]
    low: NDArray[np.int64]
    high: NDArray[np.int64]
    similarity: NDArray[np.float64]
    method: NDArray[np.int64]

    def stays(self, n_fixed: int) -> NDArray[np.bool_]:
        """Of each node whether it stays, or what it equals: the first `n_fixed` do, others if no link forbids it.

        In the order of preference a node stays unless it is linked to one that stays.
        """
        removable = self.high >= n_fixed
        return independent(len(self.rank), self.low[removable], self.high[removable])[self.first]

    def members(
        self,
        survivor: NDArray[np.int64],
        neighbour: NDArray[np.int64],
        similarity: NDArray[np.float64],
        method: NDArray[np.int64],
    ) -> Members:
        """Documents for nodes."""
        return Members(
            self.documents,
            self.documents[self.by_rank[survivor]][self.rank],
            self.documents[self.by_rank[neighbour]][self.rank],
            similarity[self.rank],
            method[self.rank],
        )


def graph_of(
    documents: NDArray[np.int64],
    order: NDArray[np.int64],
    pairs: U64,
    similarity: NDArray[np.float64],
    method: NDArray[np.int64],
) -> Graph:
    """The graph that links make.

    Args:
        documents: the numbers of all documents with a link, or more; ascending.
        order: of each document, a number of its own; the smaller the rather kept.
        pairs: the links, packed; a pair may be there more than once.
        similarity: of each link.
        method: of each link: 0 joins equal documents; between links of one pair and similarity the smallest counts.
    """
    n = len(documents)
    by_rank = np.argsort(order)
    rank = np.empty(n, np.int64)
    rank[by_rank] = np.arange(n)
    a, b = (rank[np.searchsorted(documents, side)] for side in unpack(pairs))
    near = method != 0
    first = components(n, a[~near], b[~near])
    a, b = first[a[near]], first[b[near]]
    return Graph(documents, rank, by_rank, first, np.minimum(a, b), np.maximum(a, b), similarity[near], method[near])


def chains(graph: Graph) -> Members:
    """The clusters that links connect, over any number of documents; the least node of each survives."""
    n, first = len(graph.rank), graph.first
    others = np.flatnonzero(first != np.arange(n))
    a, b = graph.low, graph.high
    survivor = components(n, np.concatenate([a, others]), np.concatenate([b, first[others]]))
    source, target = np.concatenate([others, a, b]), np.concatenate([first[others], b, a])
    similarity = np.concatenate([np.ones(len(others)), np.tile(graph.similarity, 2)])
    method = np.concatenate([np.zeros(len(others), np.int64), np.tile(graph.method, 2)])
    best = np.lexsort((method, target, -similarity, target != survivor[source], source))
    best = best[np.unique(source[best], return_index=True)[1]]
    link = np.zeros(n, np.int64)
    link[source[best]] = best
    is_survivor = survivor == np.arange(n)
    neighbour = np.where(is_survivor, survivor, target[link])
    similarity = np.where(is_survivor, 1.0, similarity[link])
    method = np.where(is_survivor, -1, method[link])
    return graph.members(survivor, neighbour, similarity, method)


def direct(graph: Graph, n_fixed: int) -> Members:
    """The clusters of the nodes that stay: each other one goes to the most similar of those it is linked to.

    Args:
        graph: nodes and links.
        n_fixed: how many nodes, the first ones, stay whatever they are alike to.
    """
    n, first = len(graph.rank), graph.first
    used = np.flatnonzero(graph.stays(n_fixed)[graph.low] & (graph.high >= n_fixed))
    low, high = graph.low[used], graph.high[used]
    best = np.lexsort((graph.method[used], low, -graph.similarity[used], high))
    best = best[np.unique(high[best], return_index=True)[1]]
    survivor, similarity, method = np.arange(n), np.ones(n), np.full(n, -1)
    survivor[high[best]] = low[best]
    similarity[high[best]] = graph.similarity[used][best]
    method[high[best]] = graph.method[used][best]
    survivor, similarity, method = survivor[first], similarity[first], method[first]
    method[(method < 0) & (first != np.arange(n))] = 0
    return graph.members(survivor, survivor, similarity, method)


def select(members: Members, chosen: NDArray[np.bool_]) -> Members:
    """The members for which `chosen` is true; of a cluster all or none."""
    documents, survivor, neighbour, similarity, method = members
    return Members(documents[chosen], survivor[chosen], neighbour[chosen], similarity[chosen], method[chosen])
