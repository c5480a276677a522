"""Checksums of files, compared before a file is used.

files -> read once, on all cores -> sha256, largest id -> .verified.json beside them, valid for the same size and times
step directory, tokenizer -> sha256 of its files, compared with the description beside them

Results are stored, so that a terabyte is not read at every start. Damage that the disk causes later, without a write,
is found only by reading the files again on request.
"""

from __future__ import annotations

import hashlib
import json
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from babyllm.errors import UserError
from babyllm.files import json_digest, read_sealed_json, sha256, write_sealed_json
from babyllm.progress import ProgressLine
from babyllm.runtime import ordinary_signals
from babyllm.runtime.machine import cores

MEMORY, RESUME, OPTIMIZER = ".verified.json", "resume.json", "optimizer.safetensors"
STREAM, AUXILIARY = "stream.safetensors", "auxiliary_head.safetensors"
INDEX = "model.safetensors.index.json"  # the file of each tensor, where weights are in several files
HELD = "held_from.json"  # marks a base that a run holds, as opposed to a user's folder
BLOCK_BYTES = 1 << 22
SILENT_S = 2.0  # checks that take longer show their progress
# A file that was just written can be written again within the same tick of the disk's clock.
TICK_NS = 20_000_000


class Ids(NamedTuple):
    """The layout of token ids in a file: their dtype on disk, and the number of bytes before the first."""

    dtype: str
    offset: int = 0


@dataclass(frozen=True)
class Finding:
    """The result of reading a file once.

    Attributes:
        sha256: hexadecimal sha256 of the whole file.
        largest: largest token id in it; -1 if it has no ids.
    """

    sha256: str
    largest: int = -1


def examine(directory: Path, files: Mapping[str, Ids | None], *, again: bool = False) -> dict[str, Finding]:
    """The sha256 of files, and the largest id of those that hold ids; results are stored in their directory.

    If the directory cannot be written, files are read each time. A long reading shows its progress, and Ctrl-C ends it.

    Args:
        directory: directory of the files.
        files: layout of the ids by file name, relative to the directory; None for a file without ids.
        again: whether to read files even if their results are stored.

    Returns:
        The finding of each file by name.

    Raises:
        UserError: a file cannot be read.
    """
    began_ns = time.time_ns()
    stamps = {name: _stamp(directory / name, ids) for name, ids in files.items()}
    known = _recall(directory)
    found = {} if again else {n: known[n][1] for n, stamp in stamps.items() if n in known and known[n][0] == stamp}
    missing = {name: ids for name, ids in files.items() if name not in found}
    if not missing:
        return found
    fresh: dict[str, Finding] = {}
    try:
        _read_all(directory, missing, fresh)
    finally:
        settled = [name for name in fresh if max(stamps[name][1:3]) < began_ns - TICK_NS]
        if settled:
            _remember(directory, known | {name: (stamps[name], fresh[name]) for name in settled})
    return found | fresh


def require_whole(directory: Path, expected: Mapping[str, str], advice: str, *, again: bool = False) -> None:
    """Refuse files whose sha256 has changed; they are read by `examine`.

    Args:
        directory: directory of the files.
        expected: sha256 of each file by name; an empty one is not compared.
        advice: what to do about a damaged file, for the message.
        again: whether to read files even if their results are stored.

    Raises:
        UserError: a file is damaged or cannot be read.
    """
    found = examine(directory, dict.fromkeys(expected), again=again)
    for name, digest in expected.items():
        if digest not in ("", found[name].sha256):
            raise UserError(f"{directory / name}: is damaged, its sha256 is not the one it had; {advice}")


def digests(directory: Path, names: Iterable[str]) -> dict[str, str]:
    """The hexadecimal sha256 of each file by name, read now; no result is stored.

    Raises:
        UserError: a file cannot be read.
    """
    found: dict[str, Finding] = {}
    _read_all(directory, dict.fromkeys(names), found)
    return {name: finding.sha256 for name, finding in found.items()}


def _stamp(path: Path, ids: Ids | None) -> list[Any]:
    """Size, times and id layout: values that differ after the file is written or copied or its layout changes."""
    try:
        stat = path.stat()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, *(ids or ())]


def _recall(directory: Path) -> dict[str, tuple[list[Any], Finding]]:
    try:
        files = read_sealed_json(directory / MEMORY)["files"]
        return {name: (stamp, Finding(**finding)) for name, (stamp, finding) in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _remember(directory: Path, known: Mapping[str, tuple[list[Any], Finding]]) -> None:
    there = {name: [stamp, asdict(finding)] for name, (stamp, finding) in known.items() if (directory / name).exists()}
    with suppress(OSError):
        write_sealed_json(directory / MEMORY, {"files": there})


def _read_all(directory: Path, files: Mapping[str, Ids | None], found: dict[str, Finding]) -> None:
    """Read files, several at a time, and add results to `found`; long readings show progress and can be interrupted."""
    total, began = sum((directory / name).stat().st_size for name in files), time.monotonic()
    progress, is_shown = ProgressLine("checking files: bytes", total, output=sys.stderr), False
    counts, stop = dict.fromkeys(files, 0), threading.Event()

    def read(name: str) -> None:
        finding = _read_through(directory / name, files[name], counts, name, stop)
        if finding:
            found[name] = finding

    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(max(1, min(cores(), len(files)))))
        stack.callback(stop.set)  # ends the remaining reads after a failure or Ctrl-C
        left = {pool.submit(read, name) for name in files}
        while left:
            done, left = wait(left, timeout=0.5, return_when=FIRST_EXCEPTION)
            for future in done:
                future.result()
            if not is_shown and time.monotonic() - began > SILENT_S:
                is_shown = True
                stack.enter_context(ordinary_signals())
            if is_shown:
                progress.show(sum(counts.values()))
    progress.end()


