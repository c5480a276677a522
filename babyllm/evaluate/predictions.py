"""What a file of predictions says: how many records were answered, how the answers end, and their scores."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from babyllm.evaluate.answer_metrics.answer_scores import AnswerScores
from babyllm.evaluate.report import Evaluation
from babyllm.pipeline.report import Cell, Fact, Report, Table
from babyllm.prediction.answering import ERROR, FINISH, PREDICTION, PREDICTIONS
from babyllm.prediction.questions import references

N_REASONS = 5
"""Largest number of reasons that are shown."""


def evaluate_predictions(path: Path, metrics: Sequence[str], facts: Sequence[Fact] = (), seed: int = 0) -> Evaluation:
    """The counts of a file of predictions and, with `metrics`, the scores of its answers with references.

    Several answers to a record are scored each, and form a cluster for the standard errors.

    Args:
        path: complete file that `babyllm.prediction.predict_file` wrote.
        metrics: names of metrics (`babyllm.evaluate.answer_metrics.METRICS`).
        facts: description of what was evaluated.
        seed: seed of the bootstrap.

    Raises:
        UserError: a metric is unknown or needs a package that is not installed.
    """
    scores, finishes, errors = AnswerScores(metrics, seed), Counter[str](), Counter[str]()
    n_records = n_scored = 0
    with path.open(encoding="utf-8") as file:
        for n_records, line in enumerate(file, 1):
            record = json.loads(line)
            if ERROR in record:
                errors[record[ERROR]] += 1
                continue
            answers = record.get(PREDICTIONS) or [record[PREDICTION]]
            finishes.update(record[FINISH] if PREDICTIONS in record else [record[FINISH]])
            right = references(record)
            n_scored += bool(right)
            for answer in answers if right else ():
                scores.add(answer, right, cluster=n_records if len(answers) > 1 else None)
    counts: list[Fact] = [
        ("records", n_records),
        ("records that could not be used", errors.total()),
        *((f"not used: {reason}", n) for reason, n in errors.most_common(N_REASONS)),
        *((f"answers that end with {finish}", n) for finish, n in sorted(finishes.items())),
        *([("records with references", n_scored)] if metrics else []),
    ]
    estimates = scores.estimates()
    rows: list[list[Cell]] = [[name, each.value, each.error, scores.n] for name, each in estimates.items()]
    table = Table("answers against their references", ["metric", "value", "standard error", "answers"], rows)
    values = {name: {"value": each.value, "error": each.error, "n": scores.n} for name, each in estimates.items()}
    report = Report("Predictions", [*facts, *counts], [table] if rows else [])
    return Evaluation(report, {"records": n_records, "unused": dict(errors), "metrics": values})
