"""The report of a deduplication: documents removed, sizes of clusters, domains that repeat others, examples."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from babyllm.pipeline.report import Bin, Cell, ExampleGroup, Fact, Histogram, LabelledTexts, Report, Table
from babyllm.store.corpus import Corpus, Count
from babyllm.text.dedup.decontaminate import Benchmarks
from babyllm.text.dedup.dedup_config import DedupConfig
from babyllm.text.dedup.near.linking import FOUND_BY
from babyllm.text.dedup.near.methods import METHODS
from babyllm.text.dedup.results import Result, describe
from babyllm.text.dedup.slices import Slice
from babyllm.text.dedup.substrings.cutting import Cutting
from babyllm.text.dedup.trimming import Loss, Trimming, total_loss
from babyllm.text.readers import Source

N_EXAMPLES = 12
_N_DOMAIN_PAIRS = 40
_EXAMPLE_CHARACTERS = 600


def summarize(
    result: Result,
    corpora: Sequence[Corpus],
    pieces: Sequence[Slice],
    benchmarks: Benchmarks | None,
    files: Sequence[Source],
    config: DedupConfig,
    trimming: Trimming | None = None,
    cutting: Cutting | None = None,
) -> Report:
    """The report of a deduplication.

    Args:
        result: clusters and documents removed.
        corpora: inputs, whose documents may be removed.
        pieces: slices of all corpora, those of the inputs first.
        benchmarks: n-grams of the evaluation sets; None without evaluation sets.
        files: evaluation files.
        config: settings of the deduplication.
        trimming: inputs without repeated lines; None if lines were not removed.
        cutting: documents without repeated spans; None if spans were not removed.
    """
    before: dict[str, int] = {}
    for corpus in corpora:
        for domain, count in corpus.domains().items():
            before[domain] = before.get(domain, 0) + count.documents
    for domain in result.taken_names["domain"].to_pylist():
        before[domain] -= 1
    if trimming:
        before = {domain: n - trimming.losses.get(domain, Loss()).removed for domain, n in before.items()}
    tables = [_methods(result), _domains(result, before), _domain_pairs(result, before), _sizes(result)]
    examples = [ExampleGroup("Near-duplicates and what stands for them", _near_examples(result, pieces))]
    if benchmarks:
        tables.append(_evaluation(result, benchmarks, files))
        items = _contaminated_examples(result, pieces, benchmarks, files)
        examples.append(ExampleGroup("Documents that share words with an evaluation set", items))
    if trimming:
        title = "Lines and paragraphs that repeat, removed before documents were compared"
        tables.insert(0, _losses(title, trimming.losses, corpora))
        items = [
            LabelledTexts(f"removed from {n:,} documents", [unit[:_EXAMPLE_CHARACTERS]])
            for n, unit in trimming.frequent
        ]
        examples.append(ExampleGroup(f"{config.lines.unit.capitalize()}s that were removed most often", items))
    if cutting:
        title = "Spans of characters that repeat, removed from the documents that stayed"
        tables.append(_losses(title, cutting.losses, corpora))
        items = [LabelledTexts(f"{n:,} characters", [text]) for n, text in cutting.longest]
        examples.append(ExampleGroup("Longest spans that were removed", items))
    return Report(
        "Deduplication",
        _facts(result, corpora, config, trimming, cutting),
        tables,
        [_similarities(result)],
        [group for group in examples if group.items],
    )


def _facts(
    result: Result,
    corpora: Sequence[Corpus],
    config: DedupConfig,
    trimming: Trimming | None,
    cutting: Cutting | None,
) -> list[Fact]:
    total = sum((count for corpus in corpora for count in corpus.domains().values()), Count())
    cut = total_loss(cutting.losses) if cutting else Loss()
    n_removed = len(result.removed) + (trimming.total().removed if trimming else 0) + cut.removed
    facts: list[Fact] = [
        ("documents before", total.documents),
        ("removed", n_removed),
        ("documents after", total.documents - n_removed),
        ("clusters", len(np.unique(result.members.survivor))),
        *([("repetitions that stay by chance", result.n_spared)] if config.soft.power else []),
        ("compared by", f"{config.shingles.n}-grams of {config.shingles.kind}"),
    ]
    if trimming:
        facts += [
            (f"{config.lines.unit}s removed", trimming.total().units),
            ("characters removed with them", trimming.total().characters),
            ("documents trimmed", trimming.total().trimmed),
        ]
    if cutting:
        facts += [
            ("spans removed", cut.units),
            ("characters removed with the spans", cut.characters),
            ("documents cut", cut.trimmed),
        ]
    if len(result.taken):
        facts.append(("taken down", len(result.taken)))
    if config.fold:
        facts.append(("exact without", ", ".join(config.fold)))
    if config.near:
        facts.append(("threshold", config.threshold))
    facts += [METHODS[name].build(config, total.documents, None).fact() for name in config.near]
    return facts


def _methods(result: Result) -> Table:
    methods = result.members.method[result.is_removed]
    counts = [(name, int(np.count_nonzero(methods == number))) for number, name in enumerate(FOUND_BY)]
    rows = [row for row in counts if row[1]]
    if result.contaminated.size:
        rows.append(("evaluation sets", result.contaminated.shape[1]))
    return Table("Removed by", ["method", "documents"], rows)


def _losses(title: str, losses: dict[str, Loss], corpora: Sequence[Corpus]) -> Table:
    n_characters: dict[str, int] = {}
    for domain, count in (item for corpus in corpora for item in corpus.domains().items()):
        n_characters[domain] = n_characters.get(domain, 0) + count.characters
    rows: list[list[Cell]] = [
        [domain, loss.units, loss.characters, loss.trimmed, loss.removed, loss.characters / n_characters[domain]]
        for domain, loss in losses.items()
    ]
    columns = ["domain", "units", "characters", "documents trimmed", "documents removed", "share"]
    return Table(title, columns, rows)


def _domains(result: Result, before: dict[str, int]) -> Table:
    names = np.array(result.names["domain"].to_pylist(), object)
    removed = _tally(names[result.is_removed])
    contaminated = _tally(np.array(result.contaminated_names["domain"].to_pylist(), object))
    rows: list[list[Cell]] = []
    for domain, n in sorted(before.items()):
        repeated, held = removed.get(domain, 0), contaminated.get(domain, 0)
        rows.append([domain, n, repeated, held, n - repeated - held, (repeated + held) / n if n else 0.0])
    columns = ["domain", "documents", "repetitions", "in evaluation sets", "left", "share"]
    return Table("Removed of each domain", columns, rows)


def _domain_pairs(result: Result, before: dict[str, int]) -> Table:
    names = np.array(result.names["domain"].to_pylist(), object)
    pairs = _tally(zip(names[result.is_removed], names[result.survivors()][result.is_removed], strict=True))
    ordered = sorted(pairs.items(), key=lambda item: (-item[1], item[0]))[:_N_DOMAIN_PAIRS]
    rows = [[of, by, n, n / before[of]] for (of, by), n in ordered]
    columns = ["removed from", "stands in", "documents", "share"]
    return Table("Which domain repeats which", columns, rows)


def _sizes(result: Result) -> Table:
    sizes = np.unique(result.members.survivor, return_counts=True)[1]
    edges = [2, 3, 4, 5, 9, 17, 33, 65, 129, 257, 513, 1025, 10_001, 100_001, np.iinfo(np.int64).max]
    rows: list[list[Cell]] = []
    for low, high in pairwise(edges):
        inside = sizes[(sizes >= low) & (sizes < high)]
        if len(inside):
            last = high - 1 if high < edges[-1] else int(sizes.max())
            rows.append([f"{low}" if low == last else f"{low} to {last}", len(inside), int(inside.sum())])
    return Table("Clusters by size", ["documents in a cluster", "clusters", "documents"], rows)


def _similarities(result: Result) -> Histogram:
    near = result.is_removed & (result.members.method > 0)
    edges = np.linspace(0, 1, 41)
    counts = np.histogram(result.members.similarity[near], edges)[0]
    first = int(np.argmax(counts > 0)) if counts.any() else len(counts)
    bars: list[Bin] = [(float(a), float(b), int(n)) for a, b, n in zip(edges[:-1], edges[1:], counts, strict=True)]
    title = "Similarity of near-duplicates to the document that joined them"
    return Histogram(title, unit="Jaccard", is_log=False, series={"removed": bars[first:]})


def _evaluation(result: Result, benchmarks: Benchmarks, files: Sequence[Source]) -> Table:
    of_file = np.array(benchmarks.files, np.int64)
    n_questions = np.bincount(of_file, minlength=len(files))
    hits = np.bincount(of_file[benchmarks.question[result.contaminated[2]]], minlength=len(files))
    rows: list[list[Cell]] = [
        [source.path.name, int(n), short, int(hit)]
        for source, n, short, hit in zip(files, n_questions, benchmarks.n_short, hits, strict=True)
    ]
    columns = ["file", "records", f"with fewer than {benchmarks.n} words, not looked for", "documents removed"]
    return Table("Evaluation sets", columns, rows)


def _near_examples(result: Result, pieces: Sequence[Slice]) -> list[LabelledTexts]:
    """Removed documents beside their neighbours, from the least similar to the most."""
    members = result.members
    near = np.flatnonzero(result.is_removed & (members.method > 0))
    near = near[np.argsort(members.similarity[near], kind="stable")]
    chosen = near[np.unique(np.linspace(0, len(near) - 1, N_EXAMPLES).round().astype(int))] if len(near) else near
    texts = _texts(pieces, np.concatenate([members.documents[chosen], members.neighbour[chosen]]))
    names = result.names["domain"].to_pylist()
    items = []
    for place in chosen.tolist():
        document, neighbour = int(members.documents[place]), int(members.neighbour[place])
        other = names[int(np.searchsorted(members.documents, neighbour))]
        label = f"similarity {members.similarity[place]:.3f}: {names[place]} | {other}"
        items.append(LabelledTexts(label, [texts[document], texts[neighbour]]))
    return items


def _contaminated_examples(
    result: Result, pieces: Sequence[Slice], benchmarks: Benchmarks, files: Sequence[Source]
) -> list[LabelledTexts]:
    numbers, n_matches, gram = result.contaminated[:, :N_EXAMPLES]
    texts = _texts(pieces, numbers)
    items = []
    for number, n, question in zip(
        numbers.tolist(), n_matches.tolist(), benchmarks.question[gram].tolist(), strict=True
    ):
        label = f"{n} matches, {files[benchmarks.files[question]].path.name}"
        items.append(LabelledTexts(label, [texts[number], benchmarks.texts[question][:_EXAMPLE_CHARACTERS]]))
    return items


def _texts(pieces: Sequence[Slice], numbers: NDArray[np.int64]) -> dict[int, str]:
    distinct = np.unique(numbers)
    found = describe(pieces, distinct, ["text"])["text"].to_pylist()
    return {number: text[:_EXAMPLE_CHARACTERS] for number, text in zip(distinct.tolist(), found, strict=True)}


def _tally(values: Any) -> dict[Any, int]:
    counts: dict[Any, int] = {}
    for value in values:
        counts[value] = counts.get(value, 0) + 1
    return counts
