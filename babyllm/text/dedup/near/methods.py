"""The methods that find candidates for near-duplicates, in one table.

A method computes keys from a text's shingles. Documents that share a key are candidates, whose true similarity is
computed afterwards. To add a method, write it in a module of its own, add its name and its settings to `DedupConfig`,
and name it in `METHODS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from babyllm.pipeline.report import Fact
from babyllm.ragged import U64, Ragged
from babyllm.text.dedup.dedup_config import DedupConfig
from babyllm.text.dedup.near.minhash import MinHash
from babyllm.text.dedup.near.simhash import SimHash


class Method(Protocol):
    """One way to find candidates."""

    @property
    def n_tables(self) -> int:
        """The number of keys of a document; two documents that share a key are candidates."""

    def sketch(self, hashes: Ragged) -> tuple[U64, U64 | None]:
        """The sketch of each text.

        Args:
            hashes: hashes (uint64) of each text's shingles, repetitions included.

        Returns:
            (n_tables, texts) uint64 keys, and (texts, words) uint64 fingerprints for `narrow`; None if it needs none.
        """

    def narrow(self, pairs: U64, prints: U64) -> U64:
        """The pairs that are candidates by their fingerprints.

        Args:
            pairs: (pairs,) uint64 packed pairs of documents.
            prints: (documents, words) uint64 fingerprints, in rows by document number.
        """

    def fact(self) -> Fact:
        """The line of the report that describes the method."""


class Choice(NamedTuple):
    """A row of the table.

    Attributes:
        build: function from the settings, the number of documents and the idf of all shingles to the method.
        needs_idf: function that says whether the settings need the idf of shingles.
    """

    build: Callable[[DedupConfig, int, NDArray[np.float64] | None], Method]
    needs_idf: Callable[[DedupConfig], bool] = lambda config: False


METHODS: Mapping[str, Choice] = {
    "minhash": Choice(lambda config, n_documents, idf: MinHash(config.minhash, config.threshold)),
    "simhash": Choice(
        lambda config, n_documents, idf: SimHash(config.simhash, n_documents, idf),
        needs_idf=lambda config: config.simhash.weights == "tfidf",
    ),
}
