"""Counts of many different things in bounded memory, which add up and do not depend on the order of what is counted.

    hashes -> Tally: how often each occurs            -> number of distinct ones, shares, entropy
    texts  -> TextTally: the same, and frequent texts -> top lists

A tally counts exactly up to `LIMIT` different keys. Beyond, it keeps the keys whose last `level` bits are 0, with the
smallest level at which they fit (adaptive sampling: Flajolet 1990), so numbers of distinct keys become estimates.
Frequent texts are found by the summary of Misra and Gries (1982), which adds up without losing its bound (Agarwal et
al. 2012): of N texts, each that occurs more than N / (HELD + 1) times is held.
"""

from __future__ import annotations

import base64
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from babyllm.ragged import U64, hash_rows
from babyllm.text.dedup.exact import exact_forms

LIMIT = 1 << 22
"""Largest number of different keys that a tally counts exactly; each takes 16 bytes."""
HELD = 4096
"""Largest number of texts that a tally holds to show them."""
SHOWN_CHARACTERS = 60
"""Characters of a text that are held."""
SURE = 50.0  # a key of which so many occurrences are expected in a draw is in it, but for e**-50
I64 = NDArray[np.int64]


@dataclass(frozen=True)
class Tally:
    """How often each key occurs.

    Attributes:
        keys: (n,) uint64 different keys, ascending; for hashes all bits must be random.
        counts: (n,) int64, how often each of them occurs.
        total: number of all occurrences, those of keys that are not kept included.
        level: number of last bits that are 0 in the keys that are kept.
        limit: largest number of keys that are kept.
    """

    keys: U64
    counts: I64
    total: int
    level: int = 0
    limit: int = LIMIT

    @classmethod
    def of(cls, keys: U64, counts: I64 | None = None, limit: int = LIMIT) -> Tally:
        """The tally of (n,) uint64 keys in any order, which occur once each or (n,) int64 `counts` times."""
        total = len(keys) if counts is None else int(counts.sum())
        return cls(*_summed(keys, counts), total, 0, limit)._within_limit()

    def __add__(self, other: Tally) -> Tally:
        """The tally of what both count."""
        level = max(self.level, other.level)
        mine, theirs = self._at(level), other._at(level)
        keys = np.concatenate([mine.keys, theirs.keys])
        counts = np.concatenate([mine.counts, theirs.counts])
        return Tally(*_summed(keys, counts), self.total + other.total, level, self.limit)._within_limit()

    @property
    def distinct(self) -> int:
        """The number of different keys; an estimate if `level` is not 0."""
        return len(self.keys) << self.level

    @property
    def repeated_share(self) -> float:
        """The share of occurrences that repeat an earlier one; 0 without any."""
        return max(0.0, 1 - self.distinct / self.total) if self.total else 0.0

    @property
    def entropy(self) -> float:
        """The entropy of the keys in nats (the plug-in estimate, from the keys that are kept); 0 without any."""
        if not len(self.counts):
            return 0.0
        shares = self.counts / self.counts.sum()
        return float(-(shares * np.log(shares)).sum()) + self.level * float(np.log(2))

    def distinct_in(self, n: int) -> float:
        """The expected number of different keys among `n` occurrences drawn without replacement.

        Unlike the number of all distinct keys, it does not grow with the size of the set (Hurlbert 1971, equation 14).

        Args:
            n: number of occurrences, at most `total`.
        """
        sizes, times = np.unique(self.counts, return_counts=True)
        if not n or not len(sizes):
            return 0.0
        # A key that occurs s times is missed with probability (1 - n/N) (1 - n/(N-1)) ... (1 - n/(N-s+1)).
        most = min(int(sizes[-1]), int(SURE * self.total / n) + 1, self.total - n)
        logs = np.cumsum(np.log1p(-n / (self.total - np.arange(most, dtype=np.float64))))
        misses = np.where(sizes <= most, np.exp(logs[np.minimum(sizes, most) - 1]) if most else 0.0, 0.0)
        return float(((1 - misses) * times).sum()) * (1 << self.level)

    def count(self, key: int) -> int | None:
        """How often a key occurs; None if it is not known because of the level."""
        place = int(np.searchsorted(self.keys, np.uint64(key)))
        if place < len(self.keys) and int(self.keys[place]) == key:
            return int(self.counts[place])
        return None if self.level and key & ((1 << self.level) - 1) else 0

    def quantile(self, share: float) -> int:
        """The smallest key that at least this share of the occurrences does not exceed, for keys that are numbers."""
        place = int(np.searchsorted(np.cumsum(self.counts), share * self.counts.sum()))
        return int(self.keys[min(place, len(self.keys) - 1)])

    def below(self, key: int) -> int:
        """The number of occurrences of smaller keys, for keys that are numbers."""
        return int(self.counts[: np.searchsorted(self.keys, np.uint64(key))].sum())

    def to_json(self) -> dict[str, Any]:
        """A JSON value that `of_json` reads."""
        arrays = {"keys": _text_of(self.keys), "counts": _text_of(self.counts)}
        return {**arrays, "total": self.total, "level": self.level, "limit": self.limit}

    @classmethod
    def of_json(cls, value: Mapping[str, Any]) -> Tally:
        """The tally from the JSON value of `to_json`."""
        keys, counts = _array_of(value["keys"], np.uint64), _array_of(value["counts"], np.int64)
        return cls(keys, counts, value["total"], value["level"], value["limit"])

    def _at(self, level: int) -> Tally:
        if level == self.level:
            return self
        stays = self.keys & np.uint64((1 << level) - 1) == 0
        return Tally(self.keys[stays], self.counts[stays], self.total, level, self.limit)

    def _within_limit(self) -> Tally:
        tally = self
        while len(tally.keys) > self.limit:
            tally = tally._at(tally.level + 1)
        return tally


