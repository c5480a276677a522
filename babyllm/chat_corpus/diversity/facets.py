"""The numbers and shares that a report on diversity has, by name, so that two sets can be compared name by name."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from babyllm.chat_corpus.diversity.record_distances import Distances, distances
from babyllm.chat_corpus.diversity.sameness import FREQUENT, frequent_tokens
from babyllm.chat_corpus.diversity.tallies import Tally
from babyllm.chat_corpus.diversity.totals import SAMPLE, Diversity
from babyllm.pipeline.report import Fact

DRAWN = 10_000
"""Number of tokens, or of pairs of tokens, in which different ones are counted."""
STANDARD_ERROR = "standard error"
QUANTILES = (("10 % up to", 0.1), ("median", 0.5), ("90 % up to", 0.9), ("99 % up to", 0.99), ("longest", 1.0))


class Scale(NamedTuple):
    """What two sets have in common, so that their numbers can be compared.

    Attributes:
        sample: number of conversations whose distances are measured.
        drawn: number of tokens, pairs of tokens or texts in which different ones are counted, by the name of a tally.
        reference: texts in which documents with a token are counted; None takes those of each set.
    """

    sample: int
    drawn: dict[str, int]
    reference: tuple[str, ...] | None


SIDES = ("prompt", "answer")
_TOKENS = [f"{side}_{unit}" for side in SIDES for unit in ("tokens", "pairs")]
_TEXTS = ("conversations", "pairs", "prompts", "answers")


def tally_of(diversity: Diversity, name: str) -> Tally:
    """The tally of this name, such as that of "prompt_tokens", without its texts."""
    found = getattr(diversity, name)
    return found if isinstance(found, Tally) else found.table


def scale_of(diversity: Diversity, before: Diversity | None) -> Scale:
    """The scale on which a set and another one before it are measured."""
    sets = [diversity] if before is None else [diversity, before]
    drawn = {name: min(tally_of(d, name).total for d in sets) for name in (*_TOKENS, *_TEXTS)}
    drawn |= {name: min(DRAWN, drawn[name]) for name in _TOKENS}
    sample = min(len(d.sample.texts) for d in sets)
    return Scale(sample, drawn, None if before is None else before.sample.texts[:sample])


def distances_of(diversity: Diversity, scale: Scale) -> Distances | None:
    """The distances between the first conversations of the sample; None if there are fewer than two."""
    return distances(diversity.sample.texts[: scale.sample], diversity.n, scale.reference)


def sizes(d: Diversity) -> Iterator[Fact]:
    """How much there is."""
    yield "conversations", d.n
    yield "turns", d.answers.total
    yield "rejected records", sum(d.rejected.values())
    yield "different conversations", d.conversations.distinct
    yield "different prompts", d.prompts.table.distinct
    yield "different answers", d.answers.table.distinct
    yield "different system messages", d.systems.table.distinct
    yield "tasks", d.tasks.table.distinct
    yield "effective number of tasks (e to the entropy)", math.exp(d.tasks.table.entropy)
    if d.top_tasks.table.distinct < d.tasks.table.distinct:
        yield "effective number of tasks of the first level", math.exp(d.top_tasks.table.entropy)


def estimates(d: Diversity) -> Iterator[str]:
    """What there are too many different ones of to count exactly, with the share that is counted."""
    for name in (*_TEXTS, *_TOKENS, "tasks", "systems", "prompt_openings", "answer_openings"):
        if level := tally_of(d, name).level:
            yield f"{name.replace('_', ' ')} (from one of {1 << level})"


def shares(d: Diversity, scale: Scale) -> Iterator[Fact]:
    """Shares of the conversations, turns or tokens; those of repetitions among as many drawn from each set."""
    names = {name: name for name in _TEXTS} | {"pairs": "pairs of prompt and answer"}
    for name, n in ((name, scale.drawn[name]) for name in _TEXTS):
        tally = tally_of(d, name)
        yield f"{names[name]} that repeat an earlier one", max(0.0, 1 - tally.distinct_in(n) / n) if n else 0.0
    yield "blank answers", _share(d.counts.get("blank_answers", 0), d.answers.total)
    yield "conversations without a system message", 1 - _share(d.systems.total, d.n)
    yield "conversations of several turns", 1 - _share(d.turns.below(2), d.n)
    yield "later questions that switch the topic", _share(d.counts.get("switches", 0), d.counts.get("follow_ups", 0))
    for side in SIDES:
        tokens = getattr(d, f"{side}_tokens")
        yield f"{side}s: the {FREQUENT} most frequent tokens, of all", _share(frequent_tokens(tokens), tokens.total)


def lengths(d: Diversity) -> Iterator[Fact]:
    """Means and quantiles of lengths in characters, and of numbers of turns."""
    named = (("prompts", d.prompt_lengths), ("answers", d.answer_lengths), ("turns of a conversation", d.turns))
    for name, tally in named:
        if not tally.total:
            continue
        yield f"{name}: mean", float(np.dot(tally.keys.astype(np.float64), tally.counts)) / tally.total
        for label, share in QUANTILES:
            yield f"{name}: {label}", tally.quantile(share)


def words(d: Diversity, scale: Scale) -> Iterator[Fact]:
    """How many different tokens and pairs of tokens there are, of all and of as many in each set."""
    for side in SIDES:
        tokens, pairs = (tally_of(d, f"{side}_{unit}") for unit in ("tokens", "pairs"))
        if not tokens.total:
            continue
        yield f"{side}s: tokens", tokens.total
        yield f"{side}s: different tokens", tokens.distinct
        yield f"{side}s: different tokens / tokens (distinct-1)", tokens.distinct / tokens.total
        yield f"{side}s: different pairs / pairs (distinct-2)", pairs.distinct / max(1, pairs.total)
        for name, tally, unit in ((f"{side}_tokens", tokens, "tokens"), (f"{side}_pairs", pairs, "pairs")):
            n = scale.drawn[name]
            yield f"{side}s: different {unit} among {n:,} drawn", tally.distinct_in(n)
        yield f"{side}s: effective number of tokens (e to the entropy)", math.exp(tokens.entropy)


def spread(found: Distances | None) -> Iterator[Fact]:
    """The distances between conversations of the sample."""
    if found is None:
        return
    yield "conversations in the sample", found.n
    yield "mean distance, 1 - Jaccard of pairs of tokens", found.jaccard.value
    yield f"{STANDARD_ERROR} of this distance of pairs of tokens", found.jaccard.error
    yield "mean distance, 1 - cosine of tf-idf", found.cosine.value
    yield f"{STANDARD_ERROR} of this distance of tf-idf", found.cosine.error
    yield "mean share of pairs of tokens that another one has, too", found.overlap


SAMPLE_TITLE = f"Distances (over all pairs of at most {SAMPLE:,} conversations, the first 2,000 characters of each)"


def _share(count: float, n: int) -> float:
    return count / n if n else 0.0
