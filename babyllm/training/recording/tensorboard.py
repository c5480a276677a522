"""TensorBoard event files of a run, written without a thread and cut when a run goes back.

TensorBoard's own writer has a background thread, where a full disk can go unnoticed; here the caller sees the error.
"""

from __future__ import annotations

import io
import re
import struct
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from babyllm.training.recording.records import append, read_bytes, replace_file


class EventFile:
    """A new TensorBoard event file; the directory's older ones, which are read before it, are cut after `last_kept`."""

    def __init__(self, run_dir: Path, last_kept: int) -> None:
        from tensorboard.compat.proto import event_pb2, summary_pb2, types_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event, self._record_writer = event_pb2.Event, RecordWriter
        self._value, self._text_type = summary_pb2.Summary.Value, types_pb2.DT_STRING
        old = sorted(run_dir.glob("events.out.tfevents.*"))
        for path in old:
            self._cut(path, last_kept)
        # TensorBoard reads the files in the order of their names, which hold their time of creation in seconds.
        seconds = [int(match[1]) for path in old if (match := re.search(r"tfevents\.(\d+)", path.name))]
        self.path = run_dir / f"events.out.tfevents.{max([int(time.time()), *(s + 1 for s in seconds)]):010d}.babyllm"
        self._add(file_version="brain.Event:2")
        # An open TensorBoard may have read events that are now cut: it drops everything from this step on.
        self._add(step=last_kept + 1, session_log=event_pb2.SessionLog(status=event_pb2.SessionLog.START))

    def add_scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Add the numbers of a step."""
        scalars = [self._value(tag=name, simple_value=value) for name, value in values.items()]
        self._add(step=step, summary={"value": scalars})

    def add_text(self, step: int, name: str, text: str) -> None:
        """Add a text of a step; its line breaks are kept."""
        value = self._value(tag=name)
        value.metadata.plugin_data.plugin_name = "text"
        value.tensor.dtype = self._text_type
        value.tensor.string_val.append(text.replace("\n", "  \n").encode())  # so Markdown keeps the line breaks
        self._add(step=step, summary={"value": [value]})

    def _add(self, **fields: Any) -> None:
        record = io.BytesIO()
        self._record_writer(record).write(self._event(wall_time=time.time(), **fields).SerializeToString())
        append(self.path, record.getvalue())

    def _cut(self, path: Path, last_kept: int) -> None:
        data = read_bytes(path)
        events = ((record, self._event.FromString(payload)) for record, payload in _event_records(data))
        kept = [record for record, event in events if event.step <= last_kept]
        replace_file(path, data, b"".join(kept))


def _event_records(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield (whole record, event inside it), as bytes, up to the end or the first incomplete record.

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
