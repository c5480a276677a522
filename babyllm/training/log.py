"""What remains of a training run for people to look at: numbers, sampled text, a progress line and a picture.

    record()  -> metrics.jsonl   one JSON object per logged step       -> read_metrics(), plot_losses() -> loss.png
              -> TensorBoard     event file with the same names
    text()    -> samples.jsonl   one JSON object per text, and TensorBoard
    progress(), message()        -> standard output

Every write opens the file, adds whole lines (or whole TensorBoard events) and closes it: a kill loses nothing recorded,
at worst it tears the last line, which the next start drops. TensorBoard's own writer has a background thread, in which
a full disk can go unnoticed; here there is none, and the caller of `record()` gets an error that names the file.
"""

import fnmatch
import io
import json
import math
import os
import re
import struct
import time
import warnings
from collections.abc import Iterator, Mapping
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from babyllm.errors import UserError
from babyllm.progress import ProgressLine

if TYPE_CHECKING:
    from matplotlib.axes import Axes

METRICS_FILE = "metrics.jsonl"
SAMPLES_FILE = "samples.jsonl"
PLOT_FILE = "loss.png"
_CJK_FONTS = ("Noto Sans CJK SC", "Noto Sans SC", "WenQuanYi Micro Hei", "Microsoft YaHei", "PingFang SC")


class RunLog:
    """Records a run: metrics.jsonl, samples.jsonl, TensorBoard events, a progress line and, at the end, loss.png.

    Only the main rank makes one. On resume all that the directory holds of later steps than `start_step` is cut from
    these files, so a curve has one value per step; a run that starts at step 0 cuts everything. TensorBoard's files are
    cut too, not only marked for purging: its default loader ignores the mark where a curve gets no newer value.

    Args:
        run_dir: directory of the run; made if missing.
        start_step: optimizer steps done before this process; 0 for a new run.
        total_steps: step at which the run ends.
        live: rewrite one progress line (terminal) or print plain ones; by default whatever standard output is.

    Raises:
        UserError: a file of the directory is damaged in its middle or cannot be written.
    """

    def __init__(self, run_dir: Path, *, start_step: int, total_steps: int, live: bool | None = None) -> None:
        self.run_dir = run_dir
        self._metrics = run_dir / METRICS_FILE
        self._samples = run_dir / SAMPLES_FILE
        run_dir.mkdir(parents=True, exist_ok=True)
        last_kept = start_step if start_step > 0 else -1  # a new run has no past, step 0 included
        kept = _cut_lines(self._metrics, last_kept)
        self._texts = {(text["step"], text.get("name")) for _, text in _cut_lines(self._samples, last_kept)}
        self._events = _EventFile(run_dir, last_kept)
        # What is yet to be recorded at the very step the run resumes from belongs into that step's object.
        self._current: dict[str, Any] = kept[-1][1] if kept else {}
        self._line_start = sum(len(line) for line, _ in kept[:-1])
        self._progress = ProgressLine("step", total_steps, start_step, live=live)

    def record(self, step: int, values: Mapping[str, float]) -> None:
        """Record numbers of a step; calls for one step make one object, in which the first value of a name stands.

        Steps must not decrease. Values that are not finite are `null` in metrics.jsonl, which is always valid JSON;
        TensorBoard gets them as they are.

        Raises:
            UserError: the disk is full or the file cannot be written.
        """
        if self._current.get("step") != step:
            self._current = {"step": step, "time": round(time.time(), 3)}
            self._line_start = self._metrics.stat().st_size
        new = {name: value for name, value in values.items() if name not in self._current}
        self._current |= {name: value if math.isfinite(value) else None for name, value in new.items()}
        _write(self._metrics, _json_line(self._current), self._line_start)
        self._events.add_scalars(step, new)

    def text(self, step: int, name: str, text: str) -> None:
        """Record a text, such as a sample of the model: a line of samples.jsonl and TensorBoard's text tab.

        The first text of a step and name stands, as with numbers.

        Raises:
            UserError: the disk is full or the file cannot be written.
        """
        if (step, name) in self._texts:
            return
        self._texts.add((step, name))
        _write(self._samples, _json_line({"step": step, "name": name, "text": text}))
        self._events.add_text(step, name, text)

    def progress(self, step: int, loss: float | None, tokens_per_s: float, note: str = "") -> None:
        """Show where the run stands: one line rewritten on a terminal, else a line every ten seconds at most."""
        told = "" if loss is None else f"loss {loss:.4f} | "
        self._progress.show(step, f"{told}{tokens_per_s:,.0f} tok/s", note)

    def message(self, text: str) -> None:
        """Print a line above the progress line."""
        self._progress.message(text)

    def flush(self) -> None:
        """Make everything recorded so far survive a power cut; called with every checkpoint.

        Raises:
            UserError: the disk is full or a file cannot be written.
        """
        for path in (self._metrics, self._samples, self._events.path):
            try:
                with path.open("ab") as file:
                    os.fsync(file.fileno())
            except OSError as error:
                raise _write_error(path, error) from error

    def close(self, *, summary: bool = True) -> None:
        """End the progress line, make the records durable and, with `summary`, draw loss.png.

        Raises:
            UserError: the disk is full or a file cannot be written.
        """
        self._progress.end()
        self.flush()
        if summary:
            plot_losses(self.run_dir)


