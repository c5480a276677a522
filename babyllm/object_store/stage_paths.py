"""Remote inputs and a remote output of an offline stage, which itself works on local files.

IN...  -> copies -> the stage -> unfinished/HASH/...: the finished output -> upload, the commit mark last -> copies/HASH

A remote OUT has the file `.uploading` from the beginning of the stage to the end of the upload. So a reader never takes
an unfinished corpus for one, nor shards without a manifest for another project's files. A stage replaces nothing: OUT
is new, or holds an upload that was stopped, or the finished result of the same command.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from babyllm.errors import UserError
from babyllm.files import locked
from babyllm.object_store.copies import (
    DAY_S,
    MANIFESTS,
    UPLOADING,
    Copy,
    Transferred,
    copied,
    in_parallel,
    missing,
    root_of,
)
from babyllm.object_store.object_addresses import Address, is_remote
from babyllm.object_store.transfers import RemoteFile, delete, look, upload
from babyllm.runtime.config import CacheConfig

UNFINISHED = "unfinished"


@contextmanager
def stage_paths(arguments: Sequence[str | Path], cache: CacheConfig) -> Iterator[tuple[list[Path], Path]]:
    """The local paths of the inputs and the output of a stage: IN... OUT.

    Remote inputs are copied first. If the body succeeds, a remote OUT has its files at the end.

    Args:
        arguments: paths and addresses, the output last.
        cache: place of the copies and of unfinished outputs.

    Yields:
        The inputs and the output.

    Raises:
        UserError: an address cannot be read or written, OUT overlaps an input, or holds files of others.
    """
    *inputs, out = arguments
    remote = [Address.of(path) for path in inputs if is_remote(path)]
    target = Address.of(out) if is_remote(out) else None
    if target and (met := [address for address in remote if address.overlaps(target)]):
        raise UserError(f"{target}: overlaps {met[0]}, which is read; choose another OUT, outside of it")
    with ExitStack() as stack:
        before = look(target) if target else {}
        if target:
            _require_own(target, before)
        copies = iter(stack.enter_context(copied(remote, cache)))
        sources = [next(copies) if is_remote(path) else Path(path) for path in inputs]
        place = stack.enter_context(_output(target, before, cache)) if target else Path(out)
        yield sources, place


def _require_own(target: Address, files: dict[str, RemoteFile]) -> None:
    if files and UPLOADING not in files and files.keys().isdisjoint(MANIFESTS):
        name = next(iter(files))
        raise UserError(
            f"{target / name if name else target}: exists, and this command did not make it; choose an OUT that is new "
            "or empty"
        )


def _is_finished(files: Mapping[str, RemoteFile]) -> bool:
    return bool(files) and UPLOADING not in files


@contextmanager
def _output(target: Address, before: dict[str, RemoteFile], cache: CacheConfig) -> Iterator[Path]:
    if _is_finished(before):
        # The stage compares the finished result with what is asked for.
        with copied([target], cache) as (path,):
            yield path
        return
    work = Copy(target, root_of(cache), UNFINISHED)
    if work.folder.is_symlink() and not _is_finished(before := look(target)):
        work.folder.unlink()  # of an earlier result, which is no longer in the store
    work.path.mkdir(parents=True, exist_ok=True)
    if not before:
        _sign(work.path, target)  # a place that cannot be written is reported before the work
    try:
        yield work.path
    except UserError:
        if not before and set(os.listdir(work.path)) <= {UPLOADING}:  # the work has not begun
            delete(target / UPLOADING)
            shutil.rmtree(work.folder)
        raise
    with locked(work.lock, DAY_S):
        _upload_all(work.path, target)
        _keep(work, Copy(target, root_of(cache)))


def _upload_all(path: Path, target: Address) -> None:
    """Upload a finished directory: what is not there yet, and the commit mark last."""
    names = sorted(
        file.relative_to(path).as_posix()
        for file in path.rglob("*")
        if file.is_file() and not any(part.startswith(".") for part in file.relative_to(path).parts)
    )
    marks = [name for name in names if name in MANIFESTS]
    if not marks:
        raise UserError(f"{path}: holds no finished result, so nothing was uploaded to {target}")
    before = look(target)
    if _is_finished(before) and not missing(before, path):
        return  # another command that made the same output has uploaded it
    if before.keys() - {UPLOADING, *names}:
        raise UserError(f"{target}: holds files of another result; choose an OUT that is new or empty")
    if UPLOADING not in before:
        _sign(path, target)
    for mark in marks:
        if mark in before:
            delete(target / mark)
    kept = {name: remote for name, remote in before.items() if name not in marks}
    wanted = sorted(missing({name: kept.get(name, _ABSENT) for name in names if name not in marks}, path))
    progress = Transferred(target, sum((path / name).stat().st_size for name in wanted))

    def one(name: str) -> None:
        upload(path / name, target / name)
        progress.add((path / name).stat().st_size)

    in_parallel(one, wanted)
    progress.end()
    for mark in marks:
        upload(path / mark, target / mark)
    delete(target / UPLOADING)
    (path / UPLOADING).unlink(missing_ok=True)


def _sign(path: Path, target: Address) -> None:
    sign = path / UPLOADING
    sign.write_text("The upload of these files has not ended.\n", encoding="utf-8")
    upload(sign, target / UPLOADING)


_ABSENT = RemoteFile(-1, -1)


def _keep(work: Copy, copy: Copy) -> None:
    """Make the uploaded files the copy of their address, which the next stage reads."""
    with locked(copy.lock, 0) as is_free:
        if is_free and not work.folder.is_symlink():
            shutil.rmtree(copy.folder, ignore_errors=True)
            os.replace(work.folder, copy.folder)
            # Commands that worked beside this one find the result where they made it.
            work.folder.symlink_to(copy.folder.absolute())
