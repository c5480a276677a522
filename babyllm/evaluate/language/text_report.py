"""The report on models that were measured on raw texts: a table of all models, and one of their differences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from babyllm.evaluate.language.comparison import TextScores
from babyllm.evaluate.report import Evaluation
from babyllm.evaluate.statistics import Estimate
from babyllm.pipeline.report import Cell, Fact, Report, Table

_SHOWN = {
    "perplexity": "perplexity per token",
    "bits_per_byte": "bits per byte",
    "bits_per_character": "bits per character",
}


def raw_text_evaluation(
    scores: Mapping[str, TextScores], facts: Sequence[Fact], names: Mapping[str, str] | None = None
) -> Evaluation:
    """The evaluation of one or more models on the same documents.

    Args:
        scores: scores of each model by its name in values; the others are compared with the first.
        facts: description of what was evaluated.
        names: names of the models in tables; None takes those in values.
    """
    shown = {name if names is None else names[name]: mine for name, mine in scores.items()}
    lossy = {model: mine.unknown for model, mine in shown.items() if mine.unknown}
    lost: list[Fact] = [(f"characters unknown to {model}, whose bits are missing", n) for model, n in lossy.items()]
    tables = [_table(shown)]
    if len(scores) > 1:
        tables.append(_differences(shown))
    return Evaluation(Report("Evaluation on raw text", [*facts, *lost], tables), _values(scores))


def _table(scores: Mapping[str, TextScores]) -> Table:
    first = next(iter(scores.values()))
    rows: list[list[Cell]] = []
    for domain, part in first.parts():
        for model, mine in scores.items():
            estimates = mine.estimates(part)
            sizes: list[Cell] = [int(part.sum()), int(mine.n_bytes[part].sum()), int(mine.tokens[part].sum())]
            rows.append([domain, model, mine.seq_len, *sizes, *(_cell(estimates[name]) for name in _SHOWN)])
    columns = ["domain", "model", "context", "documents", "bytes", "tokens", *_SHOWN.values()]
    return Table("raw text, ± standard errors over documents", columns, rows)


def _differences(scores: Mapping[str, TextScores]) -> Table:
    (first, base), *others = scores.items()
    rows: list[list[Cell]] = []
    for domain, part in base.parts():
        for model, mine in others:
            difference = mine.difference(base, part)
            p = difference.p_value(0.0)
            words = "no difference shown" if not p < 0.05 else "better" if difference.value < 0 else "worse"
            rows.append([domain, model, _cell(difference), "< 0.0001" if p < 0.0001 else _number(p), words])
    title = f"difference from {first} in bits per byte on the same documents"
    return Table(title, ["domain", "model", "difference", "p", "at 5 %"], rows)


def _values(scores: Mapping[str, TextScores]) -> dict[str, Any]:
    """The numbers of both tables, unrounded; None for one that cannot be estimated."""
    first = next(iter(scores.values()))
    models: dict[str, Any] = {}
    differences: dict[str, Any] = {}
    for model, mine in scores.items():
        models[model] = {domain: _numbers(mine, part) for domain, part in first.parts()}
        if mine is not first:
            found = {domain: mine.difference(first, part) for domain, part in first.parts()}
            differences[model] = {d: _pair(e) | {"p_value": _number(e.p_value(0.0))} for d, e in found.items()}
    return {"models": models, "differences": differences}


def _numbers(scores: TextScores, part: NDArray[np.bool_]) -> dict[str, Any]:
    sums = {"tokens": scores.tokens, "bytes": scores.n_bytes, "characters": scores.characters}
    counts = {"documents": int(part.sum())} | {name: int(array[part].sum()) for name, array in sums.items()}
    return counts | {name: _pair(estimate) for name, estimate in scores.estimates(part).items()}


def _pair(estimate: Estimate) -> dict[str, float | None]:
    return {"value": _number(estimate.value), "error": _number(estimate.error)}


def _cell(estimate: Estimate) -> str:
    value, error = f"{estimate.value:,.4g}", float(f"{estimate.error:.2g}")
    return value if math.isnan(error) else f"{value} ± {error:,g}"


def _number(value: float) -> float | None:
    """A number as JSON has it, which knows neither NaN nor infinity."""
    return value if math.isfinite(value) else None
