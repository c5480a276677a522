"""The files that record a run: whole lines or whole events, appended so that a kill loses nothing recorded.

Every write opens the file, appends and closes it. At worst a kill cuts the last line, which the next start removes.
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
MESSAGES_FILE = "messages.jsonl"
RUN_REPORT = "report.html"
OWN_METRICS = frozenset(
    ("step", "time", "lr", "grad_norm", "tokens", "tokens_per_s", "memory_bytes", "data_wait", "skipped", "mfu")
) | {"scaler_scale", "first_loss"}
"""Names in metrics.jsonl that a loss or a stream must not use; names that begin with "val/" are reserved too."""


def read_metrics(run_dir: str | os.PathLike[str]) -> list[dict[str, float | None]]:
    """Return the records in a run's metrics.jsonl, one dictionary per logged step, in order.

    Each has `step` and `time` (Unix seconds); a value that was not finite is None. A last line cut by a kill is
    omitted.

    Raises:
        UserError: there is no such file, or a line is not a record.
    """
    return read_records(Path(run_dir) / METRICS_FILE)


def read_records(path: Path) -> list[dict[str, float | None]]:
    """Return the records of any metrics.jsonl, as `read_metrics` does for a run.

    Raises:
        UserError: there is no such file, or a line is not a record.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; give the directory of a training run, which holds {METRICS_FILE}")
    return [record for _, record in whole_lines(path)]


def whole_lines(path: Path) -> list[tuple[bytes, dict[str, Any]]]:
    """Return (line with its line end, its record) for each line of a .jsonl file, without a cut last line.

    Raises:
        UserError: a line before the last is not a JSON object with a step.
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
    """Remove the records after a step, and a cut last line, from a .jsonl file; returns the (line, record) pairs kept.

    Raises:
        UserError: the file is damaged in its middle, or cannot be read or written.
    """
    if not path.exists():
        append(path, b"")
    kept = [(line, record) for line, record in whole_lines(path) if record["step"] <= last_kept]
    replace_file(path, read_bytes(path), b"".join(line for line, _ in kept))
    return kept


def cut_messages(path: Path, *, is_new: bool) -> None:
    """Remove a last line that a kill has cut, or, for a new run, all lines; messages are never taken back otherwise.

    Raises:
        UserError: the file cannot be read or written.
    """
    if path.exists():
        data = read_bytes(path)
        replace_file(path, data, b"" if is_new else data[: data.rfind(b"\n") + 1])


def json_line(record: Mapping[str, Any]) -> bytes:
    """Return a record as a line of a .jsonl file."""
    text = json.dumps(record, ensure_ascii=False, allow_nan=False)
    return text.encode(errors="backslashreplace") + b"\n"  # half a surrogate pair becomes its escape in JSON


def read_bytes(path: Path) -> bytes:
    """Return the contents of a file.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror}): fix or move it, then start again") from error


def append(path: Path, data: bytes, offset: int | None = None) -> None:
    """Append `data` to a file, or replace all bytes from `offset` on.

    Raises:
        UserError: the file cannot be written.
    """
    try:
        with path.open("r+b" if path.exists() else "wb") as file:
            file.seek(0, os.SEEK_END) if offset is None else file.seek(offset)
            file.write(data)
            file.truncate()
    except OSError as error:
        raise write_error(path, error) from error


def replace_file(path: Path, old: bytes, new: bytes) -> None:
    """Replace a file's contents so that a kill leaves the old or the new file; equal contents are not written again.

    Raises:
        UserError: the file cannot be written.
    """
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
    """Return the error for a file that cannot be written."""
    return UserError(
        f"cannot write {path} ({error.strerror}): free the disk or fix the directory's permissions, then start again"
    )


def require_own_names(of_loss: dict[str, float], of_stream: dict[str, float]) -> None:
    """Refuse metrics of a loss and a stream if one would overwrite another.

    Raises:
        ValueError: a name is recorded twice; the message has the name.
    """
    for name in sorted(of_loss.keys() | of_stream.keys()):
        if name in OWN_METRICS or name.startswith("val/"):
            raise ValueError(
                f"the metric {name!r} is recorded by the run itself; the loss or the stream must rename its own"
            )
        if name in of_loss and name in of_stream:
            raise ValueError(f"the metric {name!r} comes from the loss and from the stream; one of them must rename it")
