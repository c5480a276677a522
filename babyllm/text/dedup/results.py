"""Results of deduplication: the clusters, the documents to remove, and the tables that name them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from babyllm.text.dedup.decontaminate import Benchmarks
from babyllm.text.dedup.near.candidates import unpack
from babyllm.text.dedup.near.cluster import Members, chains, direct, graph_of, select, spared
from babyllm.text.dedup.near.direct import complete, grouped
from babyllm.text.dedup.near.linking import FOUND_BY, AllLinks, Steps
from babyllm.text.dedup.slices import Slice, read
from babyllm.text.dedup.steps import Setting
from babyllm.text.readers import Source
from babyllm.text.takedowns import REASON as TAKEN_DOWN


@dataclass(frozen=True)
class Result:
    """Clusters and documents to remove.

    Attributes:
        members: documents in clusters.
        names: columns id and domain of the members, in their order.
        is_removed: (members,) bool: whether each member is removed.
        contaminated: (3, documents) int64: number of the document, number of matching n-grams, index of the first one.
        contaminated_names: columns id and domain of the contaminated documents.
        taken: (documents,) int64 numbers of the documents of the inputs that were taken down.
        taken_names: columns id and domain of these.
        removed: (documents,) int64 numbers of all removed documents, ascending.
        n_spared: number of repetitions that stay by chance.
    """

    members: Members
    names: pa.Table
    is_removed: NDArray[np.bool_]
    contaminated: NDArray[np.int64]
    contaminated_names: pa.Table
    taken: NDArray[np.int64]
    taken_names: pa.Table
    removed: NDArray[np.int64]
    n_spared: int

    def survivors(self) -> NDArray[np.int64]:
        """(members,) int64 index among the members of each member's survivor."""
        return np.searchsorted(self.members.documents, self.members.survivor)


def collect(run: Steps, slices: Sequence[Sequence[Slice]], n_inputs: int, links: AllLinks) -> Result:
    """The clusters of the corpora, and the documents to remove.

    Args:
        run: runner that has run all steps up to the links.
        slices: slices of each corpus.
        n_inputs: number of corpora, the first ones, whose repetitions are removed.
        links: links between similar documents.
    """
    setting = run.setting
    is_direct = setting.config.clusters == "direct"
    pieces = [piece for of_corpus in slices for piece in of_corpus]
    documents = np.unique(np.concatenate([*unpack(links.pairs), *([grouped(run)] if is_direct else [])]))
    names = describe(pieces, documents)
    corpus = _corpus_of(slices, documents)
    is_input = corpus < n_inputs
    first = np.where(is_input, corpus + 1 if setting.config.keep == "first" else 1, 0)
    order = np.empty(len(documents), np.int64)
    order[np.lexsort((_rank(names["id"]), -_lengths(setting, pieces, documents), first))] = np.arange(len(documents))
    n_fixed = int(np.count_nonzero(~is_input))
    members = (
        direct(complete(run, documents, order, n_fixed, links), n_fixed)
        if is_direct
        else chains(graph_of(documents, order, *links))
    )
    is_repeated = is_input & (members.survivor != members.documents)
    # Without clusters whose repetitions are all documents of --against.
    in_use = np.isin(members.survivor, members.survivor[is_repeated])
    is_removed, soft = is_repeated, setting.config.soft
    if soft.power:
        is_removed = is_repeated & ~spared(members, names["id"].to_pylist(), soft.power, soft.seed)
    members, names = select(members, in_use), names.filter(pa.array(in_use))
    found = [np.load(f / "contaminated.npy") for f in setting.folders("sketch") if (f / "contaminated.npy").exists()]
    contaminated = np.concatenate([np.empty((3, 0), np.int64), *found], axis=1)
    taken = _taken(setting, sum(piece.n for of_corpus in slices[:n_inputs] for piece in of_corpus))
    removed = np.union1d(np.union1d(documents[is_removed], contaminated[0]), taken)
    return Result(
        members,
        names,
        is_removed[in_use],
        contaminated,
        describe(pieces, contaminated[0]),
        taken,
        describe(pieces, taken),
        removed,
        int(np.count_nonzero(is_repeated & ~is_removed)),
    )


