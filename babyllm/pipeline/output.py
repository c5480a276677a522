"""The output directory of a command: checked at the start, published at the end, without touching files of others.

OUT, apart from the inputs and empty -> OUT/.work, with a lock: unfinished work
-> OUT/.work/made: finished files -> publish: their names are noted, then each is moved to OUT, the commit mark last

If `publish` is killed, the note says which files it has moved, and the next start moves them back. So a command
overwrites only its own files, and OUT is complete once the commit mark exists: `corpus.json`, or `manifest.json` for
tokens.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from babyllm.errors import UserError
from babyllm.files import fsync, locked, read_sealed_json, write_sealed_json
from babyllm.pipeline.engines.beside import Led
from babyllm.pipeline.engines.presence import QUEUE, unique_name
from babyllm.pipeline.engines.shared_queue import leading
from babyllm.pipeline.partitions import WorkConfig, not_written
from babyllm.pipeline.step_times import steps_noted
from babyllm.runtime.machine import cores

WORK, MADE, REJECTED = ".work", "made", "rejected.jsonl"
_LOCK, _NOTE = "lock", "published.json"


def require_apart(out: Path, inputs: Sequence[Path]) -> None:
    """Check that the output directory is not an input, not inside an input, and does not contain one.

    Raises:
        UserError: it overlaps an input; the message names the input.
    """
    place = out.resolve()
    for path in inputs:
        source = path.resolve()
        if place == source or source in place.parents or place in source.parents:
            how = "is" if place == source else "lies in" if source in place.parents else "holds"
            raise UserError(f"{out}: {how} {path}, which is read; choose another OUT, outside of it")


def is_done(out: Path, made: Mapping[str, Any] | None, wanted: Mapping[str, Any]) -> bool:
    """Whether `out` holds the finished result of these settings and inputs.

    Args:
        out: directory of the result; it need not exist.
        made: what the result in `out` was made with, as JSON values (`made_with`, or the description of a corpus);
            None if `out` holds no finished result.
        wanted: what determines the result that is asked for, as JSON values.

    Raises:
        UserError: the result was made with other settings or inputs; the message names them.
    """
    if made is None:
        return False
    if changed := [name for name in wanted if made.get(name) != wanted[name]]:
        raise UserError(f"{out}: was made with other {', '.join(changed)}; choose another OUT")
    discard_work(out)
    return True


def made_with(directory: Path, settings_file: str, commit_mark: str) -> dict[str, Any] | None:
    """The settings and inputs of a finished result; None if there is no finished result.

    Args:
        directory: directory of the result.
        settings_file: name of the file of settings, written before the commit mark.
        commit_mark: name of the file that a finished result has.
    """
    try:
        found = json.loads((directory / settings_file).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    is_ours = isinstance(found, dict) and "inputs" in found
    return found if is_ours and (directory / commit_mark).is_file() else None


def join_rejected(folders: Sequence[Path], out: Path) -> None:
    """Join the `rejected.jsonl` files of all folders into one in `out`, in order; no file if they are empty."""
    target = out / REJECTED
    with target.open("wb") as joined:
        for file in (folder / REJECTED for folder in folders):
            if file.is_file():
                with file.open("rb") as piece:
                    shutil.copyfileobj(piece, joined)
    if target.stat().st_size:
        fsync(target)
    else:
        target.unlink()


@contextmanager
def work_directory(out: Path, replaced: Sequence[str] = (), work: WorkConfig | None = None) -> Iterator[Path]:
    """The directory for unfinished work, with a folder `made`; it is locked against other processes during the body.

    Args:
        out: output directory.
        replaced: names of files that `out` may already hold, because they will be replaced.
        work: use of the machine; with the engine "shared", other processes can work for this one.

    Raises:
        Led: the engine is "shared" and another process has the lock, see `beside_others`.
        UserError: `out` holds files of others, is locked by another process or cannot be made, or the body cannot
            write, for example because the disk is full.
    """
    _end_if_starting()
    directory = out / WORK
    try:
        _require_own(out, replaced)
        (directory / MADE).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out}: cannot be made ({error.strerror}); choose another directory") from error
    try:
        work = work or WorkConfig(engine="local")
        with locked(directory / _LOCK, 0) as is_free, _leading(out, is_free, work):
            _take_back(out)
            with steps_noted():
                yield directory
    except BrokenPipeError:  # the reader of this process's output has closed the pipe
        raise
    except OSError as error:
        raise not_written(out, error) from error


@contextmanager
def _leading(out: Path, is_free: bool, work: WorkConfig) -> Iterator[None]:
    """Lead the processes that make `out`, if there may be several."""
    if work.chosen_engine() != "shared":
        if not is_free:
            raise UserError(f"{out}: another process is writing it; wait for its end or choose another directory")
        yield
        return
    queue, n_workers = out / WORK / QUEUE, work.workers or cores()
    if not is_free:
        raise Led(out, queue, n_workers)
    with leading(queue, unique_name(), n_workers) as is_leading:
        if not is_leading:
            raise Led(out, queue, n_workers)
        yield


def publish(out: Path, names: Sequence[str], replaced: Sequence[str] = ()) -> None:
    """Move files from `.work/made` to their places in `out`.

    Args:
        out: output directory, inside its `work_directory`.
        names: names of the files, the commit mark last; absent files are skipped.
        replaced: names of earlier files that are deleted first, the commit mark at the beginning.

    Raises:
        UserError: a file that this command did not make has one of the names.
    """
    made = out / WORK / MADE
    names = [name for name in names if (made / name).exists()]
    if taken := [name for name in names if name not in replaced and os.path.lexists(out / name)]:
        raise _not_own(out, taken)
    write_sealed_json(out / WORK / _NOTE, {"names": [*names, *replaced]})
    for name in replaced:
        (out / name).unlink(missing_ok=True)
    for name in names:
        if name == names[-1]:
            fsync(out)
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(made / name, out / name)
    fsync(out)


@contextmanager
def rejected_published(out: Path, replaced: Sequence[str] = ()) -> Iterator[None]:
    """Publish `rejected.jsonl` in `out` if the body ends with a UserError, so that the user can see the reasons."""
    try:
        yield
    except UserError:
        publish(out, [REJECTED], replaced)
        raise


def discard_work(out: Path) -> None:
    """Delete the work directory of a finished command."""
    if _is_own_work(out / WORK):
        shutil.rmtree(out / WORK, ignore_errors=True)


def _require_own(out: Path, replaced: Sequence[str]) -> None:
    """Refuse a directory with files other than hidden ones and those of an unfinished run of this command."""
    if not out.exists():
        return
    own = {name.partition("/")[0] for name in (*_noted(out), *replaced)}
    others = sorted(name for name in os.listdir(out) if not name.startswith(".") and name not in own)
    if os.path.lexists(out / WORK) and not _is_own_work(out / WORK):
        others.append(WORK)
    if others:
        raise _not_own(out, others)


def _not_own(out: Path, names: Sequence[str]) -> UserError:
    more = f" and {len(names) - 1:,} more" if len(names) > 1 else ""
    return UserError(
        f"{out}: holds {names[0]}{more}, which this command did not make; choose a directory that is new or empty"
    )


def _is_own_work(directory: Path) -> bool:
    # The process may have been killed after it made the directory and before it made the lock.
    return (directory / _LOCK).is_file() or (directory.is_dir() and set(os.listdir(directory)) <= {MADE})


def _noted(out: Path) -> list[str]:
    try:
        return list(read_sealed_json(out / WORK / _NOTE)["names"])
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _take_back(out: Path) -> None:
    """Move files that a killed `publish` has moved back to the folder `made`."""
    for name in _noted(out):
        if (out / name).is_file():
            target = out / WORK / MADE / name
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(out / name, target)
    (out / WORK / _NOTE).unlink(missing_ok=True)


def _end_if_starting() -> None:
    """End a worker process that executes its parent's script again on import; the parent reports the cause."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise SystemExit(1)
