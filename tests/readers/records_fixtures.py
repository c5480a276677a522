"""Helpers shared by the tests of records."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from babyllm.documents import Document
from babyllm.pipeline.partitions import WorkConfig
from babyllm.text.readers import ReadConfig, Rejected, find_partitions, read_partition

TEXT = "今天天气很好，我们去公园散步，看到了许多美丽的花朵。"


ONE = WorkConfig(workers=1)


def read(*paths: Path, size: int = 1 << 20, **settings: Any) -> list[Document | Rejected]:
    """Every record at the paths, in partitions of about `size` bytes."""
    config = ReadConfig(**settings)
    return [item for part in find_partitions(paths, config, size) for item in read_partition(part, config)]


def documents(items: Sequence[Document | Rejected]) -> list[Document]:
    return [item for item in items if isinstance(item, Document)]


def texts(items: Sequence[Document | Rejected]) -> list[str]:
    return [item.text for item in documents(items)]


def reasons(items: Sequence[Document | Rejected]) -> list[str]:
    return [item.reason for item in items if isinstance(item, Rejected)]


def put(path: Path, data: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def json_lines(*records: Any) -> bytes:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode()


# ---- JSON, under any name of a file

ROWS = [{"text": f"{TEXT}{i}", "n": [i, {}]} for i in range(12)]


def dumped(value: Any, **settings: Any) -> str:
    return json.dumps(value, ensure_ascii=False, **settings)
