"""The records of a run as files: whole lines or whole events, added so that a kill loses nothing recorded.

Every write opens the file, adds to it and closes it: at worst a kill tears the last line, which the next start drops.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from babyllm.errors import UserError

METRICS_FILE = "metrics.jsonl"
SAMPLES_FILE = "samples.jsonl"
OWN_METRICS = frozenset(
    ("step", "time", "lr", "grad_norm", "tokens", "tokens_per_s", "memory_bytes", "data_wait", "skipped", "mfu")
) | {"scaler_scale"}
"""Names of metrics.jsonl that a loss or a stream must not use, beside all that begin with "val/"."""


def read_metrics(run_dir: Path) -> list[dict[str, float | None]]:
    """Return what metrics.jsonl of a run holds, one dictionary per logged step, in order.

    Each has `step` and `time` (Unix seconds); what was not finite is None. A last line torn by a kill is left out.

    Raises:
        UserError: there is no such file, or a line is not a record.
    """
    return read_records(run_dir / METRICS_FILE)


def read_records(path: Path) -> list[dict[str, float | None]]:
    """Return the records of any metrics.jsonl, as `read_metrics` does for a run.

    Raises:
        UserError: there is no such file, or a line is not a record.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; give the directory of a training run, which holds {METRICS_FILE}")
    return [record for _, record in whole_lines(path)]


def whole_lines(path: Path) -> list[tuple[bytes, dict[str, Any]]]:
    """Return each line of a .jsonl file of records, line end included, and the record on it, without a torn last line.

    Raises:
        UserError: any other line is not a JSON object with a step.
    """
    lines = []
    for number, line in enumerate(read_bytes(path).splitlines(keepends=True), 1):
        is_whole = line.endswith(b"\n")
        try:
            record = json.loads(line.decode())
            record["step"] + 0
        except (ValueError, KeyError, TypeError):
            if not is_whole:
                break
            raise UserError(f"{path}, line {number}: not a record of a run; remove the line") from None
        lines.append((line if is_whole else line + b"\n", record))
    return lines


def cut_lines(path: Path, last_kept: int) -> list[tuple[bytes, dict[str, Any]]]:
    """Cut the records after a step, and a torn last line, from a .jsonl file, and return what is left in it."""
    if not path.exists():
        append(path, b"")
    kept = [(line, record) for line, record in whole_lines(path) if record["step"] <= last_kept]
    replace_file(path, read_bytes(path), b"".join(line for line, _ in kept))
    return kept


def json_line(record: Mapping[str, Any]) -> bytes:
    """Return a record as a line of a .jsonl file."""
    return json.dumps(record, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def read_bytes(path: Path) -> bytes:
    """Return what a file holds.

    Raises:
        UserError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror}): mend or move it, then start again") from error


def append(path: Path, data: bytes, offset: int | None = None) -> None:
    """Put `data` at the end of a file, or in place of what stands after `offset`."""
    try:
        with path.open("r+b" if path.exists() else "wb") as file:
            file.seek(0, os.SEEK_END) if offset is None else file.seek(offset)
            file.write(data)
            file.truncate()
    except OSError as error:
        raise write_error(path, error) from error


def replace_file(path: Path, old: bytes, new: bytes) -> None:
    """Give a file new content such that a kill leaves the old or the new one; leave it alone where nothing changes."""
    if new == old:
        return
    temporary = path.with_name("rewriting.tmp")  # TensorBoard reads every file with "tfevents" in its name
    try:
        with temporary.open("wb") as file:
            file.write(new)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise write_error(path, error) from error


def write_error(path: Path, error: OSError) -> UserError:
    """Return what to report about a file that cannot be written."""
    return UserError(
        f"cannot write {path} ({error.strerror}): free the disk or fix the directory's permissions, then start again"
    )


def require_own_names(of_loss: dict[str, float], of_stream: dict[str, float]) -> None:
    """Refuse metrics of a loss and a stream of which one would hide another.

    Raises:
        ValueError: names the metric that two record.
    """
    for name in sorted(of_loss.keys() | of_stream.keys()):
        if name in OWN_METRICS or name.startswith("val/"):
            raise ValueError(
                f"the metric {name!r} is recorded by the run itself; the loss or the stream must rename its own"
            )
        if name in of_loss and name in of_stream:
            raise ValueError(f"the metric {name!r} comes from the loss and from the stream; one of them must rename it")
