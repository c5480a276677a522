"""Evaluation sets to keep out of a corpus: their n-grams of words, and the documents that hold one.

    files -> questions (every string of a record) -> 13-grams -> Benchmarks
    texts -> 13-grams -> matches in Benchmarks

Words are those of `shingles.words`: single Chinese characters, runs of other letters and digits.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from babyllm.errors import UserError
from babyllm.files import write_bytes
from babyllm.text.dedup.normal import fold
from babyllm.text.dedup.ragged import U64, Ragged
from babyllm.text.dedup.shingles import ngrams, words
from babyllm.text.parquet import FAULTS, open_parquet

_SUFFIXES = (".csv", ".json", ".jsonl", ".parquet", ".txt")


@dataclass(frozen=True)
class Benchmarks:
    """The n-grams of evaluation sets.

    Attributes:
        n: words of a gram.
        grams: their hashes, sorted, distinct.
        question: of each gram, the first question that holds it, counted through all files.
        texts: of the questions.
        files: of each question, the index of its file.
        n_short: of each file, the questions with fewer than n words, which have no gram and cannot be kept out.
    """

    n: int
    grams: U64
    question: NDArray[np.int64]
    texts: list[str]
    files: list[int]
    n_short: list[int]


def evaluation_files(paths: Sequence[str]) -> list[Path]:
    """The files that paths stand for; of a directory, all of a kind that can be read, sorted.

    Raises:
        UserError: there is no such path, or it holds nothing that can be read.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        found = sorted(f for f in path.rglob("*") if f.suffix in _SUFFIXES) if path.is_dir() else [path]
        if not found or not found[0].is_file() or found[0].suffix not in _SUFFIXES:
            raise UserError(f"--decontaminate: {path}: no {', '.join(_SUFFIXES)} file there; give evaluation files")
        files += found
    return files


def read_benchmarks(files: Sequence[Path], n: int) -> Benchmarks:
    """The n-grams of all questions in the files.

    Raises:
        UserError: a file cannot be read.
    """
    texts: list[str] = []
    of_file: list[int] = []
    for number, path in enumerate(files):
        try:
            questions = list(_questions(path))
        except (*FAULTS, csv.Error, RecursionError) as error:  # ValueError: JSON and encodings
            raise UserError(f"--decontaminate: {path}: cannot be read ({error}); mend it or leave it out") from error
        texts += questions
        of_file += [number] * len(questions)
    tokens = words(fold(pa.array(texts, pa.large_string())))
    is_short = tokens.lengths() < n
    n_short = np.bincount(np.array(of_file, np.int64)[is_short], minlength=len(files)).tolist()
    found = _grams(tokens, n)
    grams, first = np.unique(found.values, return_index=True)
    return Benchmarks(n, grams, np.searchsorted(found.offsets, first, side="right") - 1, texts, of_file, n_short)


def matches(folded: Ragged, benchmarks: Benchmarks) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Of each folded text: how many of its n-grams are in the evaluation sets, and the first one's index there.

    The index of a text without any means nothing.
    """
    found = _grams(words(folded), benchmarks.n)
    n_texts = len(found.offsets) - 1
    if not len(benchmarks.grams):
        return np.zeros(n_texts, np.int64), np.zeros(n_texts, np.int64)
    place = np.searchsorted(benchmarks.grams, found.values)
    place[place == len(benchmarks.grams)] = 0
    hits = np.flatnonzero(benchmarks.grams[place] == found.values)
    row = np.searchsorted(found.offsets, hits, side="right") - 1
    first = np.zeros(n_texts, np.int64)
    first[row[::-1]] = place[hits[::-1]]  # of several the last assignment stays, which is the first match
    return np.bincount(row, minlength=n_texts), first


def save(benchmarks: Benchmarks, path: Path) -> None:
    """Store the grams for worker processes."""
    write_bytes(path, np.stack([benchmarks.grams, benchmarks.question.view(np.uint64)]).tobytes())


def load(path: Path, n: int) -> Benchmarks:
    """What `save` has stored: grams, without questions."""
    grams, question = np.fromfile(path, np.uint64).reshape(2, -1)
    return Benchmarks(n, grams, question.view(np.int64), [], [], [])


def _grams(tokens: Ragged, n: int) -> Ragged:
    """Of texts with n words or more: a shorter one would be one gram by itself, which is not meant here."""
    grams = ngrams(tokens, n)
    lengths = tokens.lengths()
    keep = np.repeat(lengths >= n, np.diff(grams.offsets))
    counts = np.where(lengths >= n, np.diff(grams.offsets), 0)
    return Ragged(grams.values[keep], np.concatenate([[0], np.cumsum(counts)]))


def _questions(path: Path) -> Iterator[str]:
    """The text of each record: all of its strings, joined by line breaks."""
    if path.suffix == ".parquet":
        with open_parquet(path) as table:
            for batch in table.iter_batches(1024):
                yield from map(_strings, batch.to_pylist())
        return
    with path.open(encoding="utf-8-sig", newline="") as file:
        if path.suffix == ".csv":
            yield from ("\n".join(row) for row in csv.reader(file))
        elif path.suffix == ".txt":
            yield file.read()
        elif path.suffix == ".jsonl":
            yield from (_strings(json.loads(line)) for line in file if line.strip())
        else:
            value = json.load(file)
            yield from map(_strings, value if isinstance(value, list) else [value])


def _strings(value: Any) -> str:
    if isinstance(value, str):
        return value
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return "\n".join(filter(None, map(_strings, inner)))
