"""Steps written beside training: a snapshot is taken between two steps, and a thread writes it during the next ones.

main thread    state -> snapshot, copied -> trains on ............ join: raises what went wrong
writer thread            snapshot -> .saving/ (weights, optimizer, resume.json) -> fsync -> renamed to step_N

For a model with an adapter only the adapter is saved, in peft's format; its base is not copied again.
Nothing is pickled: tensors are stored as safetensors, the rest as JSON. Rank 0 writes, every rank reads.
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path

from babyllm.data.stream_state import StreamState, gather
from babyllm.errors import UserError
from babyllm.files import fsync, sha256, write_json
from babyllm.interop.huggingface import describe_model, save_generation
from babyllm.interop.peft import describe_adapter
from babyllm.model.adapt.lora import lora_layers
from babyllm.model.interface import Model
from babyllm.parallel.sharding import is_sharded
from babyllm.run_directory import SAVING, KeepEvery, place, prune, read_resume, step_name, write_pointer, write_resume
from babyllm.runtime.machine import available_memory
from babyllm.tokenizer import Tokenizer
from babyllm.training.checkpoint.others import Others, write_tensors
from babyllm.training.checkpoint.snapshot import Snapshot, base_digest, resume_values, take_snapshot
from babyllm.training.state import TrainState


class Saver:
    """The steps of a run, saved one at a time beside training.

    Args:
        run_dir: directory of the run.
        tokenizer: tokenizer to save beside the weights, or None.
        keep: number of newest steps to keep, at least 1; the best step is kept too.
        chat_template: Jinja template, stored with the tokenizer.
        end_ids: tokens that end an answer, in addition to <eos>.
        keep_every: further steps to keep, as `run_directory.prune` describes.
    """

    def __init__(
        self,
        run_dir: Path,
        tokenizer: Tokenizer | None,
        keep: int,
        chat_template: str | None = None,
        end_ids: Sequence[int] = (),
        keep_every: KeepEvery = 0,
    ) -> None:
        self._run_dir, self._keep, self._keep_every = run_dir, max(1, keep), keep_every
        self._tokenizer, self._chat_template, self._end_ids = tokenizer, chat_template, end_ids
        self._writing: Future[None] | None = None

    def save(
        self, state: TrainState, first: Callable[[], None] = lambda: None, stream: StreamState | None = None
    ) -> None:
        """Begin to write `run_dir`/step_N, point `latest` at it and delete older steps; every rank must call it.

        Without memory for a copy of the step's tensors, training waits until they are written.

        Args:
            state: the run at step N, between two steps.
            first: function that the writer calls before it writes; the run's records must reach the disk before a step.
            stream: state of the stream, already gathered, for rank 0 alone; by default all ranks gather it.

        Raises:
            UserError: the weights are not finite, or as `join`.
        """
        stream, runtime = stream or gather(state.stream, state.runtime), state.runtime
        others = Others(runtime, self._run_dir / SAVING) if is_sharded(state.model) else None
        if not (others or runtime.is_main):
            return
        self.join()
        if others:
            with runtime.main_first():
                if runtime.is_main:
                    _begin(self._run_dir / SAVING)
        snapshot = take_snapshot(state, stream)
        write = others.write if others and not runtime.is_main else partial(self._write, first=first, others=others)
        if copy := _copy_if_it_fits(snapshot):
            writer = ThreadPoolExecutor(1, "checkpoint")
            self._writing = writer.submit(write, copy)
            writer.shutdown(wait=False)  # its thread ends with the write
        else:
            write(snapshot)

    def join(self, *, block: bool = True) -> None:
        """Wait until the step is complete; without `block`, return at once while it is being written.

        Raises:
            UserError: the step could not be written. Older steps are untouched and no partial step is left.
        """
        if self._writing and (block or self._writing.done()):
            wait([self._writing])  # an interrupt leaves it to the next call
            ended, self._writing = self._writing, None
            ended.result()

    def update(self, state: TrainState) -> None:
        """Rewrite the resume.json of a saved step, for instance after its evaluation; rank 0 does it.

        Tensors and the stream's state stay as they were saved.

        Raises:
            UserError: the step's resume.json is damaged or cannot be written, or as `join`.
        """
        if not state.runtime.is_main:
            return
        self.join()
        directory = self._run_dir / step_name(state.step)
        try:
            stored = read_resume(directory, compare=False)
            kept = {key: stored[key] for key in ("base", "sha256")}
            write_resume(directory, {**resume_values(state, stored["stream"]), **kept})
            prune(self._run_dir, self._keep, state.best[1] if state.best else None, self._keep_every)
        except OSError as e:
            raise _not_saved(self._run_dir, state.step, e) from e

    def _write(self, snapshot: Snapshot, first: Callable[[], None], others: Others | None) -> None:
        first()
        directory = self._run_dir / SAVING
        try:
            try:
                self._fill(directory, snapshot, others)
                write_pointer(self._run_dir, snapshot.step)
            except OSError:
                shutil.rmtree(directory, ignore_errors=True)
                raise
            place(self._run_dir, snapshot.step)
            prune(self._run_dir, self._keep, snapshot.best, self._keep_every)
        except OSError as e:
            raise _not_saved(self._run_dir, snapshot.step, e) from e

    def _fill(self, directory: Path, snapshot: Snapshot, others: Others | None) -> None:
        if others is None:
            _begin(directory)
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
        tokenizer, chat_template, end_ids = self._tokenizer, self._chat_template, self._end_ids
        if not lora_layers(model):
            describe_model(directory, model, tokenizer, chat_template=chat_template, end_ids=end_ids)
            return
        # If there were a config.json, transformers would take the directory for a whole model.
        save_generation(directory, model, tokenizer, end_ids)
        if tokenizer:
            tokenizer.save(directory, chat_template=chat_template)
        describe_adapter(directory, model, str(Path(model.origin).absolute()) if model.origin else "")


def save(
    state: TrainState,
    run_dir: Path,
    tokenizer: Tokenizer | None,
    keep: int,
    chat_template: str | None = None,
    end_ids: Sequence[int] = (),
) -> None:
    """Write one step and wait for it, as `Saver` does; every rank must call it.

    Raises:
        UserError: as `Saver.save` and `Saver.join`.
    """
    saver = Saver(run_dir, tokenizer, keep, chat_template, end_ids)
    saver.save(state)
    saver.join()
    state.runtime.barrier()


def _begin(directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)


def _copy_if_it_fits(snapshot: Snapshot) -> Snapshot | None:
    if available_memory() < 2 * snapshot.n_bytes:  # the system and its cache of the files need some too
        return None
    try:
        return snapshot.copied()
    except (MemoryError, RuntimeError):  # torch raises the latter, for instance at a limit that the user has set
        return None


def _not_saved(run_dir: Path, step: int, error: OSError) -> UserError:
    again = "and start the same command again; it resumes from the last complete step"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserError(f"{run_dir}: the disk is full, step {step} was not saved; free some space {again}")
    cause = f"{error.filename2 or error.filename}: {error.strerror}" if error.strerror else error
    return UserError(f"{run_dir}: step {step} was not saved ({cause}); fix that {again}")
