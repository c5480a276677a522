"""What a file of predictions says: how many records were answered, how the answers end, and their scores."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from babyllm.errors import UserError
from babyllm.evaluate.answer_metrics.answer_scores import AnswerScores
from babyllm.evaluate.report import Evaluation
from babyllm.evaluate.statistics import mean_estimate
from babyllm.pipeline.report import Cell, Fact, Report, Table
from babyllm.prediction.answering import ERROR, FINISH, PREDICTION, PREDICTIONS
from babyllm.prediction.questions import references
from babyllm.sandbox import score_predictions

N_REASONS = 5
"""Largest number of reasons that are shown."""


def evaluate_predictions(
    path: Path,
    metrics: Sequence[str],
    facts: Sequence[Fact] = (),
    seed: int = 0,
    *,
    databases: Path | None = None,
    workers: int = 1,
) -> Evaluation:
    """The counts of a file of predictions and, with `metrics`, the scores of its answers with references.

    Several answers to a record are scored each, and form a cluster for the standard errors.

    Args:
        path: complete file that `babyllm.prediction.predict_file` wrote.
        metrics: names of metrics (`babyllm.evaluate.answer_metrics.METRICS`).
        facts: description of what was evaluated.
        seed: seed of the bootstrap.
        databases: folder of SQLite files on which predicted queries are run (`score_predictions`); None runs none.
        workers: number of processes that run queries.

    Raises:
        UserError: a metric is unknown or needs a package that is not installed, or a record has no database.
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
    values: dict[str, Any] = {
        name: {"value": each.value, "error": each.error, "n": scores.n} for name, each in estimates.items()
    }
    tables = [table] if rows else []
    if databases:
        of_queries, values["execution"] = _execution(path, databases, workers)
        tables += of_queries
    report = Report("Predictions", [*facts, *counts], tables)
    return Evaluation(report, {"records": n_records, "unused": dict(errors), "metrics": values})


def _execution(path: Path, databases: Path, workers: int) -> tuple[list[Table], dict[str, Any]]:
    """Execution accuracy in all and by database, with the reasons of wrong queries; errors are over databases."""
    scores = score_predictions(path, databases, workers=workers)
    if not scores.items:
        raise UserError(f"{path}: no expected query can be run; the first fails with {scores.left_out[0].match.fault}")
    mean = mean_estimate([item.match.is_right for item in scores.items], [item.database for item in scores.items])
    rows: list[list[Cell]] = [["all", mean.value, mean.error, len(scores.items)]]
    rows += [[name, right / n, None, n] for name, (right, n) in scores.by_database.items()]
    tables = [Table("execution accuracy", ["database", "right share", "standard error", "queries"], rows)]
    wrong: list[list[Cell]] = [[reason, n] for reason, n in scores.reasons.most_common()]
    wrong += [["left out: the expected query fails", len(scores.left_out)]] if scores.left_out else []
    tables += [Table("wrong queries", ["reason", "queries"], wrong)] if wrong else []
    return tables, {"value": mean.value, "error": mean.error, "n": mean.n, **scores.as_json()}