@dataclass(frozen=True)
class TextTally:
    """How often each text occurs, and the frequent ones to show.

    Attributes:
        table: tally of the texts' hashes.
        held: (n,) uint64 hashes of the texts that are held, ascending.
        weights: (n,) int64 lower bounds of how often these occur.
        texts: beginnings of these texts, on one line each.
    """

    table: Tally
    held: U64
    weights: I64
    texts: tuple[str, ...]

    @classmethod
    def of(cls, keys: U64, text_of: Callable[[int], str], limit: int = LIMIT) -> TextTally:
        """The tally of texts.

        Args:
            keys: (n,) uint64 hashes of the texts.
            text_of: function from an index of `keys` to what is shown of its text, equal for equal keys.
            limit: largest number of keys that are counted exactly.
        """
        different, first, times = np.unique(keys, return_index=True, return_counts=True)
        held, left = _held(different, times.astype(np.int64))
        texts = tuple(text_of(int(first[i])) for i in held)
        return cls(Tally.of(different, times.astype(np.int64), limit), different[held], left, texts)

    @classmethod
    def of_texts(cls, texts: Sequence[str], keys: U64 | None = None) -> TextTally:
        """The tally of texts that are equal if their exact forms are (`babyllm.text.dedup.exact`).

        Args:
            texts: the texts.
            keys: their `text_keys`, if they are known.
        """
        return cls.of(text_keys(texts) if keys is None else keys, lambda i: shown_text(texts[i]))

    def __add__(self, other: TextTally) -> TextTally:
        """The tally of what both count."""
        names = {**dict(zip(other.held.tolist(), other.texts, strict=True))}
        names |= dict(zip(self.held.tolist(), self.texts, strict=True))
        keys, weights = _summed(np.concatenate([self.held, other.held]), np.concatenate([self.weights, other.weights]))
        held, left = _held(keys, weights)
        texts = tuple(names[key] for key in keys[held].tolist())
        return TextTally(self.table + other.table, keys[held], left, texts)

    @property
    def total(self) -> int:
        """The number of texts."""
        return self.table.total

    def top(self, n: int, least: int = 1) -> list[tuple[int, str, int]]:
        """The most frequent texts: hash, text and count, the most frequent first.

        Only texts are listed that are sure to be held, whatever the order in which the texts came: those of which there
        are more than `total / (HELD + 1)`. If the table does not count exactly, a count may be a lower bound.

        Args:
            n: largest number of texts.
            least: smallest count of a text that is listed.
        """
        least = max(least, self.total // (HELD + 1) + 1)
        found = []
        for key, text, weight in zip(self.held.tolist(), self.texts, self.weights.tolist(), strict=True):
            count = self.table.count(key)
            found.append((key, text, weight if count is None else count))
        found = [entry for entry in found if entry[2] >= least]
        return sorted(found, key=lambda entry: (-entry[2], entry[1], entry[0]))[:n]

    def to_json(self) -> dict[str, Any]:
        """A JSON value that `of_json` reads."""
        arrays = {"held": _text_of(self.held), "weights": _text_of(self.weights)}
        return {"table": self.table.to_json(), **arrays, "texts": list(self.texts)}

    @classmethod
    def of_json(cls, value: Mapping[str, Any]) -> TextTally:
        """The tally from the JSON value of `to_json`."""
        held, weights = _array_of(value["held"], np.uint64), _array_of(value["weights"], np.int64)
        return cls(Tally.of_json(value["table"]), held, weights, tuple(value["texts"]))


def text_keys(texts: Sequence[str]) -> U64:
    """(texts,) uint64 hashes, equal for texts that exact deduplication finds equal."""
    return hash_rows(exact_forms(pa.array(texts, pa.large_string()), ()))[0]


def shown_text(text: str) -> str:
    """The beginning of a text on one line, in which invisible characters are written as escapes."""
    line = " ".join(unicodedata.normalize("NFC", text[: 4 * SHOWN_CHARACTERS]).split())
    line = line if len(line) <= SHOWN_CHARACTERS else f"{line[:SHOWN_CHARACTERS]}…"
    return line if line.isprintable() else "".join(c if c.isprintable() else _escaped(c) for c in line)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()


def _summed(keys: U64, counts: I64 | None) -> tuple[U64, I64]:
    """The different keys, ascending, and the sum of the counts of each."""
    if counts is None:
        different, times = np.unique(keys, return_counts=True)
        return different, times.astype(np.int64)
    order = np.argsort(keys, kind="stable")  # linear where two ascending runs are joined
    keys = keys[order]
    starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]])) if len(keys) else np.empty(0, np.int64)
    return keys[starts], np.add.reduceat(counts[order], starts) if len(starts) else np.empty(0, np.int64)


def _held(keys: U64, weights: I64) -> tuple[I64, I64]:
    """The indices of the keys that a summary holds, and what is left of their weights."""
    if len(keys) <= HELD:
        return np.arange(len(keys)), weights
    left = weights - np.partition(weights, len(weights) - HELD - 1)[len(weights) - HELD - 1]
    stays = np.flatnonzero(left > 0)
    return stays, left[stays]


def _text_of(array: NDArray[Any]) -> str:
    """Whole numbers of at least 0 as text: their size in bytes, the smallest that fits, and base64."""
    largest = int(array.max()) if len(array) else 0
    size = next(size for size in (1, 2, 4, 8) if largest < 1 << 8 * size)
    return f"{size}:{base64.b64encode(array.astype(f'<u{size}').tobytes()).decode()}"


def _array_of(text: str, kind: type[Any]) -> NDArray[Any]:
    size, _, data = text.partition(":")
    return np.frombuffer(base64.b64decode(data), f"<u{size}").astype(kind)
