"""Which segments and windows repeat, found by sorting keys: within a slice, then within a range of the keys of all.

slice -> mark_segments -> keys.npy, repeats.npy, starts.npy, counts.npy
range of keys -> settle -> repeats.npy, open.npy
slice, its open segments -> mark_windows -> keys.npy, repeats.npy
range of keys -> settle -> repeats.npy

A place is one uint64: the number of a document in the upper 32 bits, the index of a character in the lower. A window
repeats if an equal one begins n or more characters before it or, with keep=none, after it. If a whole segment equals
another, so do its windows. Only segments that share their anchor with a different segment are looked at window by
window: these are open.

Of equal keys, a slice passes on the first, with keep=none the last, and what these overlap. So a text that occurs a
million times costs no more than one that occurs once in each slice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from babyllm.ragged import U64, Ragged, positions
from babyllm.text.dedup.near.candidates import NO_PAIRS, pack, unpack
from babyllm.text.dedup.slices import Slice, read_texts
from babyllm.text.dedup.steps import Setting, changes, in_order, shared_keys, untaken
from babyllm.text.dedup.substrings.fingerprints import chunks, points_of, segments, window_keys
from babyllm.text.dedup.substrings.substrings_config import SubstringsConfig

NO_KEYS = np.empty((3, 0), np.uint64)


def mark_segments(piece: Slice, folder: Path, *, setting: Setting, first_input: int) -> int:
    """Compute the keys of all segments of a slice; returns the number of keys that it passes on.

    Documents of --against that are taken down have none.

    Args:
        piece: slice.
        folder: folder of the result.
        setting: settings that all slices share.
        first_input: number of the first document that may lose spans.
    """
    n, fold = length(setting), tuple(setting.config.fold)
    keys, counts = [NO_KEYS], [np.empty(0, np.uint32)]
    for first, points in _points(piece):
        for chunk in chunks(points.values, n):
            found = segments(chunk, points.offsets, n, fold)
            keys.append(np.stack([*found.keys, _places(found.starts + chunk.begin, points, first)]))
            counts.append(found.counts.astype(np.uint32))
    joined = np.concatenate(keys, axis=1)
    del keys
    np.save(folder / "starts.npy", joined[2])
    np.save(folder / "counts.npy", np.concatenate(counts))
    if piece.first < first_input:
        joined = untaken(joined, piece, setting)
    return _settle_slice(joined, folder, setting, first_input)


def mark_windows(item: tuple[Slice, int], folder: Path, *, setting: Setting, first_input: int) -> int:
    """Compute the keys of the windows of a slice's open segments; returns the number of keys that it passes on.

    Args:
        item: slice, and its index.
        folder: folder of the result.
        setting: settings that all slices share.
        first_input: number of the first document that may lose spans.
    """
    piece, index = item
    n, fold = length(setting), tuple(setting.config.fold)
    opened = saved(setting.folders("settled"), "open", piece)
    starts = _spread(opened, _counts_of(opened, setting.folders("segments")[index]))
    keys = [NO_KEYS]
    for first, points in _points(piece) if len(starts) else ():
        inside = starts[slice(*np.searchsorted(starts, bounds(first, len(points.offsets) - 1)))]
        document, offset = unpack(inside)
        place = points.offsets[document - first] + offset
        for chunk in chunks(points.values, n) if len(place) else ():
            here = slice(*np.searchsorted(place, [chunk.begin, chunk.begin + chunk.n_windows]))
            if here.start < here.stop:
                keys.append(np.stack([*window_keys(chunk, place[here] - chunk.begin, n, fold), inside[here]]))
    return _settle_slice(np.concatenate(keys, axis=1), folder, setting, first_input)


def settle(item: tuple[int, int], folder: Path, *, setting: Setting, step: str, first_input: int) -> None:
    """Find the repeats among the keys of all slices whose upper 32 bits lie in a range, and what is open.

    Args:
        item: range of the keys.
        folder: folder of the result.
        setting: settings that all ranges share.
        step: name of the step that made the keys.
        first_input: number of the first document that may lose spans.
    """
    keys = shared_keys(item, [folder / "keys.npy" for folder in setting.folders(step)])
    is_repeat, is_needed = _judged(keys, setting.config.substrings)
    anchor = np.cumsum(changes(keys[:1])) - 1
    n_distinct = np.bincount(anchor, weights=changes(keys[:2]))
    np.save(folder / "repeats.npy", _of_inputs(keys[2, is_repeat], first_input))
    np.save(folder / "open.npy", np.sort(keys[2, is_needed & (n_distinct[anchor] > 1)]))


def repeated_spans(piece: Slice, index: int, setting: Setting) -> tuple[U64, U64]:
    """The spans that the documents of a slice lose: (spans,) uint64 places of their starts and ends, ascending."""
    n = np.uint64(length(setting))
    folder = setting.folders("segments")[index]
    whole = saved([folder, *setting.folders("settled")], "repeats", piece)
    single = saved([setting.folders("windows")[index], *setting.folders("settled-windows")], "repeats", piece)
    starts = np.concatenate([whole, single])
    stops = np.concatenate([whole + _counts_of(whole, folder) + n - np.uint64(1), single + n])
    order = np.argsort(starts)
    starts, stops = starts[order], np.maximum.accumulate(stops[order])
    is_new = np.ones(len(starts), bool)
    is_new[1:] = starts[1:] > stops[:-1]
    return starts[is_new], stops[np.append(is_new[1:], True)[: len(stops)]]


def saved(folders: Sequence[Path], name: str, piece: Slice) -> U64:
    """The places in a slice that some folders hold, sorted."""
    found = [NO_PAIRS]
    for folder in folders:
        places = np.load(folder / f"{name}.npy", mmap_mode="r")
        found.append(np.asarray(places[slice(*np.searchsorted(places, bounds(piece.first, piece.n)))]))
    return np.sort(np.concatenate(found))


def bounds(first: int, n: int) -> U64:
    """(2,) uint64: the places between which those of n documents lie."""
    return pack(np.array([first, first + n]), np.zeros(2, np.uint64))


def length(setting: Setting) -> int:
    """The characters of a window: the fewest that a span must have to be removed."""
    n = setting.config.substrings.min_characters
    assert n is not None
    return n


def _settle_slice(keys: U64, folder: Path, setting: Setting, first_input: int) -> int:
    """Save the repeats that a slice shows by itself, and the keys that it passes on; returns their number.

    The keys are sorted and thinned out in place, because a copy would be the most that a process holds.
    """
    keys, is_shared = in_order(keys)
    passes = np.ones(keys.shape[1], bool)
    is_repeat, passes[is_shared] = _judged(keys[:, is_shared], setting.config.substrings)
    np.save(folder / "repeats.npy", _of_inputs(keys[2, is_shared][is_repeat], first_input))
    n = int(np.count_nonzero(passes))
    for row in keys:
        row[:n] = row[passes]
    np.save(folder / "keys.npy", keys[:, :n])
    return n


def _judged(keys: U64, config: SubstringsConfig) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Whether each of these sorted (3, entries) keys is a repeat; whether others must see it."""
    starts = np.flatnonzero(changes(keys[:2]))
    stops = np.append(starts, keys.shape[1])[1:]
    places, n = keys[2], np.uint64(config.min_characters or 0)
    is_end = np.zeros(len(places), bool)
    is_end[starts] = True
    is_repeat: NDArray[np.bool_] = places - np.repeat(places[starts], stops - starts) >= n
    if config.keep == "none":
        is_end[stops - 1] = True
        is_repeat |= np.repeat(places[stops - 1], stops - starts) - places >= n
    return is_repeat, ~is_repeat | is_end


def _of_inputs(places: U64, first_input: int) -> U64:
    return np.sort(places[places >= bounds(first_input, 0)[0]])


def _points(piece: Slice) -> Iterator[tuple[int, Ragged]]:
    """The number of the first document, and the code points of some documents, about a megabyte of text at a time."""
    first = piece.first
    for texts in read_texts(piece):
        yield first, points_of(texts)
        first += len(texts)


def _places(index: NDArray[np.int64], points: Ragged, first: int) -> U64:
    """The places of characters, from their index among those of some documents."""
    row = np.searchsorted(points.offsets, index, side="right") - 1
    return pack(row + first, index - points.offsets[row])


def _counts_of(starts: U64, folder: Path) -> U64:
    """(segments,) uint64: the number of windows of the segments that begin at these places of a slice."""
    index = np.searchsorted(np.load(folder / "starts.npy", mmap_mode="r"), starts)
    counts: U64 = np.load(folder / "counts.npy", mmap_mode="r")[index].astype(np.uint64)
    return counts


def _spread(starts: U64, counts: U64) -> U64:
    """The places of all windows of some segments."""
    lengths = counts.astype(np.int64)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    places: U64 = np.repeat(starts, lengths) + positions(offsets).view(np.uint64)
    return places
