"""Steps written beside training: a snapshot is taken between two steps, and a thread writes it during the next ones.

main thread    state -> snapshot, copied -> trains on ............ join: raises what went wrong
writer thread            snapshot -> `StepWriter` -> step_N
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path

from babyllm.data.stream_state import StreamState, gather
from babyllm.parallel.sharding import is_sharded
from babyllm.run_directory import SAVING, KeepEvery, read_resume, step_name, write_resume
from babyllm.tokenizer import Tokenizer
from babyllm.training.checkpoint.others import Others
from babyllm.training.checkpoint.snapshot import resume_values, take_snapshot
from babyllm.training.checkpoint.step_writer import StepWriter, not_saved
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
        self._run_dir = run_dir
        self._step = StepWriter(run_dir, tokenizer, max(1, keep), chat_template, end_ids, keep_every)
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
        snapshot = take_snapshot(state, stream)
        if others:
            with runtime.main_first():
                if runtime.is_main:
                    self._step.begin(state.step)
        write = others.write if others and not runtime.is_main else partial(self._step.write, first, others)
        if copy := snapshot.copied_if_it_fits():
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
            self._step.prune(state.best[1] if state.best else None)
        except OSError as e:
            raise not_saved(self._run_dir, state.step, e) from e


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
