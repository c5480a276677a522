"""Line numbers for people: the line at the byte offset by which readers name a record."""

from __future__ import annotations

from collections.abc import Iterator

from babyllm.text.readers.decoding.encodings import is_wide, utf8
from babyllm.text.readers.decoding.streams import blocks, encoding_of
from babyllm.text.readers.formats.json_values import JSON_SUFFIXES, holds_lines, json_blocks
from babyllm.text.readers.records import ReadConfig, Source


class LineNumbers:
    """Line numbers of a text file, counted from 1 in a separate pass that goes only as far as needed.

    Args:
        source: a whole file.
        config: how it is read.
    """

    def __init__(self, source: Source, config: ReadConfig) -> None:
        self._source, self._config = source, config
        self._parts: Iterator[bytes] | None = None
        self._begin, self._block, self._line = 0, b"", 1  # offset of the current block, the block, its first line

    def at(self, offset: int) -> int:
        """The number of the line at a byte offset as readers count it; offsets must not decrease."""
        if self._parts is None:
            self._parts = _parts(self._source, self._config)
        while offset > self._begin + len(self._block) and (block := next(self._parts, b"")):
            self._line += self._block.count(b"\n")
            self._begin, self._block = self._begin + len(self._block), block
        return self._line + self._block.count(b"\n", 0, offset - self._begin)


def _parts(source: Source, config: ReadConfig) -> Iterator[bytes]:
    """The bytes in which offsets are counted."""
    if source.format in JSON_SUFFIXES and not holds_lines(source, config):
        return json_blocks(source, config)
    encoding = encoding_of(source, config)
    return utf8(blocks(source), encoding, config.errors) if is_wide(encoding) else blocks(source)
