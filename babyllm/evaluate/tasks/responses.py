"""The responses of a model to all questions of a task: shared among ranks, stored as they come, and not asked twice.

    units of questions -> those not stored yet -> batches -> each rank's share -> exchanged -> stored -> responses

A response is a list of numbers: the nats of the options, or the UTF-8 bytes of a generated answer.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from babyllm.errors import UserError
from babyllm.evaluate.tasks.option_nats import Unit
from babyllm.files import json_digest
from babyllm.model.interface import sorted_weights
from babyllm.model.transformer import Transformer
from babyllm.progress import ProgressLine
from babyllm.runtime import Runtime

Response = list[float]


@dataclass(frozen=True)
class ResponseFile:
    """Stored responses: lines of JSON, of which the first says whose responses they are.

    A process that is killed leaves at most one unfinished line, which the next one cuts off.

    Attributes:
        path: path of the file.
    """

    path: Path

    @classmethod
    def of(cls, folder: Path, description: Mapping[str, Any]) -> ResponseFile:
        """The file in a folder for responses that depend on `description` alone, a JSON object; it may not exist yet.

        Raises:
            UserError: the folder cannot be written.
        """
        path = folder / f"{json_digest(description)[:32]}.jsonl"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                path.write_text(json.dumps(description, ensure_ascii=False) + "\n", encoding="utf-8")
        except OSError as error:
            raise UserError(f"--cache: {path} cannot be written ({error.strerror}); name another folder") from error
        return cls(path)

    def read(self) -> dict[str, Response]:
        """The stored responses by the keys of their questions; damaged lines are left out."""
        found: dict[str, Response] = {}
        with self.path.open("rb") as file:
            next(file, None)
            for line in file:
                try:
                    key, response = json.loads(line)
                    found[str(key)] = [float(value) for value in response]
                except (ValueError, TypeError):
                    continue
        return found

    def add(self, responses: Mapping[str, Response]) -> None:
        """Append responses."""
        lines = "".join(json.dumps([key, response]) + "\n" for key, response in responses.items())
        with self.path.open("r+b") as file:
            _cut_unfinished_line(file)
            file.write(lines.encode())


def _cut_unfinished_line(file: Any) -> None:
    """Go to the end of a file's last complete line and cut off what comes after it."""
    end = file.seek(0, 2)
    while end:
        start = max(0, end - (1 << 16))
        file.seek(start)
        at = file.read(end - start).rfind(b"\n")
        if at >= 0:
            end = start + at + 1
            break
        end = start
    file.truncate(end)
    file.seek(end)


def responses_to(
    units: Sequence[Unit],
    answer: Callable[[Unit], Sequence[Response]],
    runtime: Runtime,
    *,
    batch_size: int,
    stored: ResponseFile | None = None,
    title: str = "questions",
) -> dict[str, Response]:
    """The responses to all questions, by their keys; every rank must call it.

    After a stop signal on any rank the result is incomplete: discard it.

    Args:
        units: units of questions, the same on every rank.
        answer: function that returns the responses to the questions of a unit.
        runtime: ranks, which share the units.
        batch_size: number of questions of each rank after which responses are exchanged and stored.
        stored: file of responses on rank 0; None stores nothing.
        title: name of the questions in the progress line; empty shows none.
    """
    known, missing = _known(units, stored, runtime)
    n_questions, n_missing = sum(map(len, units)), sum(map(len, missing))
    progress = ProgressLine(title, n_questions, n_questions - n_missing, output=sys.stderr)
    for batch in _batches(missing, batch_size * runtime.world_size):
        mine = {
            number: list(answer(batch[number])) if not runtime.stop_requested else None
            for number in range(runtime.rank, len(batch), runtime.world_size)
        }
        if runtime.sum([float(runtime.stop_requested)])[0]:
            break
        keys = [question.key for unit in batch for question in unit]
        new = dict(zip(keys, _exchanged(batch, mine, runtime), strict=True))
        known |= new
        n_missing -= len(new)
        if stored:
            stored.add(new)
        if runtime.is_main and title:
            progress.show(n_questions - n_missing)
    if runtime.is_main and title:
        progress.end()
    return known


def _known(
    units: Sequence[Unit], stored: ResponseFile | None, runtime: Runtime
) -> tuple[dict[str, Response], list[Unit]]:
    """The responses that rank 0 has stored, on every rank, and the units with others."""
    found = stored.read() if stored else {}
    flags = runtime.sum([float(all(question.key in found for question in unit)) for unit in units])
    done = [unit for unit, flag in zip(units, flags, strict=True) if flag]
    mine = {number: [found[question.key] for question in unit] for number, unit in enumerate(done) if found}
    keys = [question.key for unit in done for question in unit]
    known = dict(zip(keys, _exchanged(done, mine, runtime), strict=True))
    return known, [unit for unit, flag in zip(units, flags, strict=True) if not flag]


def _batches(units: Sequence[Unit], n: int) -> Iterator[list[Unit]]:
    """The units in batches of `n` questions or slightly more."""
    batch: list[Unit] = []
    for unit in units:
        batch.append(unit)
        if sum(map(len, batch)) >= n:
            yield batch
            batch = []
    if batch:
        yield batch


def _exchanged(batch: Sequence[Unit], mine: Mapping[int, Any], runtime: Runtime) -> list[Response]:
    """The responses to all questions of a batch on every rank, given those to this rank's units."""
    found = [response for number, unit in enumerate(batch) for response in mine.get(number) or [[]] * len(unit)]
    if runtime.world_size == 1 or not found:
        return found
    # Each number has one rank that knows it, so that the sums are the numbers themselves.
    lengths = [int(n) for n in runtime.sum([float(len(response)) for response in found])]
    values = np.concatenate(
        [response or np.zeros(n) for response, n in zip(found, lengths, strict=True)] or [np.zeros(0)]
    )
    ends = np.cumsum(lengths)[:-1]
    return [part.tolist() for part in np.split(np.array(runtime.sum(values.tolist())), ends)]


def weights_hash(model: Transformer) -> str:
    """The hexadecimal sha256 of a model's shape, weights and end tokens, whatever files they came from."""
    digest = hashlib.sha256(repr((model.config, sorted(model.end_ids))).encode())
    for name, tensor in sorted_weights(model):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()