def _read_through(
    path: Path, ids: Ids | None, counts: dict[str, int], name: str, stop: threading.Event
) -> Finding | None:
    """Read one file in blocks and count its bytes in `counts[name]`; None if `stop` was set before its end."""
    digest, largest = hashlib.sha256(), -1
    kind = np.dtype(ids.dtype if ids else np.uint8)
    block = memoryview(bytearray(BLOCK_BYTES))
    try:
        with path.open("rb") as file:
            digest.update(file.read(ids.offset if ids else 0))
            while n := file.readinto(block):  # whole blocks up to the last, so that no id is cut
                if stop.is_set():
                    return None
                digest.update(block[:n])
                if ids:
                    largest = max(largest, int(np.frombuffer(block[: n - n % kind.itemsize], kind).max(initial=0)))
                counts[name] += n
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    return Finding(digest.hexdigest(), largest)


def check_tokenizer(file: Path) -> None:
    """Compare a tokenizer's file with the sha256 in any description beside it: of token data, a step or its training.

    Raises:
        UserError: the sha256 differs.
    """
    is_defining = file.suffix == ".model" or not file.with_name("tokenizer.model").exists()
    for name, keys in (
        (RESUME, ("sha256", file.name)),
        (HELD, ("files", file.name)),
        *((name, ("tokenizer_sha256",)) for name in ("manifest.json", "training.json") if is_defining),
    ):
        recorded = _entry(file.with_name(name), keys)
        if recorded and sha256(file) != recorded:
            raise UserError(
                f"{file}: is damaged or not the one that {name} beside it describes; restore the right one, or keep "
                "yours in a directory of its own"
            )


def _entry(path: Path, keys: Sequence[str]) -> str:
    """The text that a JSON file has at these nested keys; empty if there is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        for key in keys:
            value = value[key]
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    return value if isinstance(value, str) else ""


def check_held(directory: Path) -> None:
    """Compare the files of a base that a run holds with their checksums; does nothing for other directories.

    Raises:
        UserError: a file is missing or has changed.
    """
    path = directory / HELD
    if not path.is_file():
        return
    try:
        held = read_sealed_json(path)
        files, source = dict(held.get("files", {})), held["source"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: is damaged ({error}); use a copy of {directory.parent}") from error
    for name, digest in files.items():
        if not (directory / name).is_file() or sha256(directory / name) != digest:
            raise UserError(
                f"{directory / name}: is missing or not what the adapters beside it were trained with; bring it back "
                f"from {source}, or, if you changed it yourself, delete {path}"
            )


def check_model(directory: Path) -> None:
    """Compare the files of a model directory with the checksums in its resume.json, if it has one.

    The files of the optimizer, the stream and an auxiliary head are left out: only a resumed run reads them.

    Raises:
        UserError: a file is missing or has changed since it was saved.
    """
    if not (directory / RESUME).is_file():
        return
    own = f"use another step, or, if you changed it yourself, a copy of {directory} without {RESUME}"
    compare_step(directory, read_record(directory, "use another step"), own, without=[OPTIMIZER, STREAM, AUXILIARY])


def read_record(directory: Path, advice: str) -> dict[str, Any]:
    """The contents of a step's resume.json, after verifying its own sha256, which is removed from "sha256".

    Args:
        directory: directory of the step.
        advice: what to do about a damaged file, for the message.

    Raises:
        UserError: resume.json is missing or damaged.
    """
    path = directory / RESUME
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if record["sha256"].pop(RESUME) != json_digest(record):
            raise ValueError("its contents are not what its sha256 says")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: is damaged ({error}); {advice}") from error
    return record


def compare_step(directory: Path, record: dict[str, Any], advice: str, without: Sequence[str] = ()) -> None:
    """Compare the files of a step with the checksums in its resume.json.

    Args:
        directory: directory of the step.
        record: contents of resume.json, from `read_record`.
        advice: what to do about a damaged file, for the message.
        without: names of files that are not compared.

    Raises:
        UserError: a file is missing or has changed since it was saved.
    """
    for name in sorted(record["sha256"].keys() - without):
        file = directory / name
        if not file.is_file() or sha256(file) != record["sha256"][name]:
            raise UserError(f"{file}: is missing or not as it was saved; {advice}")
