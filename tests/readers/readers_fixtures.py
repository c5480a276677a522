"""Helpers shared by the tests of readers."""

import bz2
import gzip
import json
import lzma
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from babyllm.documents import Document
from babyllm.text.readers import ReadConfig, Rejected, find_partitions, read_partition

CHINESE = "今天天气很好，我们去公园看书。这本小说很有意思，他说明年再来北京大学学习。"


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".zst": lambda data: bytes(pa.compress(data, codec="zstd", asbytes=True)),
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}


def read(*paths: Path, size: int = 1 << 20, **settings: Any) -> list[Document | Rejected]:
    """Every record at the paths, in partitions of about `size` bytes."""
    config = ReadConfig(**settings)
    return [item for part in find_partitions(paths, config, size) for item in read_partition(part, config)]


def texts(items: Sequence[Document | Rejected]) -> list[str]:
    return [item.text for item in items if isinstance(item, Document)]


def reasons(items: Sequence[Document | Rejected]) -> list[str]:
    return [item.reason for item in items if isinstance(item, Rejected)]


def put(path: Path, data: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def jsonl(*values: Any) -> str:
    return "".join(json.dumps(value, ensure_ascii=False) + "\n" for value in values)


def warc(kind: str, body: bytes, media: str = "application/http; msgtype=response", length: int | None = None) -> bytes:
    head = f"WARC/1.0\r\nWARC-Type: {kind}\r\nContent-Type: {media}\r\nContent-Length: {length or len(body)}\r\n\r\n"
    return head.encode() + body + b"\r\n\r\n"
