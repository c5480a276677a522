"""Clusters of similar documents, and the one document of each cluster that survives.

A chain is a connected component of the graph of links. A direct cluster is a document that stays, with documents that
are linked to it directly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from babyllm.documents import spread_key
from babyllm.ragged import U64
from babyllm.text.dedup.near.candidates import unpack


def components(n: int, a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.int64]:
    """(n,) int64: the smallest node of each node's connected component, given edges between a[i] and b[i].

    Union-find on all edges at once: each root is attached to the smaller root of a neighbour, and paths are halved,
    until nothing changes. That takes about log2(n) rounds.

    Args:
        n: number of nodes.
        a: (edges,) one node of each edge.
        b: (edges,) other node of each edge.
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
    """(n,) bool: whether each node stays, which it does if no edge joins it to a smaller node that stays.

    Args:
        n: number of nodes; smaller ones are preferred.
        low: (edges,) smaller node of each edge.
        high: (edges,) larger node of each edge.
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
    """The documents in clusters, in ascending order.

    Attributes:
        documents: (members,) int64 document numbers.
        survivor: (members,) int64 document that survives of each member's cluster.
        neighbour: (members,) int64 similar document that connects each member to its cluster. For a document that
            equals a preferred one, it is the most preferred of the equal ones. For others it is the survivor if the two
            are linked, else the most similar document. A survivor's is itself. In direct clusters it is the survivor.
        similarity: (members,) float64 Jaccard similarity to the neighbour.
        method: (members,) int64 method of the link to the neighbour, an index in `FOUND_BY`; -1 for a survivor.
    """

    documents: NDArray[np.int64]
    survivor: NDArray[np.int64]
    neighbour: NDArray[np.int64]
    similarity: NDArray[np.float64]
    method: NDArray[np.int64]


class Graph(NamedTuple):
    """Documents as nodes, numbered by preference, and their links as edges.

    Attributes:
        documents: (n,) int64 numbers of the documents, ascending.
        rank: (n,) int64 node of each document.
        by_rank: (n,) int64 index in `documents` of each node.
        first: (n,) int64 smallest of the nodes that equal each node.
        low: (links,) int64 smaller node of each link between unequal nodes; the smallest of equal nodes represents all.
        high: (links,) int64 larger node of each of these links.
        similarity: (links,) float64 Jaccard similarity of each of these links.
        method: (links,) int64 method of each of these links, an index in `FOUND_BY`.
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
        """(n,) bool: whether each node stays, or the smallest node that equals it.

        The first `n_fixed` nodes stay. In the order of preference, any other one stays unless it is linked to one that
        stays.
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
        """The members in the order of documents, from (n,) arrays in the order of nodes."""
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
    """The graph of documents and the links between them.

    Args:
        documents: (n,) int64 numbers of all documents with a link, or more; ascending.
        order: (n,) int64 rank of each document, all distinct; documents of smaller rank are preferred.
        pairs: (links,) uint64 packed pairs; a pair may occur more than once.
        similarity: (links,) float64 Jaccard similarity of each link.
        method: (links,) int64 method of each link, an index in `FOUND_BY`; 0 links equal documents. Of links with the
            same pair and similarity the smallest method counts.
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
    """The connected components of the graph as clusters; the smallest node of each survives."""
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
    """The clusters of the nodes that stay; each other node joins the most similar of those it is linked to.

    Args:
        graph: nodes and links.
        n_fixed: number of nodes, the first ones, that stay whatever they are similar to.
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
    """The members for which `chosen`, (members,) bool, is true; it is the same for all members of a cluster."""
    documents, survivor, neighbour, similarity, method = members
    return Members(documents[chosen], survivor[chosen], neighbour[chosen], similarity[chosen], method[chosen])


def spared(members: Members, ids: Sequence[str], power: float, seed: int) -> NDArray[np.bool_]:
    """(members,) bool: whether each member stays beside the survivor of its cluster.

    Each of the n - 1 others stays with probability (n**power - 1) / (n - 1), so n**power stay on average. The draw is a
    hash of the id and the seed.

    Args:
        members: documents in clusters.
        ids: id of each member.
        power: exponent from 0, for none, to 1.
        seed: seed of the draw.
    """
    _, cluster, counts = np.unique(members.survivor, return_inverse=True, return_counts=True)
    sizes = counts.astype(np.float64)
    chances = ((sizes**power - 1) / np.maximum(sizes - 1, 1))[cluster]
    draws = [int.from_bytes(spread_key(f"{seed}:{name}"), "big") for name in ids]
    return np.asarray(np.array(draws, np.uint64) / 2.0**64 < chances)
