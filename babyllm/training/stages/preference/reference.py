"""The log-probabilities of the reference model, computed once, block by block, and kept beside the pairs.

starting model, rows of both splits -> blocks of rows, shared among ranks -> files of each rank -> one file, commit mark

A run that was interrupted goes on with the blocks that are left; a run with the same model and pairs computes nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from babyllm.data.batch import Batch
from babyllm.data.order.shuffle import Rows
from babyllm.data.rows.references import MARK, reference_file
from babyllm.errors import UserError
from babyllm.files import read_sealed_json, write_sealed_json
from babyllm.model.interface import Model, sorted_weights
from babyllm.objectives.preference.preference_losses import answer_logps
from babyllm.parallel.tensors import whole_tensor
from babyllm.parallel.twin import readable, whole
from babyllm.progress import ProgressLine
from babyllm.runtime import Runtime
from babyllm.store.shards import Split

BLOCK = 16
"""Rows of a forward pass."""

Tables = dict[Split, NDArray[np.float32]]
"""The log-probabilities of each split, (N, 2) or (N, 1), by the rows' numbers."""


def reference_tables(
    model: Model, rows: dict[Split, Rows], directory: Path, fingerprint: str, runtime: Runtime, *, is_resumed: bool
) -> Tables:
    """The log-probabilities of all answers under the starting model; every rank must call it.

    Args:
        model: the starting model, on its device; may be divided.
        rows: rows of each split.
        directory: directory of the pairs.
        fingerprint: hash of the pairs.
        runtime: runtime of the run.
        is_resumed: whether `model` has been trained already, so that the values must be on disk.

    Raises:
        UserError: the values of a resumed run are missing or belong to other pairs, cannot be written, or a stop was
            asked for.
    """
    made_of = {"fingerprint": fingerprint, "rows": {split: len(of_split) for split, of_split in rows.items()}}
    if is_resumed:
        found = _made_of(directory)
        if {key: found.get(key) for key in made_of} != made_of:
            raise UserError(
                f"{directory / MARK}: does not hold the reference of these pairs, which only the starting model can "
                "compute; restore the file, or choose another --run_dir"
            )
    else:
        digest = _digest(model)
        mark = made_of | {"model": digest}
        if runtime.sum([float(runtime.is_main and _made_of(directory) != mark)])[0]:
            if runtime.is_main:
                (directory / MARK).unlink(missing_ok=True)  # it would vouch for what is about to be replaced
            try:
                _compute(model, rows, directory, f"{digest[:16]}.{fingerprint[:16]}", runtime)
                if runtime.is_main:
                    write_sealed_json(directory / MARK, mark)
            except OSError as e:
                raise UserError(
                    f"{directory}: the reference cannot be written ({e.strerror}); free the disk, then start the same "
                    "command again, which goes on from there"
                ) from e
            runtime.barrier()
    return {split: _read(reference_file(directory, split), len(of_split)) for split, of_split in rows.items()}


def _made_of(directory: Path) -> dict[str, object]:
    try:
        return dict(read_sealed_json(directory / MARK))
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _digest(model: Model) -> str:
    """The sha256 of the weights, of which a rank gathers one at a time if they are divided."""
    digest = hashlib.sha256()
    for name, tensor in sorted_weights(model):
        digest.update(name.encode())
        digest.update(whole_tensor(tensor.detach()).cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _compute(model: Model, rows: dict[Split, Rows], directory: Path, made_of: str, runtime: Runtime) -> None:
    read = readable(model)
    was_training = read.training
    read.eval()
    if runtime.is_main:
        for file in directory.glob("reference.*-of-*"):
            if made_of not in file.name:
                file.unlink()  # of another model or other pairs
    with runtime.patience():
        for split, of_split in rows.items():
            mine = _part(directory, split, made_of, runtime.rank, runtime.world_size)
            with whole(model):
                _fill(read, of_split, mine, range(*_bounds(len(of_split), runtime.rank, runtime.world_size)), runtime)
            runtime.barrier()
            if runtime.is_main:
                parts = [_part(directory, split, made_of, r, runtime.world_size) for r in range(runtime.world_size)]
                _join(parts, reference_file(directory, split))
    read.train(was_training)


def _part(directory: Path, split: Split, made_of: str, rank: int, world_size: int) -> Path:
    """The file of a rank; another model, other pairs or another number of ranks have other files."""
    return directory / f"reference.{split}.{made_of}.{rank}-of-{world_size}"


def _bounds(n: int, rank: int, world_size: int) -> tuple[int, int]:
    return n * rank // world_size, n * (rank + 1) // world_size


@torch.no_grad()
def _fill(model: Model, rows: Rows, file: Path, mine: range, runtime: Runtime) -> None:
    """Append the values of the rows that the file lacks."""
    width = rows.rows(np.arange(1))["targets"][0].ndim  # 2 for pairs, 1 for single answers
    item = 4 * width
    with file.open("ab") as out:
        done = out.tell() // item
        out.truncate(done * item)
        progress = ProgressLine("reference", len(mine), done) if runtime.is_main and done < len(mine) else None
        for start in range(mine.start + done, mine.stop, BLOCK):
            found = rows.rows(np.arange(start, min(start + BLOCK, mine.stop)))
            tensors = {name: torch.from_numpy(array) for name, array in found.trimmed(8).items()}
            batch = Batch({name: tensors[name] for name in ("tokens", "targets")}).to(runtime.device)
            with runtime.autocast():
                logps = answer_logps(model, batch)
            out.write(logps.float().cpu().numpy().astype("<f4").tobytes())
            out.flush()
            if progress:
                progress.show(min(start + BLOCK, mine.stop) - mine.start)
            runtime.beat(0)
            if runtime.stop_requested:
                raise UserError("stopped while the reference was computed; the same command goes on from there")
        if progress:
            progress.end()


def _join(parts: Sequence[Path], target: Path) -> None:
    with target.open("wb") as out:
        for part in parts:
            out.write(part.read_bytes())
    for part in parts:
        part.unlink()


def _read(file: Path, n: int) -> NDArray[np.float32]:
    try:
        values = np.fromfile(file, "<f4")
    except OSError as e:
        raise UserError(f"{file}: cannot be read ({e.strerror}); restore it, or choose another --run_dir") from e
    if n and (len(values) % n or len(values) // n not in (1, 2)):
        raise UserError(f"{file}: is not as long as the pairs need; restore it, or choose another --run_dir")
    return values.reshape(n, -1)
