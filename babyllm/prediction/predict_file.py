"""The answers to all records of a file, in a file: windows of records, shared among ranks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from babyllm.errors import UserError
from babyllm.prediction.answering import LineMaker
from babyllm.prediction.ordered_output import OrderedOutput, ordered_output
from babyllm.prediction.questions import find_records, read_records
from babyllm.runtime import Runtime
from babyllm.text.readers import Rejected, key_of

T = TypeVar("T")
_NOTE_S = 10.0  # shortest time between two notes of progress


class Work(NamedTuple):
    """What this process, with the other ranks, has done.

    Attributes:
        n_tokens: number of tokens drawn, of all ranks.
        seconds: time of the work.
    """

    n_tokens: int
    seconds: float


def predict_file(
    answering: LineMaker,
    source: Path,
    out: Path,
    runtime: Runtime,
    settings: Mapping[str, Any],
    note: Callable[[str], None] = lambda text: None,
) -> Work:
    """Answer each record of a file or folder and write the records with the answers, a line each, in their order.

    A process that is killed is continued by the next one with the same arguments, and the file becomes the same. If
    the file is complete already, nothing is done. Every rank must call it.

    Args:
        answering: how the records are answered, or what else makes lines of them.
        source: file or folder of records.
        out: JSON lines file to write.
        runtime: ranks, which share the records.
        settings: JSON values that the answers depend on; if they differ from those of an earlier process, or the
            source has changed, the file is refused.
        note: function that takes lines about the progress on rank 0.

    Raises:
        UserError: the source cannot be read, or the file cannot be written or was begun with other settings.
    """
    if out.resolve().is_relative_to(source.resolve()):
        raise UserError(f"{out}: lies in {source}, which is read; choose another place")
    partitions = find_records(source)
    known = {**settings, "input": key_of(partitions), "window": answering.window}
    start = time.monotonic()
    with ordered_output(out, known, runtime) as output:
        if output.is_complete:
            return Work(0, 0.0)
        windows = _windows(read_records(partitions), answering.window)
        with runtime.patience():  # a window may take longer than ranks wait for each other
            n_tokens, n_windows = _answer(answering, windows, output, runtime, note)
        with runtime.main_first():
            if runtime.is_main:
                output.complete(n_windows)
        return Work(int(runtime.sum([n_tokens])[0]), time.monotonic() - start)


def _answer(
    answering: LineMaker,
    windows: Iterator[list[dict[str, Any] | Rejected]],
    output: OrderedOutput,
    runtime: Runtime,
    note: Callable[[str], None],
) -> tuple[int, int]:
    """Write this rank's share of the windows that are missing; returns the tokens drawn, and the number of windows."""
    start = noted = time.monotonic()
    n_tokens = n_windows = 0
    for number, records in enumerate(windows):
        n_windows += 1
        if number % runtime.world_size != runtime.rank or not output.is_missing(number):
            continue
        first = number * answering.window
        text, n_new = answering.lines(records, first)
        output.put(number, text)
        n_tokens += n_new
        if runtime.is_main and time.monotonic() > noted + _NOTE_S:
            noted = time.monotonic()
            speed = f", {n_tokens / (noted - start):,.0f} tokens/s" if n_tokens else ""
            note(f"{first + len(records):,} records{speed}")
    return n_tokens, n_windows


def _windows(items: Iterator[T], n: int) -> Iterator[list[T]]:
    """The items in lists of `n`; the last one may be shorter."""
    while window := list(islice(items, n)):
        yield window
