"""From corpora to links between similar documents, step by step over partitions.

sketch -> exact repetitions -> candidates of each method -> sets of the candidates -> links
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from babyllm.files import write_bytes
from babyllm.pipeline.partitions import run_partitions
from babyllm.ragged import U64
from babyllm.text.dedup import steps
from babyllm.text.dedup.near.candidates import NO_PAIRS, Span, pack, spans, unpack
from babyllm.text.dedup.near.frequencies import N_COUNTERS, inverse_frequencies
from babyllm.text.dedup.near.methods import METHODS
from babyllm.text.dedup.slices import Slice
from babyllm.text.dedup.steps import Setting

FOUND_BY = ("exact", *METHODS)  # the method of a link is an index into this
_FORMAT = 2  # version of the intermediate files; those of another version are rebuilt
_PAIRS_PER_BYTE = 1 / 64  # pairs of one item, per byte of a partition; sets are read for a chunk of pairs at a time
# By step, the number of partitions that one process finishes before others have started.
_LITTLE = {
    "lines": 0.5,
    "trim": 2,
    "count": 0.5,
    "sketch": 0.5,
    "sets": 4,
    "keep": 2,
    "segments": 0.5,
    "windows": 0.5,
    "cut": 2,
}
ENTRIES_PER_BYTE = 1 / 16  # entries are held twice while they are sorted


class AllLinks(NamedTuple):
    """Links between similar documents.

    Attributes:
        pairs: (links,) uint64 packed pairs of documents, see `candidates.pack`.
        similarity: (links,) float64 Jaccard similarities.
        method: (links,) int64 index in `FOUND_BY` of the method that found each link.
    """

    pairs: U64
    similarity: NDArray[np.float64]
    method: NDArray[np.int64]


class Steps:
    """Runs steps over partitions, each step in a directory named after it.

    Args:
        setting: settings that all steps share.
        key: JSON value that determines the results: inputs and configuration.
    """

    def __init__(self, setting: Setting, key: Any) -> None:
        self.setting, self._key, self._work = setting, key, setting.config.work

    def of(self, setting: Setting) -> Steps:
        """The same runner with another setting."""
        return Steps(setting, self._key)

    def run(
        self,
        name: str,
        work: Callable[..., Any],
        items: Sequence[Any],
        title: str,
        sizes: Sequence[int] | None = None,
        is_little: bool = False,
        made_from: Sequence[Any] = (),
        **arguments: Any,
    ) -> list[Any]:
        """The results of `work` for each item, as `run_partitions` returns them.

        Args:
            name: name of the directory.
            work: function of `steps` that does the work on one item.
            items: partitions of the work.
            title: title of the progress report.
            sizes: sizes of the items in bytes.
            is_little: whether to do the work in this process, because it is small.
            made_from: items of an earlier step, if this step's items are indices of its folders.
            **arguments: further arguments of `work`.
        """
        for surplus in self.setting.own_folders(name)[len(items) :]:  # left by an earlier run with other partitions
            shutil.rmtree(surplus)
        job = partial(work, setting=self.setting, **arguments)
        key = [_FORMAT, self._key, repr(items), *map(repr, made_from)]
        directory = self.setting.directory / name
        if sizes is not None:
            is_little |= sum(sizes) < self.portion(_LITTLE.get(name, 0))
        how = self._work.alone() if is_little else self._work
        return run_partitions(items, job, directory, key=key, work=how, sizes=sizes, title=title)

    def portion(self, per_byte: float) -> int:
        """The largest number of items in one partition, at `per_byte` items per byte; at least 1."""
        return max(1, int(self._work.partition_bytes * per_byte))


def find_links(
    run: Steps, items: Sequence[tuple[Slice, bool]], fetch: Callable[[Steps], None] | None = None
) -> AllLinks:
    """The links between the documents of some slices.

    Args:
        run: runner of the steps.
        items: slices, each with whether it is compared with the evaluation sets.
        fetch: function that fetches the shingles of recalled documents, see `index.recall`; None without any.
    """
    setting, near = run.setting, run.setting.config.near
    sizes = [piece.size_bytes for piece, _ in items]
    _weigh(run, items, sizes)
    run.run("sketch", steps.sketch, items, "sketches", sizes)
    ranges = [
        (span.start, span.stop) for (span,) in spans(1, setting.n_documents, run.portion(ENTRIES_PER_BYTE / 3), 1)
    ]
    run.run("exact", steps.exact, ranges, "exact repetitions")
    n_pairs = {}
    for method in near:
        tables = proposals(run, method)
        n_pairs[method] = sum(run.run(method, steps.propose, tables, f"{method} candidates", method=method))
    if near:
        save(setting.directory / "wanted.npy", _wanted(setting))
        if not setting.keeps_sets():
            run.run("sets", steps.shingle, items, "shingles of candidates", sizes)
        if fetch:
            fetch(run)
    for method in near:
        run.run(
            f"{method}-links",
            steps.compare,
            _comparisons(run, method, n_pairs[method]),
            "similarities",
            is_little=n_pairs[method] < run.portion(_PAIRS_PER_BYTE),
            made_from=proposals(run, method),
            method=method,
        )
    repeating, repeated = steps.exact_links(setting)
    pairs = pack(np.minimum(repeating, repeated), np.maximum(repeating, repeated))
    equal = AllLinks(pairs, np.ones(len(pairs)), np.zeros(len(pairs), np.int64))
    near_links = gather(setting, [(f"{method}-links", method) for method in near])
    return joined(equal, near_links)


def proposals(run: Steps, method: str) -> list[list[Span]]:
    """The ranges of keys, one list for each folder of candidates."""
    return spans(run.setting.method(method).n_tables, run.setting.n_documents, run.portion(ENTRIES_PER_BYTE))


def gather(setting: Setting, names: Sequence[tuple[str, str]]) -> AllLinks:
    """The links that some steps found, given (name of the step, name of its method)."""
    pairs, similarity, number = [NO_PAIRS], [np.empty(0)], [np.empty(0, np.int64)]
    for name, method in names:
        for folder in setting.folders(name):
            pairs.append(np.load(folder / "pairs.npy"))
            similarity.append(np.load(folder / "similarity.npy"))
            number.append(np.full(len(pairs[-1]), FOUND_BY.index(method)))
    return AllLinks(np.concatenate(pairs), np.concatenate(similarity), np.concatenate(number))


def joined(links: AllLinks, others: AllLinks) -> AllLinks:
    """All links of both."""
    return AllLinks(
        np.concatenate([links.pairs, others.pairs]),
        np.concatenate([links.similarity, others.similarity]),
        np.concatenate([links.method, others.method]),
    )


def save(path: Path, array: NDArray[Any]) -> None:
    """Save an array like np.save, but atomically: the file is complete or absent."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    write_bytes(path, buffer.getvalue())


