"""The links that direct clusters need: any two documents that share a key and would both stay are compared.

    links -> documents that stay -> their groups -> more links -> documents that stay -> ... until nothing changes

In a large group, documents are linked only to its representatives. If a document outside the group removes a
representative, documents similar to it may stay and must be compared with each other. At the end, no two documents that
stay are similar, and each removed document is linked to a preferred one that stays. Only one choice of documents
satisfies this, so the order of the comparisons does not matter.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from babyllm.text.dedup import steps
from babyllm.text.dedup.near.cluster import Graph, graph_of
from babyllm.text.dedup.near.linking import AllLinks, Steps, gather, joined, proposals, save

_MEMBERS_PER_BYTE = 1 / 64  # up to so many members of groups are compared in this process


def grouped(run: Steps) -> NDArray[np.int64]:
    """(n,) int64 numbers of the documents in large groups, ascending."""
    found = np.zeros(run.setting.n_documents, bool)
    for method in run.setting.config.near:
        for folder in run.setting.folders(method):
            found[np.load(folder / "members.npy")] = True
    return np.flatnonzero(found)


def complete(
    run: Steps, documents: NDArray[np.int64], order: NDArray[np.int64], n_fixed: int, links: AllLinks
) -> Graph:
    """The graph of links, completed by the missing links between documents of large groups.

    Args:
        run: runner that has run all steps up to the links.
        documents: (n,) int64 numbers of all documents with a link or in a large group, ascending.
        order: (n,) int64 rank of each document, all distinct; documents of smaller rank are preferred.
        n_fixed: number of documents, the first in this order, that stay whatever they are similar to.
        links: links found so far, with all links between equal documents.
    """
    setting = run.setting
    graph = graph_of(documents, order, *links)
    ranks = np.zeros(setting.n_documents, np.int64)
    ranks[documents] = graph.first[graph.rank]
    save(setting.directory / "ranks.npy", ranks)
    before, names, number = np.zeros(setting.n_documents, bool), [("", "")], 0
    while names:
        stays = np.ones(setting.n_documents, bool)
        stays[documents] = graph.stays(n_fixed)[graph.rank]
        save(setting.directory / "stays.npy", np.stack([stays, before]))
        names = [name for method in setting.config.near if (name := _round(run, method, number, n_fixed))]
        links = joined(links, gather(setting, names))
        graph = graph_of(documents, order, *links)
        before, number = stays, number + 1
    return graph


def _round(run: Steps, method: str, number: int, n_fixed: int) -> tuple[str, str] | None:
    """Compare the documents that stay in a method's groups; the step's name and the method, None without any."""
    sizes = [len(steps.open_groups(run.setting, method, i).values) for i in range(len(run.setting.folders(method)))]
    items = [i for i, size in enumerate(sizes) if size]
    if not items:
        return None
    name = f"{method}-round-{number}"
    run.run(
        name,
        steps.compare_standing,
        items,
        "similarities of what stays",
        made_from=proposals(run, method),
        is_little=sum(sizes) < run.portion(_MEMBERS_PER_BYTE),
        method=method,
        n_fixed=n_fixed,
    )
    return name, method
