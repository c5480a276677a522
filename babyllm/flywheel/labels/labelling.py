"""Labels of rules first, then those of a judge, then those of classifiers, each in place of the one before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from babyllm.endpoint.config import Request
from babyllm.endpoint.replies import Reply
from babyllm.endpoint.shared_budget import NOT_ASKED
from babyllm.flywheel.labels.judged_labels import Ask, Item, check_classifiers, classified, judged
from babyllm.flywheel.labels.labeller_config import LabellerConfig
from babyllm.flywheel.labels.record_labels import LABELS, Labels, labels_by_rules
from babyllm.judging.verdicts import CUT, why_none
from babyllm.pipeline.report import Cell, Table

NO_LABELS = "the reply has no labels"


class Labelling:
    """Labels records.

    Args:
        config: who labels.
        ask: function that returns the judge's replies; None without a judge.

    Raises:
        UserError: a classifier is of something else, or cannot be read.
    """

    def __init__(self, config: LabellerConfig, ask: Ask | None) -> None:
        check_classifiers(config.classifiers)
        self.n_asked = 0
        self.problems: Counter[str] = Counter()  # why the judge gave no labels
        self._language, self._structured, self._ask = config.language, config.structured, ask
        self._classifiers = {}
        if config.classifiers:
            from babyllm.reward_model import load_reward_model

            self._classifiers = {name: load_reward_model(path) for name, path in config.classifiers.items()}

    def labels(self, items: Sequence[Item]) -> list[Labels]:
        """The labels of records, in their order."""
        found = [labels_by_rules(*item) for item in items]
        if self._ask and items:
            found = judged(items, found, self._language, self._asked, self._structured)
            self.n_asked += len(items)
            n_without = sum(one.by == "rules" for one in found) - self._n_failed
            self.problems += Counter({NO_LABELS: n_without})
        return classified(items, found, self._classifiers) if items else found

    def _asked(self, requests: Sequence[Request]) -> Iterator[Reply]:
        assert self._ask is not None
        self._n_failed = 0
        for reply in self._ask(requests):
            if (why := why_none(reply)) and (reply.error or why == CUT):
                self._n_failed += 1
                self.problems[NOT_ASKED if why.startswith(NOT_ASKED) else why] += 1
            yield reply


def label_tables(counts: Counter[tuple[str, str]], total: int, unit: str) -> list[Table]:
    """A table for each label, and one of those who gave them.

    Args:
        counts: number of records by label and value.
        total: number of records.
        unit: what the records are called.
    """
    tables = []
    for name in (*LABELS, "by"):
        rows: list[list[Cell]] = [
            [value, n, n / max(1, total)] for (label, value), n in counts.most_common() if label == name
        ]
        tables.append(Table("labels given by" if name == "by" else name, ["label", unit, "share"], rows))
    return [table for table in tables if table.rows]


def counted(labels: Labels) -> Mapping[str, str]:
    """The values of labels by name, as they are counted."""
    return {name: str(value) for name, value in labels.to_json().items()}
