"""Decontamination: n-grams of words of evaluation sets, and the documents that contain one of them.

    files -> readers -> questions (every string of a record) -> 13-grams -> Benchmarks
    texts -> 13-grams -> matches in Benchmarks

Words are those of `shingles.words`: single Chinese characters, runs of other letters and digits.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from babyllm.errors import UserError
from babyllm.files import write_bytes
from babyllm.ragged import U64, Ragged
from babyllm.text.dedup.near.shingles import ngrams, words
from babyllm.text.dedup.normal import fold
from babyllm.text.readers import WHOLE_FILES, ReadConfig, Rejected, Source, find_partitions
from babyllm.text.readers.archives import read_files
from babyllm.text.readers.formats.table import format_of

_READ = ReadConfig(title=None, domain="file")
_NOT_DATA = ("__MACOSX",)  # folders of metadata in archives


@dataclass(frozen=True)
class Benchmarks:
    """The n-grams of evaluation sets.

    Attributes:
        n: number of words of an n-gram.
        grams: (grams,) uint64 hashes of the n-grams, sorted, distinct.
        question: (grams,) int64 index in `texts` of the first question that contains each n-gram.
        texts: questions of all files.
        files: index of each question's file.
        n_short: number of questions of each file with fewer than n words; they have no n-gram and are not looked for.
    """

    n: int
    grams: U64
    question: NDArray[np.int64]
    texts: list[str]
    files: list[int]
    n_short: list[int]


def evaluation_files(paths: Sequence[str]) -> list[Source]:
    """The evaluation files at these paths, sorted: every format that `clean` reads, also packed and in folders.

    A warning on standard error names the files of folders that are not read.

    Raises:
        UserError: a path does not exist, or holds nothing that can be read.
    """
    if not paths:
        return []
    try:
        partitions = find_partitions([Path(path) for path in paths], _READ, WHOLE_FILES)
    except UserError as error:
        raise UserError(f"--decontaminate: {error}") from None
    files = [s for p in partitions for s in p.sources if not set(s.path.parts) & set(_NOT_DATA)]
    if unread := _unread(paths, {os.path.realpath(source.path) for source in files}):
        more = f" and {len(unread) - 3:,} more" if len(unread) > 3 else ""
        print(f"warning: --decontaminate does not read {', '.join(unread[:3])}{more}", file=sys.stderr)
    return files


def _unread(paths: Sequence[str], read: set[str]) -> list[str]:
    """The files in folders that are not in `read`, without hidden ones."""
    found = []
    for path in paths:
        for folder, inner, names in os.walk(path):
            inner[:] = sorted(name for name in inner if not name.startswith(".") and name not in _NOT_DATA)
            places = [os.path.join(folder, name) for name in sorted(names) if not name.startswith(".")]
            found += [place for place in places if os.path.realpath(place) not in read]
    return found


def read_benchmarks(files: Sequence[Source], n: int) -> Benchmarks:
    """The n-grams of all questions in the files.

    Raises:
        UserError: a file, or a record of it, cannot be read.
    """
    texts: list[str] = []
    of_file: list[int] = []
    for number, source in enumerate(files):
        for question in read_files(source, _READ, _questions):
            if isinstance(question, Rejected):
                raise UserError(
                    f"--decontaminate: {source.path}: cannot be read ({question.place}: {question.reason}); mend it or "
                    "leave it out"
                )
            texts.append(str(question))
            of_file.append(number)
    tokens = words(fold(pa.array(texts, pa.large_string())))
    is_short = tokens.lengths() < n
    n_short = np.bincount(np.array(of_file, np.int64)[is_short], minlength=len(files)).tolist()
    found = grams_of(tokens, n)
    grams, first = np.unique(found.values, return_index=True)
    return Benchmarks(n, grams, np.searchsorted(found.offsets, first, side="right") - 1, texts, of_file, n_short)


def _questions(source: Source) -> Iterator[Any]:
    make: Any = _Questions()  # readers accept any object that converts records
    return format_of(source.format, _READ).read(source, _READ, make)


def matches(folded: Ragged, benchmarks: Benchmarks) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The n-grams that each folded text shares with the evaluation sets.

    Returns:
        (texts,) int64 number of shared n-grams, and (texts,) int64 index in `benchmarks.grams` of the first of them,
        which has no meaning for a text without any.
    """
    found = grams_of(words(folded), benchmarks.n)
    n_texts = len(found.offsets) - 1
    if not len(benchmarks.grams):
        return np.zeros(n_texts, np.int64), np.zeros(n_texts, np.int64)
    place = np.searchsorted(benchmarks.grams, found.values)
    place[place == len(benchmarks.grams)] = 0
    hits = np.flatnonzero(benchmarks.grams[place] == found.values)
    row = np.searchsorted(found.offsets, hits, side="right") - 1
    first = np.zeros(n_texts, np.int64)
    first[row[::-1]] = place[hits[::-1]]  # of several assignments the last one stays: the first match
    return np.bincount(row, minlength=n_texts), first


def save(benchmarks: Benchmarks, path: Path) -> None:
    """Store the n-grams for worker processes."""
    write_bytes(path, np.stack([benchmarks.grams, benchmarks.question.view(np.uint64)]).tobytes())


def load(path: Path, n: int) -> Benchmarks:
    """The n-grams that `save` stored, without the questions."""
    grams, question = np.fromfile(path, np.uint64).reshape(2, -1)
    return Benchmarks(n, grams, question.view(np.int64), [], [], [])


def grams_of(tokens: Ragged, n: int) -> Ragged:
    """The n-grams of texts with at least n words; `ngrams` would make one n-gram of a shorter text."""
    grams = ngrams(tokens, n)
    lengths = tokens.lengths()
    keep = np.repeat(lengths >= n, np.diff(grams.offsets))
    counts = np.where(lengths >= n, np.diff(grams.offsets), 0)
    return Ragged(grams.values[keep], np.concatenate([[0], np.cumsum(counts)]))


class _Questions:
    """Converts each record to its question: all of its strings, joined by line breaks."""

    def document(self, record: Any, place: str) -> str:
        return "\n".join(_strings(record))

    def plain(self, text: str, place: str, domain: str = "") -> str:
        return text

    def columns(self, names: Sequence[str]) -> list[str]:
        return list(names)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value.encode("utf-8", "replace").decode()
    elif isinstance(value, (dict, list)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _strings(item)
