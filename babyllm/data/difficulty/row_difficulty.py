"""The measures of difficulty by name, computed once for a run and stored in its directory.

rows -> measured: rank 0 computes -> difficulty.npy, sealed by difficulty.json -> every rank reads it
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from babyllm.data.difficulty.given_numbers import given_numbers
from babyllm.data.difficulty.gram_rarity import rarity
from babyllm.data.difficulty.parts_of_speech import n_parts_of_speech
from babyllm.data.difficulty.stored_numbers import computed_once
from babyllm.data.difficulty.text_lengths import text_lengths
from babyllm.data.order.shuffle import Rows, hash_ints
from babyllm.data.row_config import CompetenceConfig
from babyllm.errors import UserError
from babyllm.ragged import GOLDEN, mix
from babyllm.runtime import Runtime
from babyllm.tokenizer import Tokenizer

NUMBERS = "difficulty.npy"  # in the run directory
VERSION = 1  # of the measures: a change of any of them makes stored numbers void
Numbers = NDArray[np.float64]
GRAMS = {"unigram": 1, "bigram": 2, "trigram": 3}


@dataclass(frozen=True)
class Measured:
    """What the measures read.

    Attributes:
        rows: training rows.
        domains: names of the domains, or tasks.
        places_of: function of a number for each domain, (len(domains),), that returns the (n,) number of each row: that
            of its domain, or the greatest of its domains.
        vocab_size: number of different ids.
        tokenizer: tokenizer of the rows; None if there is none.
        made_of: values, as JSON, that decide the rows: a stored result is theirs alone.
    """

    rows: Rows
    domains: Sequence[str]
    places_of: Callable[[NDArray[np.int64]], NDArray[np.int64]]
    vocab_size: int
    tokenizer: Tokenizer | None
    made_of: Sequence[str | int | bool]


def difficulty(
    config: CompetenceConfig, data: Measured, seed: int, runtime: Runtime, directory: Path | None
) -> Numbers | None:
    """The difficulty of each row; every rank must call it.

    Args:
        config: the section `data.curriculum`, whose `by` is not None.
        data: the rows, and what else the measures read.
        seed: seed of the data order, for chance.
        runtime: runtime of the run; its rank 0 computes.
        directory: directory of the run, in which the numbers are stored; None stores nothing.

    Returns:
        (n,) float64, greater for harder rows; None where the model measures them during training.

    Raises:
        UserError: the settings do not fit each other or the data, a file cannot be read, or a library is missing.
    """
    _require_fitting(config, data)
    if config.by == "loss":
        return None
    if config.by == "column":
        return given_numbers(Path(config.column or ""), len(data.rows))
    made_of = [VERSION, config.by, config.sources, seed, len(data.rows), *data.made_of]
    return computed_once(directory, NUMBERS, made_of, lambda: _computed(config, data, seed), runtime)


def _require_fitting(config: CompetenceConfig, data: Measured) -> None:
    if (config.by == "column") != (config.column is not None):
        raise UserError("data.curriculum.column: is a file of numbers, for data.curriculum.by=column; set both or none")
    if (config.by == "sources") != bool(config.sources):
        names = ", ".join(data.domains[:3])
        raise UserError(
            "data.curriculum.sources: are the domains in their order, for data.curriculum.by=sources, such as "
            f"[{names}]; set both or none"
        )
    if config.by == "sources" and sorted(config.sources) != sorted(data.domains):
        raise UserError(
            f"data.curriculum.sources={list(config.sources)}: must name each domain once: {', '.join(data.domains)}"
        )


def _computed(config: CompetenceConfig, data: Measured, seed: int) -> Numbers:
    if config.by in GRAMS:
        return rarity(data.rows, GRAMS[config.by], data.vocab_size)
    if config.by == "length":
        return text_lengths(data.rows)
    if config.by == "pos":
        return n_parts_of_speech(data.rows, data.tokenizer)
    chance = _chance(len(data.rows), seed)
    if config.by == "sources":
        places = np.array([config.sources.index(domain) for domain in data.domains])
        return data.places_of(places) + chance  # within a domain the rows come in an order of chance
    return chance


def _chance(n: int, seed: int) -> Numbers:
    """(n,) float64 in [0, 1), a fixed function of the seed and the row."""
    state = np.arange(n, dtype=np.uint64) * GOLDEN + np.uint64(hash_ints(seed, *b"difficulty"))
    chance: Numbers = (mix(state) >> np.uint64(11)) / float(1 << 53)
    return chance
