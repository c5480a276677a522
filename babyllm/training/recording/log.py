"""The records of a training run that people read: numbers, sampled text, a progress line and a plot.

    record()  -> metrics.jsonl   one JSON object per logged step       -> read_metrics(), plot_losses() -> loss.png
              -> TensorBoard     event file with the same names
    text()    -> samples.jsonl   one JSON object per text, and TensorBoard
    message(), end()  -> messages.jsonl, and standard output
    progress()        -> standard output
    close()           -> report.html

The modules `records` and `tensorboard` write the files, `plot` draws the plot. A kill loses nothing recorded.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from babyllm.errors import UserError, in_one_line
from babyllm.progress import ProgressLine
from babyllm.runtime.machine import preferred_language
from babyllm.training.curves.curve_facts import RunFacts
from babyllm.training.curves.loss_review import LossReview
from babyllm.training.recording.plot import plot_losses
from babyllm.training.recording.records import (
    MESSAGES_FILE,
    METRICS_FILE,
    SAMPLES_FILE,
    append,
    cut_lines,
    cut_messages,
    json_line,
    write_error,
)
from babyllm.training.recording.tensorboard import EventFile


class RunLog:
    """Records a run: metrics.jsonl, samples.jsonl, TensorBoard events, a progress line and, at the end, loss.png.

    Only rank 0 makes one. On resume the records of steps after `start_step` are removed from these files, so a curve
    has one value per step; a run that starts at step 0 removes them all. TensorBoard's files are cut too. A purge mark
    would not do: its default loader ignores the mark if a curve has no newer value.

    Args:
        run_dir: directory of the run; created if missing.
        start_step: optimizer steps finished before this process; 0 for a new run.
        total_steps: step at which the run ends.
        live: whether to rewrite one progress line instead of printing plain ones; None does so on a terminal.
        facts: what the run is; with it, what is unusual about its curve is printed, each finding once.

    Raises:
        UserError: a file of the directory is damaged in its middle or cannot be written.
    """

    def __init__(
        self,
        run_dir: Path,
        *,
        start_step: int,
        total_steps: int,
        live: bool | None = None,
        facts: RunFacts | None = None,
    ) -> None:
        self.run_dir = run_dir
        self._metrics = run_dir / METRICS_FILE
        self._samples = run_dir / SAMPLES_FILE
        self._messages, self._start_step = run_dir / MESSAGES_FILE, start_step
        run_dir.mkdir(parents=True, exist_ok=True)
        last_kept = start_step if start_step > 0 else -1  # a new run has no past, step 0 included
        kept = cut_lines(self._metrics, last_kept)
        self._texts = {(text["step"], text.get("name")) for _, text in cut_lines(self._samples, last_kept)}
        self._events = EventFile(run_dir, last_kept)
        cut_messages(self._messages, is_new=start_step <= 0)
        # Values still to be recorded for the step that the run resumes from belong to that step's object.
        self._current: dict[str, Any] = kept[-1][1] if kept else {}
        self._line_start = sum(len(line) for line, _ in kept[:-1])
        self._progress = ProgressLine("step", total_steps, start_step, live=live)
        self._keep({"total_steps": total_steps, "text": "begun"})
        self._review = LossReview(facts, [record for _, record in kept], preferred_language()) if facts else None

    def record(self, step: int, values: Mapping[str, float]) -> None:
        """Record the numbers of a step; several calls for one step make one object, and a name keeps its first value.

        Steps must not decrease. Values that are not finite are `null` in metrics.jsonl, which is always valid JSON;
        TensorBoard receives them unchanged.

        Raises:
            UserError: the disk is full or the file cannot be written.
        """
        if self._current.get("step") != step:
            self._current = {"step": step, "time": round(time.time(), 3)}
            self._line_start = self._metrics.stat().st_size
        new = {name: value for name, value in values.items() if name not in self._current}
        self._current |= {name: value if math.isfinite(value) else None for name, value in new.items()}
        append(self._metrics, json_line(self._current), self._line_start)
        self._events.add_scalars(step, new)
        for line in self._review.add(self._current) if self._review else ():
            self.message(line)

    def text(self, step: int, name: str, text: str) -> None:
        """Record a text, such as a sample of the model, in samples.jsonl and in TensorBoard's text tab.

        A step and name keep their first text, as with numbers.

        Raises:
            UserError: the disk is full or the file cannot be written.
        """
        if (step, name) in self._texts:
            return
        self._texts.add((step, name))
        append(self._samples, json_line({"step": step, "name": name, "text": text}))
        self._events.add_text(step, name, text)

    def progress(
        self, step: int, value: float | None, tokens_per_s: float, note: str = "", *, name: str = "loss"
    ) -> None:
        """Show the run's progress: one rewritten line on a terminal, else at most one line every ten seconds.

        Args:
            step: finished optimizer steps.
            value: mean training loss in nats, or what `name` says; None shows none.
            tokens_per_s: tokens per second over all ranks.
            note: text at the end of the line.
            name: name of the value.
        """
        shown = "" if value is None else f"{name} {value:.4f} | "
        self._progress.show(step, f"{shown}{tokens_per_s:,.0f} tok/s", note)

    def message(self, text: str, *, is_kept: bool = True) -> None:
        """Print a line above the progress line and, if it `is_kept`, record it in messages.jsonl."""
        self._progress.message(text)
        if is_kept:
            with suppress(UserError):  # it is printed; the next record reports that the disk is full
                self._keep({"text": text})

    def end(self, text: str) -> None:
        """Record in messages.jsonl how the run ended."""
        with suppress(UserError):
            self._keep({"text": text, "is_end": True})

    def _keep(self, values: Mapping[str, Any]) -> None:
        step = self._current.get("step", self._start_step)
        append(self._messages, json_line({"step": step, "time": round(time.time(), 3), **values}))

    def flush(self) -> None:
        """Write everything recorded so far to disk, so that it survives a power cut; called with every checkpoint.

        Raises:
            UserError: the disk is full or a file cannot be written.
        """
        for path in (self._metrics, self._samples, self._messages, self._events.path):
            try:
                with path.open("ab") as file:
                    os.fsync(file.fileno())
            except OSError as error:
                raise write_error(path, error) from error

    def close(self, *, summary: bool = True) -> None:
        """End the progress line, write the records to disk and, with `summary`, draw loss.png and write report.html.

        Raises:
            UserError: the disk is full or a file cannot be written.
        """
        self._progress.end()
        self.flush()
        if summary:
            plot_losses(self.run_dir)
            self.report()

    def report(self) -> None:
        """Write report.html; a failure is printed and ends nothing."""
        try:
            from babyllm.run_report.run_page import report_at_end  # loads Jinja, which the run itself does without

            report_at_end(self.run_dir)
        except Exception as error:
            why = in_one_line(error)
            self.message(f"the report was not written ({why}); babyllm report {self.run_dir} tries again")
