"""Hashes of the windows of n characters, and segments: runs of successive windows that share an anchor.

    Arrow column -> points_of -> chunks -> segments (two keys each) | window_keys

The hash of characters c_0 ... c_m is the sum of v(c_t) * B**t modulo 2**64, where v is a random number for each
character and B is odd (Karp and Rabin 1987). Prefix sums provide it for any span. The anchor of a window is the span of
k characters inside it with the smallest hash, the leftmost of equal ones (winnowing, Schleimer et al. 2003). It depends
on nothing outside the window, so equal windows have equal anchors at the same place in them. Successive windows mostly
share their anchor: of the characters of a text, about 2 in n - k + 2 begin a segment.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from babyllm.ragged import GOLDEN, U64, Ragged, mix, offsets_of
from babyllm.text.dedup.exact import Fold, folded_characters
from babyllm.text.dedup.normal import DROPPED, N_CODE_POINTS, code_points, joined_text, kinds

WINDOWS_AT_ONCE = 1 << 16  # so that the arrays of a chunk fit a processor's cache
_BASES = (0x9FB21C651E98DF25, 0xD1B54A32D192ED03)
_LAST_SPACE = 0x3000
_HIGH, _LOW = np.uint64(0xFFFFFFFF00000000), np.uint64(0xFFFFFFFF)
Spans = NDArray[np.int64]


class Chunk(NamedTuple):
    """Successive characters of some texts.

    Attributes:
        begin: index of the first character among those of all texts.
        points: (characters,) uint32 code points.
        n_windows: number of windows that begin in this chunk and in no other, those across texts included.
    """

    begin: int
    points: NDArray[np.uint32]
    n_windows: int


class Segments(NamedTuple):
    """Runs of successive windows of one text that share an anchor.

    Attributes:
        starts: (segments,) int64 index in the chunk of each first window, ascending.
        counts: (segments,) int64 number of windows of each segment.
        keys: (2, segments) uint64: hash of the anchor; hash of all characters of the windows, and of their places.
    """

    starts: Spans
    counts: Spans
    keys: U64


def points_of(texts: pa.Array) -> Ragged:
    """The uint32 code points of each text of a column of large strings without nulls."""
    return Ragged(code_points(joined_text(texts)), offsets_of(pc.utf8_length(texts).to_numpy()))


def chunks(points: NDArray[np.uint32], n: int) -> Iterator[Chunk]:
    """Pieces of the (characters,) code points of some texts; each window of n characters lies in one of them."""
    for begin in range(0, len(points) - n + 1, WINDOWS_AT_ONCE):
        piece = points[begin : begin + WINDOWS_AT_ONCE + n - 1]
        yield Chunk(begin, piece, len(piece) - n + 1)


def segments(chunk: Chunk, offsets: Spans, n: int, fold: tuple[Fold, ...]) -> Segments:
    """The segments of a chunk.

    Args:
        chunk: characters of some texts.
        offsets: (texts + 1,) int64 places where these texts begin, among the characters of all.
        n: characters of a window.
        fold: differences that do not count.
    """
    edges = np.stack([offsets[:-1], offsets[1:] - (n - 1)]) - chunk.begin  # of the windows of each text
    edges = np.clip(edges, 0, chunk.n_windows)
    firsts, ends = edges[:, edges[0] < edges[1]]
    width = _anchors_per_window(n)
    grams = mix(_Hashes(chunk.points, 0, fold).windows(n - width + 1))
    order = grams & _HIGH
    order |= np.arange(len(order), dtype=np.uint64)
    anchors = (_least(order, width) & _LOW).view(np.int64)
    begins = np.zeros(chunk.n_windows, bool)
    begins[1:] = anchors[1:] != anchors[:-1]
    begins[firsts] = True
    starts = np.flatnonzero(begins)
    text = np.searchsorted(firsts, starts, side="right") - 1
    end = np.append(ends, -1)[text]  # of windows before the first text: -1
    stops = np.minimum(np.append(starts[1:], chunk.n_windows), end)
    is_inside = starts < stops
    starts, counts = starts[is_inside], (stops - starts)[is_inside]
    anchor = anchors[starts]
    whole = _Hashes(chunk.points, 1, fold).spans(starts, starts + counts + (n - 1))
    whole += GOLDEN * ((counts << 32) + (anchor - starts)).view(np.uint64)
    evenly = mix(grams[anchor])  # anchors are the smallest of several hashes
    return Segments(starts, counts, np.stack([evenly, mix(whole)]))


def window_keys(chunk: Chunk, starts: Spans, n: int, fold: tuple[Fold, ...]) -> U64:
    """(2, windows) uint64: two hashes of the n characters from each of these (windows,) places in a chunk."""
    return np.stack([mix(_Hashes(chunk.points, which, fold).spans(starts, starts + n)) for which in (0, 1)])


class _Hashes:
    """Hashes of the spans of some characters, by one of two hash functions."""

    def __init__(self, points: NDArray[np.uint32], which: int, fold: tuple[Fold, ...]) -> None:
        powers, self._inverse = _powers(which, 1 << (len(points) - 1).bit_length())
        values = _values(fold)[which].take(points)
        values *= powers[: len(points)]
        self._sums = np.zeros(len(points) + 1, np.uint64)
        np.cumsum(values, out=self._sums[1:])

    def windows(self, n: int) -> U64:
        """The hash of every window of n characters."""
        found = self._sums[n:] - self._sums[:-n]
        found *= self._inverse[: len(found)]
        return found

    def spans(self, starts: Spans, stops: Spans) -> U64:
        """(spans,) uint64 hashes of spans from (spans,) starts to (spans,) ends."""
        found: U64 = (self._sums[stops] - self._sums[starts]) * self._inverse[starts]
        return found


def _anchors_per_window(n: int) -> int:
    """The number of anchors among which a window chooses; each has n less this number, plus 1, characters."""
    return 2 * n // 5


def _least(values: U64, width: int) -> U64:
    """The smallest of each `width` successive values."""
    size = 1
    while 2 * size <= width:
        values = np.minimum(values[:-size], values[size:])
        size *= 2
    return np.minimum(values[: size - width], values[width - size :]) if size < width else values


@cache
def _powers(which: int, n: int) -> tuple[U64, U64]:
    """(n,) uint64 powers of a base, from 0, and their inverses modulo 2**64."""
    base = _BASES[which]
    pair = []
    for factor in (base, pow(base, -1, 1 << 64)):
        steps = np.full(n, factor, np.uint64)
        steps[0] = 1
        pair.append(np.cumprod(steps))
    return pair[0], pair[1]


@cache
def _values(fold: tuple[Fold, ...]) -> U64:
    """(2, code points) uint64: the numbers of each character in both hash functions; equal for equal characters."""
    points = np.arange(N_CODE_POINTS, dtype=np.uint32)
    if "punctuation" in fold:
        points[kinds(points) == DROPPED] = ord(" ")
    for point, folded in folded_characters("case" in fold, "width" in fold).items():
        if len(folded) == 1:
            points[point] = points[ord(folded)]
    points[[point for point in range(_LAST_SPACE + 1) if chr(point).isspace()]] = ord(" ")
    number = points.astype(np.uint64)
    return np.stack([mix((number + np.uint64(which << 32)) * GOLDEN + np.uint64(1)) for which in (0, 1)])
