"""What a store of chats was made from: one record for each data set or path, in a file beside the store.

data_sets.json -> [DataRecord] -> weights by task, the table of a report, a model card
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from babyllm.errors import UserError
from babyllm.files import write_bytes

DATA_SETS = "data_sets.json"


@dataclass(frozen=True)
class DataRecord:
    """A data set or a path that a store was made from, and what became of its records.

    Attributes:
        name: name in a registry; empty for a path that was given itself.
        paths: its files and folders.
        files: number of its files.
        bytes: their size.
        records: number of records in them.
        train: number of records that are trained on, by task.
        val: number of held-out records, by task.
        repeated: number of records that repeat another one and were dropped.
        not_drawn: number of records beyond its limit or share.
        unused: number of records that could not be used.
        systems: its system messages.
        format: settings of reading that differ from those of the run, by name.
        task: task of all its records; empty if they name their own.
        limit: largest number of different records; None for no limit.
        share: share of its records that is read.
        weight: how often a chat comes in an epoch, relative to those of other data sets.
        licence: licence of the records.
        source: place that the records are from.
    """

    name: str
    paths: list[str]
    files: int = 0
    bytes: int = 0
    records: int = 0
    train: dict[str, int] = field(default_factory=dict)
    val: dict[str, int] = field(default_factory=dict)
    repeated: int = 0
    not_drawn: int = 0
    unused: int = 0
    systems: list[str] = field(default_factory=list)
    format: dict[str, Any] = field(default_factory=dict)
    task: str = ""
    limit: int | None = None
    share: float = 1.0
    weight: float = 1.0
    licence: str = ""
    source: str = ""

    @property
    def title(self) -> str:
        """Its name, or its path."""
        return self.name or ", ".join(self.paths)


def write_data_sets(directory: Path, records: Sequence[DataRecord]) -> None:
    """Write the records into the directory of a store, unless they are there already."""
    content = json.dumps([asdict(record) for record in records], ensure_ascii=False, indent=1).encode() + b"\n"
    file = directory / DATA_SETS
    if not file.is_file() or file.read_bytes() != content:
        write_bytes(file, content)


def read_data_sets(directory: Path) -> list[DataRecord]:
    """The records of a store; empty for one of an earlier version.

    Raises:
        UserError: the file is damaged.
    """
    file = directory / DATA_SETS
    if not file.is_file():
        return []
    try:
        return [DataRecord(**values) for values in json.loads(file.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{file}: is damaged ({error}); remove it, and begin the run again") from None


def changed_data_sets(records: Sequence[DataRecord], now: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The differences between the data sets of a store and those of a registry, a line for each value.

    Args:
        records: data sets of the store.
        now: values that decide what is read, by name of the data set and of the value.
    """
    return [
        f"data set {record.name}: {key}: {_shown(before)} -> {_shown(value)}"
        for record in records
        if record.name in now
        for key, value in now[record.name].items()
        if (before := getattr(record, key)) != value
    ]


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def weights_by_task(records: Sequence[DataRecord]) -> dict[str, float]:
    """The weight of each task that is trained on; empty if all data sets have the same one.

    Raises:
        UserError: data sets with different weights have a task in common.
    """
    found: dict[str, DataRecord] = {}
    for record in records:
        for task in record.train:
            other = found.setdefault(task, record)
            if other.weight != record.weight:
                raise UserError(
                    f"data sets {other.title} (weight {other.weight:g}) and {record.title} (weight {record.weight:g}): "
                    f"both have conversations of the task '{task}', so their weights cannot differ; give each a 'task' "
                    "of its own in the registry"
                )
    weights = {task: record.weight for task, record in found.items()}
    return weights if len(set(weights.values())) > 1 else {}
