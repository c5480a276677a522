"""The report of `babyllm topics`: what each topic is about, how large it is, and where its documents come from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from babyllm.pipeline.report import Cell, ExampleGroup, Fact, LabelledTexts, Report, Table
from babyllm.selection.numeric.vectors import F64
from babyllm.selection.topics.topic_model import TopicModel

_N_PAIRS = 60


class Totals:
    """The sizes of topics.

    Attributes:
        taken: documents that were taken down.
        sizes: documents and bytes of each topic, and the sum of their distances to its centre.
        pairs: documents of each topic and earlier domain.
    """

    def __init__(self) -> None:
        self.taken = 0
        self.sizes: dict[str, list[float]] = {}
        self.pairs: Counter[tuple[str, str]] = Counter()

    @property
    def documents(self) -> int:
        """The number of documents."""
        return self.pairs.total()

    def add(self, topics: Sequence[str], domains: Sequence[str], sizes: Sequence[int], squares: F64) -> None:
        """Add documents: topic, earlier domain, bytes and (n,) squared distance of each."""
        self.pairs.update(zip(topics, domains, strict=True))
        for topic, size, distance in zip(topics, sizes, np.sqrt(np.nan_to_num(squares)).tolist(), strict=True):
            total = self.sizes.setdefault(topic, [0, 0, 0.0])
            total[0], total[1], total[2] = total[0] + 1, total[1] + size, total[2] + distance

    def to_json(self) -> dict[str, Any]:
        """The totals as a JSON value."""
        return {"taken": self.taken, "sizes": self.sizes, "pairs": [[*key, n] for key, n in self.pairs.items()]}


def joined(parts: Sequence[Mapping[str, Any]]) -> Totals:
    """The totals of several partitions, from their JSON values."""
    total = Totals()
    for part in parts:
        total.taken += part["taken"]
        for topic, sizes in part["sizes"].items():
            before = total.sizes.get(topic, [0, 0, 0.0])
            total.sizes[topic] = [a + b for a, b in zip(before, sizes, strict=True)]
        total.pairs.update({(topic, domain): n for topic, domain, n in part["pairs"]})
    return total


def topic_report(topics: TopicModel, totals: Totals, examples: Sequence[Sequence[str]]) -> Report:
    """The report.

    Args:
        topics: the topics.
        totals: their sizes.
        examples: texts near the centre of each; empty for topics of an earlier corpus.
    """
    facts: list[Fact] = [("documents", totals.documents), ("topics", len(topics))]
    if totals.taken:
        facts.append(("taken down", totals.taken))
    if none := totals.sizes.get(topics.name(-1)):
        facts.append(("documents without a topic", int(none[0])))
    items = [LabelledTexts(topics.name(number), list(texts)) for number, texts in enumerate(examples) if texts]
    groups = [ExampleGroup("Texts of the sample nearest to the centre of their topic", items)] if items else []
    return Report("Topics", facts, [_topics(topics, totals), _domains(totals)], examples=groups)


def _topics(topics: TopicModel, totals: Totals) -> Table:
    n_bytes = sum(size[1] for size in totals.sizes.values())
    rows: list[list[Cell]] = []
    for number in (*range(len(topics)), -1):
        documents, size, distance = totals.sizes.get(name := topics.name(number), [0, 0, 0.0])
        if documents or number >= 0:
            words = ", ".join(topics.words[number]) if number >= 0 else ""
            far = round(distance / documents, 3) if documents and number >= 0 else None
            rows.append(
                [name, int(documents), documents / max(1, totals.documents), size / max(1, n_bytes), far, words]
            )
    return Table("Topics", ["topic", "documents", "share", "of the text", "mean distance", "words"], rows)


def _domains(totals: Totals) -> Table:
    of_domain: Counter[str] = Counter()
    for (_, domain), n in totals.pairs.items():
        of_domain[domain] += n
    largest = sorted(totals.pairs.items(), key=lambda item: (-item[1], item[0]))[:_N_PAIRS]
    rows: list[list[Cell]] = [
        [domain, topic, n, n / of_domain[domain], n / totals.sizes[topic][0]] for (topic, domain), n in largest
    ]
    columns = ["domain", "topic", "documents", "share of the domain", "share of the topic"]
    return Table("Where the topics come from", columns, rows)
