"""Items of a task beside the texts a model was trained on: which were in them, and which texts are most like them.

    items -> texts -> n-grams of words --+
    corpus -> readers -> documents -> n-grams of words -> contaminated items, or the nearest documents of each item

Words and n-grams are those of deduplication and decontamination (`babyllm.text.dedup.decontaminate`).
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from babyllm.documents import Document
from babyllm.evaluate.tasks.items import Item
from babyllm.ragged import U64, Ragged
from babyllm.text.dedup.decontaminate import grams_of
from babyllm.text.dedup.near.shingles import ngrams, words
from babyllm.text.dedup.normal import fold
from babyllm.text.readers import WHOLE_FILES, ReadConfig, find_partitions, read_partition

CONTAMINATION_WORDS = 13
"""Number of words of an n-gram that shows an item to be in a corpus; a Chinese character counts as one (GPT-3)."""
NEAREST_WORDS = 3
_BATCH = 1000


class Overlap(NamedTuple):
    """Which items share an n-gram with a corpus.

    Attributes:
        found: ids of the items that do.
        too_short: ids of the items with fewer words than an n-gram, which cannot be looked for.
    """

    found: frozenset[str]
    too_short: frozenset[str]


class Near(NamedTuple):
    """A document like an item.

    Attributes:
        share: share of the item's n-grams that it contains.
        text: its beginning.
    """

    share: float
    text: str


def text_of(item: Item) -> str:
    """The text by which an item is looked for: the question and the right answer, or the good sentence of a pair."""
    right = item.options[item.answer] if item.options else item.reference
    return f"{item.question}\n{right}" if item.question else right


def overlaps(
    tasks: Sequence[Sequence[Item]], corpus: Sequence[Path], n_words: int = CONTAMINATION_WORDS
) -> list[Overlap]:
    """The items of each task that share an n-gram of words with a corpus, as `dedup --decontaminate` would find them.

    The corpus is read once.

    Args:
        tasks: items of each task.
        corpus: files and folders of texts, in any format that `clean` reads.
        n_words: number of words of an n-gram.

    Raises:
        UserError: a file cannot be read.
    """
    items = [item for of_task in tasks for item in of_task]
    tokens = words(_folded([text_of(item) for item in items]))
    grams = grams_of(tokens, n_words)
    known = np.unique(grams.values)
    is_seen = np.zeros(len(known), np.bool_)
    for _, folded in _documents(corpus):
        is_seen[_places(known, grams_of(words(folded), n_words).values)] = True
    of_item = np.repeat(np.arange(len(items)), grams.lengths())
    seen = np.bincount(of_item[is_seen[np.searchsorted(known, grams.values)]], minlength=len(items)) > 0
    flags = iter(zip(seen.tolist(), (tokens.lengths() < n_words).tolist(), strict=True))
    found = []
    for of_task in tasks:
        mine = [(item.id, *next(flags)) for item in of_task]
        found.append(Overlap(frozenset(i for i, is_in, _ in mine if is_in), frozenset(i for i, _, few in mine if few)))
    return found


def nearest(items: Sequence[Item], corpus: Sequence[Path], n: int = 1, characters: int = 200) -> list[list[Near]]:
    """The documents of a corpus that contain most of each item's n-grams of three words, the best first.

    Args:
        items: items of a task.
        corpus: files and folders of texts, in any format that `clean` reads.
        n: largest number of documents of each item.
        characters: largest number of characters of a document that are returned.

    Raises:
        UserError: a file cannot be read.
    """
    wanted = ngrams(words(_folded([text_of(item) for item in items])), NEAREST_WORDS)
    rows = [np.unique(wanted.values[a:b]) for a, b in zip(wanted.offsets[:-1], wanted.offsets[1:], strict=True)]
    known, numbers = np.unique(np.concatenate(rows), return_inverse=True)
    owner = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    items_of = np.split(owner[np.argsort(numbers, kind="stable")], np.cumsum(np.bincount(numbers))[:-1])
    best: list[list[tuple[float, int, str]]] = [[] for _ in items]
    count = itertools.count()  # of equally good documents the first counts
    for texts, folded in _documents(corpus):
        grams = ngrams(words(folded), NEAREST_WORDS)
        for row, text in enumerate(texts):
            found = np.unique(_places(known, grams.values[grams.offsets[row] : grams.offsets[row + 1]]))
            if not len(found):
                continue
            hits = np.bincount(np.concatenate([items_of[gram] for gram in found]), minlength=len(items))
            for item in np.flatnonzero(hits).tolist():
                entry = (float(hits[item]) / len(rows[item]), -next(count), text)
                (heapq.heappush if len(best[item]) < n else heapq.heappushpop)(best[item], entry)
    return [[Near(share, text[:characters]) for share, _, text in sorted(mine, reverse=True)] for mine in best]


def _places(known: U64, grams: U64) -> NDArray[np.int64]:
    """The places in `known`, sorted, of those of the n-grams that are in it."""
    if not len(known):
        return np.empty(0, np.int64)
    place: NDArray[np.int64] = np.minimum(np.searchsorted(known, grams), len(known) - 1)
    found: NDArray[np.int64] = place[known[place] == grams]
    return found


def _documents(corpus: Sequence[Path]) -> Iterator[tuple[list[str], Ragged]]:
    """The texts of a corpus, in batches, each as it is and folded."""
    config = ReadConfig()
    found = (
        item for part in find_partitions(list(corpus), config, WHOLE_FILES) for item in read_partition(part, config)
    )
    texts = (item.text for item in found if isinstance(item, Document))
    while batch := list(itertools.islice(texts, _BATCH)):
        yield batch, _folded(batch)


def _folded(texts: Sequence[str]) -> Ragged:
    return fold(pa.array(texts, pa.large_string()))
