"""The choice among conversations with scores: who takes part, in which order a rule keeps them, and how many.

Candidates -> shares, bounds, missing scores -> those who take part -> rule -> order -> number, limit -> kept
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from babyllm.errors import UserError
from babyllm.selection.numeric.diverse_top import diverse_top
from babyllm.selection.numeric.k_center import k_center
from babyllm.selection.numeric.k_means import assign, k_means, nearest_members
from babyllm.selection.numeric.keys import text_keys, uniform
from babyllm.selection.numeric.neighbours import cluster_weights, neighbour_weights, neighbours, served_weights
from babyllm.selection.numeric.record_rules import RuleConfig, rank
from babyllm.selection.numeric.vectors import Vectors
from babyllm.selection.score_tables import Candidates
from babyllm.selection.select_config import SelectConfig
from babyllm.text.takedowns import REASON as TAKEN_DOWN

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Choice:
    """What is kept.

    Attributes:
        kept: numbers of the conversations in each nested set, from the smallest to the largest, in the rule's order.
        why: reason for each conversation that is in no set; empty for those in one.
        radius: largest distance to a centre after the last choice of k_center; None for other rules.
    """

    kept: list[Rows]
    why: list[str]
    radius: float | None = None


def choose(candidates: Candidates, config: SelectConfig, already: Rows) -> Choice:
    """Choose conversations.

    Args:
        candidates: all conversations, with scores and vectors.
        config: rule and amounts.
        already: numbers of the conversations of earlier selections, which are kept first.

    Raises:
        UserError: a score or a name does not exist, or no conversation is left to choose from.
    """
    why = np.full(len(candidates), "", object)
    why[~_in_share(candidates, config)] = "not in the share of its group"
    why[[reason == TAKEN_DOWN for reason in candidates.reasons]] = TAKEN_DOWN
    _bound(candidates, config, why)
    rows = np.flatnonzero(why == "")
    rows = rows[~np.isin(rows, already)]
    if not len(rows) and not len(already):
        raise UserError("no conversation is left to choose from: " + _told(why))
    amounts = [_number(amount, len(candidates)) for amount in config.amounts]
    order, radius = _in_groups(candidates, config, rows, already, amounts[-1])
    why[already] = ""
    order = _within_limit(candidates, config, order)
    kept = [np.concatenate([already, order if amount is None else order[:amount]]) for amount in amounts]
    rest = np.ones(len(candidates), bool)
    rest[kept[-1]] = False
    why[rest & (why == "")] = f"not chosen by the rule {config.chosen_rule}"
    return Choice(kept, why.tolist(), radius)


def _number(amount: float | None, n: int) -> int | None:
    """The number of conversations that a share (float) or a number (integer) of `n` stands for."""
    if amount is None or isinstance(amount, int):
        return amount
    return max(1, round(amount * n))


def _told(why: NDArray[np.object_]) -> str:
    reasons, counts = np.unique(why.astype(str), return_counts=True)
    return "; ".join(f"{n:,} x {reason}" for n, reason in sorted(zip(counts.tolist(), reasons, strict=True))[::-1][:3])


# ---- who takes part


def stem(file: str) -> str:
    """The name of a file without folders and suffixes."""
    return PurePosixPath(file).name.partition(".")[0]


def _in_share(candidates: Candidates, config: SelectConfig) -> NDArray[np.bool_]:
    """Whether each conversation is in the share of its task or file that takes part."""
    if not config.share:
        return np.ones(len(candidates), bool)
    stems = [stem(file) for file in candidates.files]
    for name in config.share:
        if name not in candidates.tasks and name not in stems:
            known = ", ".join(sorted({*candidates.tasks, *stems})[:10])
            raise UserError(f"--share: there is no task or file {name}; there are {known}")
    of_tasks = {name: share for name, share in config.share.items() if name in candidates.tasks}
    of_files = {name: share for name, share in config.share.items() if name not in of_tasks}
    groups = zip(candidates.tasks, stems, strict=True)
    shares = np.array([of_tasks.get(task, of_files.get(file, 1.0)) for task, file in groups])
    return uniform(text_keys(candidates.keys), config.seed) < shares


def score(candidates: Candidates, name: str, flag: str = "by") -> NDArray[np.float64]:
    """The score of this name, or the product of several joined by *, (n,) float64.

    Raises:
        UserError: there is none; the message names `flag`.
    """
    for factor in name.split("*"):
        if factor not in candidates.scores:
            known = ", ".join(sorted(candidates.scores)) or "none; add some with --scores"
            raise UserError(f"--{flag}: there is no score {factor}; there are {known}")
    product: NDArray[np.float64] = np.prod([candidates.scores[factor] for factor in name.split("*")], axis=0)
    return product


def _bound(candidates: Candidates, config: SelectConfig, why: NDArray[np.object_]) -> None:
    """Add the reasons of those that lack a needed score or vector, or whose score is out of bounds."""

    def drop(who: NDArray[np.bool_], reasons: str | Sequence[str]) -> None:
        who = who & (why == "")
        why[who] = reasons if isinstance(reasons, str) else np.array(reasons, object)[who]

    needed = [*config.within, *([config.column] if config.column else [])]
    for name in dict.fromkeys(needed):
        values = score(candidates, name, "within" if name in config.within else "by")
        drop(
            np.isnan(values), [f"no score {name}" + (f": {reason}" if reason else "") for reason in candidates.reasons]
        )
        low, high = config.within.get(name, [None, None])
        if low is not None:
            drop(values < low, f"{name} below {low:g}")
        if high is not None:
            drop(values > high, f"{name} above {high:g}")
    if candidates.vectors is not None and (config.weights or config.chosen_rule in ("k_center", "k_means", "diverse")):
        has_none = np.concatenate(
            [np.isnan(candidates.vectors[i : i + 4096, 0]) for i in range(0, len(candidates), 4096)]
        )
        drop(has_none, [f"no vector: {reason}" for reason in candidates.reasons])


# ---- the order of the rule


def _in_groups(
    candidates: Candidates, config: SelectConfig, rows: Rows, already: Rows, n: int | None
) -> tuple[Rows, float | None]:
    """Rows in the order in which they are kept; the groups take turns by their shares."""
    if config.each is None:
        return _ordered(candidates, config, rows, already, n)
    names = np.array(candidates.tasks if config.each == "task" else candidates.files, object)[rows]
    groups = [rows[names == name] for name in sorted(set(names.tolist()))]
    found, positions = list[Rows](), list[NDArray[np.float64]]()
    for group in groups:
        order, _ = _ordered(candidates, config, group, already, None if n is None else min(len(group), n))
        found.append(order)
        positions.append((np.arange(len(order)) + 0.5) / len(group))
    order = np.concatenate(found)
    return order[np.argsort(np.concatenate(positions), kind="stable")], None


def _ordered(
    candidates: Candidates, config: SelectConfig, rows: Rows, already: Rows, n: int | None
) -> tuple[Rows, float | None]:
    """The first `n` of some rows in the order of the rule, or all of them."""
    rule, vectors = config.chosen_rule, candidates.vectors
    n = len(rows) if n is None else min(n, len(rows))
    if not n:
        return rows[:0], None
    if rule == "k_center":
        assert vectors is not None
        centres = already[~np.isnan(vectors[already, 0])]
        found = k_center(vectors, n, metric=config.metric, chosen=centres, among=rows)
        return found.rows, float(found.radii[-1])
    if rule == "k_means":
        assert vectors is not None
        clusters = k_means(vectors, min(config.clusters, len(rows)), metric=config.metric, among=rows, seed=config.seed)
        members = nearest_members(clusters, len(rows))
        turns = np.concatenate([np.arange(len(own)) for own in members])
        return rows[np.concatenate(members)[np.argsort(turns, kind="stable")]][:n], None
    if rule == "diverse":
        assert vectors is not None
        values = np.full(len(candidates), np.nan)
        values[rows] = score(candidates, str(config.column))[rows]
        return diverse_top(vectors, values, n, threshold=config.similar).rows, None
    keys = [candidates.keys[row] for row in rows]
    if rule == "weighted":
        weights = _weights(candidates, config, rows, n)
        draws = uniform(text_keys(keys), config.seed)
        # The order of weighted draws without replacement (Efraimidis and Spirakis 2006).
        return rows[np.argsort(np.where(weights > 0, -np.log(draws) / np.maximum(weights, 1e-300), np.inf))][:n], None
    values = np.zeros(len(rows)) if rule == "random" else score(candidates, str(config.column))[rows]
    return rows[rank(keys, values, RuleConfig(rule, seed=config.seed)).rows][:n], None


def _weights(candidates: Candidates, config: SelectConfig, rows: Rows, n: int) -> NDArray[np.float64]:
    """The weight of each of some rows for a weighted draw."""
    vectors = candidates.vectors
    if config.weights is None:
        found = score(candidates, str(config.column))[rows]
        if (found < 0).any():
            raise UserError(f"--by={config.column}: weights must be at least 0; bound them with --within")
        return found
    assert vectors is not None
    if config.weights == "neighbours":
        k = min(config.neighbours, len(rows) - 1)
        return neighbour_weights(neighbours(vectors, k, metric=config.metric, among=rows).distances)
    if config.weights == "k_means":
        k = min(config.clusters, len(rows))
        return cluster_weights(k_means(vectors, k, metric=config.metric, among=rows, seed=config.seed).labels)
    centres = k_center(vectors, min(n, len(rows)), metric=config.metric, among=rows).rows
    data, places = Vectors(vectors, rows, config.metric), np.searchsorted(rows, centres)
    weights = np.zeros(len(rows))
    weights[places] = served_weights(assign(data, data.take(places))[0], len(centres))
    return weights


def _within_limit(candidates: Candidates, config: SelectConfig, order: Rows) -> Rows:
    """The first rows of an order up to the limit."""
    budget = config.budget()
    if budget is None:
        return order
    number, unit = budget
    if unit == "records":
        return order[:number]
    if unit == "bytes":
        sizes = candidates.sizes.astype(np.float64)
    else:
        names = (("prompt_tokens", "answer_tokens"), ("prompt_length", "answer_length"))
        pair = next((pair for pair in names if set(pair) <= set(candidates.scores)), None)
        if pair is None:
            raise UserError(
                f"--limit={config.limit}: tokens are counted by the scorer text with a --model, by ifd or by loss; add "
                "one to --scores"
            )
        sizes = np.nan_to_num(candidates.scores[pair[0]] + candidates.scores[pair[1]])
    return order[: int(np.searchsorted(np.cumsum(sizes[order]), number, side="right"))]