def _weigh(run: Steps, items: Sequence[tuple[Slice, bool]], sizes: Sequence[int]) -> None:
    """Store the idf of shingles, if a method needs it."""
    setting, idf = run.setting, run.setting.directory / steps.IDF
    if not any(METHODS[name].needs_idf(setting.config) for name in setting.config.near):
        idf.unlink(missing_ok=True)
        return
    run.run("count", steps.count, items, "shingle frequencies", sizes)
    total = np.zeros(N_COUNTERS, np.int64)
    for folder in setting.folders("count"):
        total += np.load(folder / "frequencies.npy")
    save(idf, inverse_frequencies(total, setting.n_documents))


def _wanted(setting: Setting) -> NDArray[np.bool_]:
    """(n_documents,) bool: whether each document is in a pair or group."""
    wanted = np.zeros(setting.n_documents, bool)
    for method in setting.config.near:
        for folder in setting.folders(method):
            pairs = np.load(folder / "pairs.npy")
            for documents in (*unpack(pairs), np.load(folder / "members.npy")):
                wanted[documents] = True
    return wanted


def _comparisons(run: Steps, method: str, n_pairs: int) -> list[tuple[str, int, int]]:
    """The items of `compare`: ranges of first documents with about equally many pairs, and folders with groups.

    For direct clusters, groups are compared later, when it is known which of their documents stay.
    """
    folders = run.setting.folders(method)
    n_ranges = -(-n_pairs // run.portion(_PAIRS_PER_BYTE))
    sample = [unpack(np.load(folder / "pairs.npy", mmap_mode="r")[::64])[0] for folder in folders]
    inner = np.sort(np.concatenate(sample))[:: max(1, -(-sum(map(len, sample)) // max(1, n_ranges)))][1:]
    edges = np.unique([0, *inner, run.setting.n_documents]).tolist() if n_ranges else []
    if run.setting.config.clusters == "direct":
        folders = []
    groups = [i for i, folder in enumerate(folders) if len(np.load(folder / "members.npy", mmap_mode="r"))]
    return [("pairs", a, b) for a, b in pairwise(edges)] + [("groups", i, 0) for i in groups]
