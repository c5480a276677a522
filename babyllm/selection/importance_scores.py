"""Importance weights (DSIR) of conversations and documents, compared with a target, in two passes.

pass 1: partitions -> counts of hashed n-grams -+-> log ratios of the buckets
        target ------> counts ------------------+
pass 2: texts -> importance (log weight), importance_draw (the same with noise, by whose order a draw is made)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from babyllm.chat.formats import FormatConfig
from babyllm.chat.messages import Conversation
from babyllm.chat.reading import find_chats
from babyllm.chat_corpus.chat_records import read_records, text_of
from babyllm.errors import UserError
from babyllm.prepare.inputs import documents_of, find_sources
from babyllm.selection.numeric.importance import ImportanceConfig, count, log_ratios, noisy, weigh
from babyllm.selection.numeric.keys import text_keys
from babyllm.selection.scorers.scored_batches import Scores
from babyllm.text.readers import Partition, ReadConfig, Rejected

COLUMNS = ("importance", "importance_draw", "n_grams")
PIECE_BYTES = 8 << 20


@dataclass(frozen=True)
class ImportanceScores:
    """A scorer by importance weights.

    Columns:
        importance: log importance weight.
        importance_draw: the same plus Gumbel noise, which a hash of the text decides: the conversations with the
            largest are a draw by the weights, without replacement.
        n_grams: number of n-grams.

    Attributes:
        ratios: (buckets,) float64 log ratios.
        config: settings of the comparison.
    """

    ratios: NDArray[np.float64]
    config: ImportanceConfig

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the columns."""
        return COLUMNS

    def score(self, conversations: Sequence[Conversation]) -> Scores:
        """The weights of conversations, by the contents of all their messages."""
        return self.score_texts(list(map(text_of, conversations)))

    def score_texts(self, texts: Sequence[str]) -> Scores:
        """The weights of texts."""
        weighed = weigh(texts, self.ratios, self.config)
        draw = noisy(weighed.log_weights, text_keys(texts), self.config.seed)
        values = (weighed.log_weights, draw, weighed.n_grams.astype(np.float64))
        return Scores(dict(zip(COLUMNS, values, strict=True)), [""] * len(texts))


def count_chats(partition: Partition, folder: Path, *, format: FormatConfig, config: ImportanceConfig) -> list[int]:
    """The counts of a partition of chat files, as a JSON value."""
    del folder
    counts: list[int] = count(_chat_texts(partition, format), config).tolist()
    return counts


def _chat_texts(partition: Partition, format: FormatConfig) -> Iterator[str]:
    for record in read_records(partition, format):
        if not isinstance(record, Rejected):
            yield text_of(record.conversation)


def ratios_to(target: NDArray[np.int64], counts: Iterable[Sequence[int]], config: ImportanceConfig) -> ImportanceScores:
    """The scorer that compares with a target, from its counts and those of all partitions.

    Raises:
        UserError: the target or the input has no text.
    """
    raw = np.sum([np.array(part, np.int64) for part in counts], axis=0)
    return ImportanceScores(log_ratios(target, raw, config.smoothing), config)


def count_target_chats(paths: Sequence[Path], format: FormatConfig, config: ImportanceConfig) -> NDArray[np.int64]:
    """(buckets,) int64 counts of the conversations in a target's files.

    Raises:
        UserError: a file cannot be read, or none holds a conversation.
    """
    partitions = find_chats(paths, PIECE_BYTES)
    texts = (text for partition in partitions for text in _chat_texts(partition, format))
    return _counted(texts, paths, config)


def count_target_documents(paths: Sequence[Path], read: ReadConfig, config: ImportanceConfig) -> NDArray[np.int64]:
    """(buckets,) int64 counts of the documents in a target's files or corpora.

    Raises:
        UserError: a file cannot be read, or none holds a document.
    """
    sources = find_sources(paths, read, PIECE_BYTES)
    texts = (document.text for s in sources for document in documents_of(s, read, Counter(), None))
    return _counted(texts, paths, config)


def _counted(texts: Iterable[str], paths: Sequence[Path], config: ImportanceConfig) -> NDArray[np.int64]:
    counts: NDArray[np.int64] = count(texts, config)
    if not counts.any():
        raise UserError(f"--target: {', '.join(map(str, paths))} holds no text to compare with")
    return counts