def read_metrics(run_dir: Path) -> list[dict[str, float | None]]:
    """Return what metrics.jsonl of a run holds, one dictionary per logged step, in order.

    Each has `step` and `time` (Unix seconds); what was not finite is None. A last line torn by a kill is left out.

    Raises:
        UserError: there is no such file, or a line is not a record.
    """
    return _read_records(run_dir / METRICS_FILE)


def plot_losses(run_dir: Path, reference: Path | None = None) -> Path:
    """Draw the losses and the learning rate of a run over its steps, and return the path of the picture, loss.png.

    Args:
        run_dir: directory of the run; `loss` is drawn raw and smoothed, each `val/<domain>/loss` as a line of its own.
        reference: metrics.jsonl of another run, whose training loss is drawn in grey: "is this loss normal?"

    Raises:
        UserError: a metrics.jsonl is missing or damaged, or the picture cannot be written.
    """
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.font_manager import get_font_names

    records = read_metrics(run_dir)
    target = run_dir / PLOT_FILE
    # Domains are often named in Chinese, for which matplotlib's default font has no glyphs.
    known_fonts = set(get_font_names())
    fonts = ["DejaVu Sans", *(name for name in _CJK_FONTS if name in known_fonts)]
    with matplotlib.rc_context({"font.family": fonts}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = Figure(figsize=(9, 6), dpi=120, layout="constrained")  # no pyplot: no global state, no display
        losses, rates = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
        if reference is not None:
            steps, values = _curve(_read_records(reference), "loss")
            losses.plot(steps, _smooth(values), color="0.6", label="reference")
        _draw_losses(losses, records)
        losses.set_title(_plain(run_dir.resolve().name))
        rates.plot(*_curve(records, "lr"), color="tab:green")
        rates.set(xlabel="step", ylabel="learning rate")
        for axes in (losses, rates):
            axes.grid(alpha=0.3)
        try:
            figure.savefig(target)
        except OSError as error:
            raise _write_error(target, error) from error
    return target


class _EventFile:
    """A new TensorBoard event file, read after all older ones of its directory, which are cut after a step."""

    def __init__(self, run_dir: Path, last_kept: int) -> None:
        from tensorboard.compat.proto import event_pb2, summary_pb2, types_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event, self._record_writer = event_pb2.Event, RecordWriter
        self._value, self._text_type = summary_pb2.Summary.Value, types_pb2.DT_STRING
        old = sorted(run_dir.glob("events.out.tfevents.*"))
        for path in old:
            self._cut(path, last_kept)
        # TensorBoard reads the files in the order of their names, which hold the second of their making.
        seconds = [int(match[1]) for path in old if (match := re.search(r"tfevents\.(\d+)", path.name))]
        self.path = run_dir / f"events.out.tfevents.{max([int(time.time()), *(s + 1 for s in seconds)]):010d}.babyllm"
        self._add(file_version="brain.Event:2")
        # For a TensorBoard that is open and has read what was cut: drop everything from this step on.
        self._add(step=last_kept + 1, session_log=event_pb2.SessionLog(status=event_pb2.SessionLog.START))

    def add_scalars(self, step: int, values: Mapping[str, float]) -> None:
        scalars = [self._value(tag=name, simple_value=value) for name, value in values.items()]
        self._add(step=step, summary={"value": scalars})

    def add_text(self, step: int, name: str, text: str) -> None:
        value = self._value(tag=name)
        value.metadata.plugin_data.plugin_name = "text"
        value.tensor.dtype = self._text_type
        value.tensor.string_val.append(text.replace("\n", "  \n").encode())  # so Markdown keeps the line breaks
        self._add(step=step, summary={"value": [value]})

    def _add(self, **fields: Any) -> None:
        record = io.BytesIO()
        self._record_writer(record).write(self._event(wall_time=time.time(), **fields).SerializeToString())
        _write(self.path, record.getvalue())

    def _cut(self, path: Path, last_kept: int) -> None:
        data = _read(path)
        events = ((record, self._event.FromString(payload)) for record, payload in _event_records(data))
        kept = [record for record, event in events if event.step <= last_kept]
        _replace(path, data, b"".join(kept))


def _event_records(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield (record as it stands in the file, event inside) up to the end or the first torn record.

    A record is its length (8 bytes, little-endian), 4 bytes of checksum, the event, and 4 bytes of checksum.
    """
    from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

    start = 0
    while start + 16 <= len(data):
        (length,) = struct.unpack_from("<Q", data, start)
        end = start + 12 + length
        payload = data[start + 12 : end]
        if data[end : end + 4] != struct.pack("<I", masked_crc32c(payload)):
            return
        yield data[start : end + 4], payload
        start = end + 4


def _draw_losses(axes: "Axes", records: list[dict[str, float | None]]) -> None:
    steps, values = _curve(records, "loss")
    axes.plot(steps, values, color="tab:blue", alpha=0.35, linewidth=0.8)
    axes.plot(steps, _smooth(values), color="tab:blue", label="train (smoothed)")
    names = {name: None for record in records for name in record if fnmatch.fnmatchcase(name, "val/*/loss")}
    for number, name in enumerate(names):
        axes.plot(*_curve(records, name), color=f"C{1 + number % 9}", marker="o", markersize=3, label=_plain(name))
    axes.set_ylabel("loss")
    axes.legend()


def _plain(name: str) -> str:
    return name.replace("$", r"\$")  # matplotlib reads what stands between two dollars as a formula


def _curve(records: list[dict[str, float | None]], name: str) -> tuple[list[float], list[float]]:
    """Return the steps at which a finite value of the name was recorded, and the values."""
    points = [(record["step"], value) for record in records if (value := record.get(name)) is not None]
    return [float(step or 0) for step, _ in points], [value for _, value in points]


def _smooth(values: list[float]) -> list[float]:
    """Return the moving average over 2 % of the curve, five points at least, centred so that it does not lag."""
    half = max(2, len(values) // 100)
    sums = list(accumulate(values, initial=0.0))
    spans = [(max(0, i - half), min(len(values), i + half + 1)) for i in range(len(values))]
    return [(sums[end] - sums[start]) / (end - start) for start, end in spans]


def _read_records(path: Path) -> list[dict[str, float | None]]:
    if not path.is_file():
        raise UserError(f"{path}: no such file; give the directory of a training run, which holds {METRICS_FILE}")
    return [record for _, record in _whole_lines(path)]


def _whole_lines(path: Path) -> list[tuple[bytes, dict[str, Any]]]:
    """Return each line of a .jsonl file of records, line end included, and the record on it, without a torn last line.

    Raises:
        UserError: any other line is not a JSON object with a step.
    """
    lines = []
    for number, line in enumerate(_read(path).splitlines(keepends=True), 1):
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


def _cut_lines(path: Path, last_kept: int) -> list[tuple[bytes, dict[str, Any]]]:
    """Cut the records after a step, and a torn last line, from a .jsonl file, and return what is left in it."""
    if not path.exists():
        _write(path, b"")
    kept = [(line, record) for line, record in _whole_lines(path) if record["step"] <= last_kept]
    _replace(path, _read(path), b"".join(line for line, _ in kept))
    return kept


def _json_line(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror}): mend or move it, then start again") from error


def _write(path: Path, data: bytes, offset: int | None = None) -> None:
    """Put `data` at the end of a file, or in place of what stands after `offset`."""
    try:
        with path.open("r+b" if path.exists() else "wb") as file:
            file.seek(0, os.SEEK_END) if offset is None else file.seek(offset)
            file.write(data)
            file.truncate()
    except OSError as error:
        raise _write_error(path, error) from error


def _replace(path: Path, old: bytes, new: bytes) -> None:
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
        raise _write_error(path, error) from error


def _write_error(path: Path, error: OSError) -> UserError:
    return UserError(
        f"cannot write {path} ({error.strerror}): free the disk or fix the directory's permissions, then start again"
    )
