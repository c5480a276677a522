"""A step directory written from a snapshot: complete, or not there.

snapshot -> .saving/ (weights, optimizer, resume.json) -> fsync -> renamed to step_N -> older steps deleted

For a model with an adapter only the adapter is saved, in peft's format; its base is not copied again.
Nothing is pickled: tensors are stored as safetensors, the rest as JSON. Rank 0 writes, every rank reads.
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from babyllm.errors import UserError
from babyllm.files import fsync, sha256, write_json
from babyllm.interop.huggingface import describe_model, save_generation
from babyllm.interop.peft import describe_adapter
from babyllm.model.adapt.lora import lora_layers
from babyllm.model.interface import Model
from babyllm.run_directory import SAVING, KeepEvery, place, prune, write_pointer, write_resume
from babyllm.tokenizer import Tokenizer
from babyllm.training.checkpoint.others import Others, write_tensors
from babyllm.training.checkpoint.snapshot import Snapshot, base_digest


@dataclass(frozen=True)
class StepWriter:
    """What writes the steps of a run; its attributes are the arguments of `Saver`."""

    run_dir: Path
    tokenizer: Tokenizer | None
    keep: int
    chat_template: str | None
    end_ids: Sequence[int]
    keep_every: KeepEvery

    def begin(self, step: int) -> None:
        """Make an empty `.saving` for a step.

        Raises:
            UserError: it cannot be made.
        """
        directory = self.run_dir / SAVING
        try:
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir(parents=True)
        except OSError as e:
            raise not_saved(self.run_dir, step, e) from e

    def prune(self, best: int | None) -> None:
        """Delete steps that are not kept; `best` is the number of the best one."""
        prune(self.run_dir, self.keep, best, self.keep_every)

    def write(self, first: Callable[[], None], others: Others | None, snapshot: Snapshot) -> None:
        """Write the step of a snapshot into `.saving`, give it its name, point `latest` at it and delete older steps.

        Args:
            first: function that is called before.
            others: the same save of other ranks, whose files it waits for; None if there are none.
            snapshot: the run, whose tensors nothing changes meanwhile.

        Raises:
            UserError: the step could not be written. Older steps are untouched and no partial step is left.
        """
        first()
        directory = self.run_dir / SAVING
        try:
            if others is None:
                self.begin(snapshot.step)
            try:
                self._fill(directory, snapshot, others)
                write_pointer(self.run_dir, snapshot.step)
            except OSError:
                shutil.rmtree(directory, ignore_errors=True)
                raise
            place(self.run_dir, snapshot.step)
            self.prune(snapshot.best)
        except OSError as e:
            raise not_saved(self.run_dir, snapshot.step, e) from e

    def _fill(self, directory: Path, snapshot: Snapshot, others: Others | None) -> None:
        self._describe(directory, snapshot.model)
        for name, index in snapshot.indices.items():
            write_json(directory / name, index)
        write_tensors(directory, snapshot)
        theirs = others.wait() if others else {}
        paths = [path for path in directory.rglob("*") if path.relative_to(directory).as_posix() not in theirs]
        for path in paths:
            fsync(path)
        files = sorted(path for path in paths if path.is_file())
        digests = theirs | {file.relative_to(directory).as_posix(): sha256(file) for file in files}
        write_resume(directory, {**snapshot.resume, "base": base_digest(snapshot.model), "sha256": digests})

    def _describe(self, directory: Path, model: Model) -> None:
        tokenizer, chat_template, end_ids = self.tokenizer, self.chat_template, self.end_ids
        if not lora_layers(model):
            describe_model(directory, model, tokenizer, chat_template=chat_template, end_ids=end_ids)
            return
        # If there were a config.json, transformers would take the directory for a whole model.
        save_generation(directory, model, tokenizer, end_ids)
        if tokenizer:
            tokenizer.save(directory, chat_template=chat_template)
        describe_adapter(directory, model, str(Path(model.origin).absolute()) if model.origin else "")


def not_saved(run_dir: Path, step: int, error: OSError) -> UserError:
    """The error for a step that could not be written."""
    again = "and start the same command again; it resumes from the last complete step"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserError(f"{run_dir}: the disk is full, step {step} was not saved; free some space {again}")
    cause = f"{error.filename2 or error.filename}: {error.strerror}" if error.strerror else error
    return UserError(f"{run_dir}: step {step} was not saved ({cause}); fix that {again}")