def _taken(setting: Setting, n: int) -> NDArray[np.int64]:
    """Documents that are taken down, among the first n."""
    found = [np.load(folder / "taken.npy") for folder in setting.own_folders("sketch")]
    numbers = np.concatenate([np.empty(0, np.int64), *found])
    return numbers[numbers < n]


def reasons_of(result: Result) -> dict[str, int]:
    """The number of documents removed, by reason."""
    reasons = {
        "repeats another document, one of --against perhaps": int(np.count_nonzero(result.is_removed)),
        "shares words with an evaluation set": result.contaminated.shape[1],
        TAKEN_DOWN: len(result.taken),
    }
    return {reason: n for reason, n in reasons.items() if n}


def describe(
    pieces: Sequence[Slice], documents: NDArray[np.int64], columns: Sequence[str] = ("id", "domain")
) -> pa.Table:
    """Columns of these documents, (n,) int64 and ascending, in their order."""
    schema = pa.schema([(name, pa.large_string()) for name in columns])
    found = []
    for piece in pieces:
        start, stop = np.searchsorted(documents, [piece.first, piece.first + piece.n])
        if start == stop:
            continue
        rows, first = documents[start:stop], piece.first
        for batch in read(piece, columns):
            inside = rows[slice(*np.searchsorted(rows, [first, first + len(batch)]))]
            found.append(
                pa.Table.from_batches([batch.take(pa.array(inside - first))]).select(list(columns)).cast(schema)
            )
            first += len(batch)
            if first > rows[-1]:
                break
    return pa.concat_tables([schema.empty_table(), *found]).combine_chunks()


def member_table(result: Result) -> pa.Table:
    """The rows of `clusters.parquet`, sorted by cluster, then by id."""
    members, ids = result.members, result.names["id"]
    method = [FOUND_BY[number] if number >= 0 else None for number in range(-1, len(FOUND_BY))]
    table = pa.table(
        {
            "cluster": ids.take(pa.array(result.survivors())),
            "id": ids,
            "domain": result.names["domain"],
            "removed": result.is_removed,
            "similarity": members.similarity,
            "neighbour": ids.take(pa.array(np.searchsorted(members.documents, members.neighbour))),
            "method": pa.array(method, pa.string()).take(pa.array(members.method + 1)),
        }
    )
    return table.sort_by([("cluster", "ascending"), ("id", "ascending")])


def contaminated_table(result: Result, benchmarks: Benchmarks, files: Sequence[Source]) -> pa.Table:
    """The rows of `contaminated.parquet`: documents, number of matching n-grams, file and question of the first one."""
    _, n_matches, gram = result.contaminated
    questions = benchmarks.question[gram].tolist()
    return pa.table(
        {
            "id": result.contaminated_names["id"],
            "domain": result.contaminated_names["domain"],
            "matches": n_matches,
            "file": pa.array([files[benchmarks.files[q]].name for q in questions], pa.string()),
            "question": pa.array([benchmarks.texts[q] for q in questions], pa.string()),
        }
    )


def _corpus_of(slices: Sequence[Sequence[Slice]], documents: NDArray[np.int64]) -> NDArray[np.int64]:
    ends = np.cumsum([sum(piece.n for piece in of_corpus) for of_corpus in slices])
    return np.searchsorted(ends, documents, side="right")


def _lengths(setting: Setting, pieces: Sequence[Slice], documents: NDArray[np.int64]) -> NDArray[np.int64]:
    found = [np.empty(0, np.int64)]
    for piece, folder in zip(pieces, setting.folders("sketch"), strict=True):
        inside = documents[slice(*np.searchsorted(documents, [piece.first, piece.first + piece.n]))]
        found.append(np.load(folder / "lengths.npy", mmap_mode="r")[inside - piece.first])
    return np.concatenate(found).astype(np.int64)


def _rank(ids: pa.ChunkedArray) -> NDArray[np.int64]:
    rank = np.empty(len(ids), np.int64)
    rank[pc.sort_indices(ids).to_numpy()] = np.arange(len(ids))
    return rank
