"""What became of the records of each data set: counted by partition, then described for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from babyllm.chat.registry.data_set import DataSet
from babyllm.pipeline.report import Cell, Table
from babyllm.store.data_sets import DataRecord
from babyllm.store.shards import Split
from babyllm.text.readers import Source


@dataclass
class DataTally:
    """The outcomes of the records of a data set.

    Attributes:
        records: number of records that were read.
        unused: number of records that could not be used.
        not_drawn: number of records beyond its limit or share.
        repeated: number of records that repeat another one and were dropped.
        train: number of records that are trained on, by task.
        val: number of held-out records, by task.
    """

    records: int = 0
    unused: int = 0
    not_drawn: int = 0
    repeated: int = 0
    train: Counter[str] = field(default_factory=Counter)
    val: Counter[str] = field(default_factory=Counter)

    def use(self, split: Split, task: str, is_used: bool) -> None:
        """Count a record of a split and task that is in the store, or that could not be used after all."""
        if is_used:
            (self.train if split == "train" else self.val)[task] += 1
        else:
            self.unused += 1

    def __add__(self, other: DataTally) -> DataTally:
        mine, theirs = vars(self), vars(other)
        return DataTally(*(mine[name] + theirs[name] for name in mine))

    def to_json(self) -> dict[str, Any]:
        """The tally as JSON values, for `of`; tasks are sorted."""
        return {**vars(self), "train": dict(sorted(self.train.items())), "val": dict(sorted(self.val.items()))}

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> DataTally:
        """The tally whose `to_json` returned these values."""
        return cls(**{**values, "train": Counter(values["train"]), "val": Counter(values["val"])})


def described(data: DataSet, files: Sequence[Source], tally: DataTally) -> DataRecord:
    """The record of a data set.

    Args:
        data: the data set.
        files: its files.
        tally: outcomes of its records.
    """
    counts = {**tally.to_json(), "files": len(files), "bytes": sum(file.stamp[0] for file in files)}
    return DataRecord(data.name, [path.as_posix() for path in data.paths], **counts, **data.deciding(), **data.about())


def data_table(records: Sequence[DataRecord]) -> list[Table]:
    """The table of a report with the data sets of a registry; none if only paths were given."""
    if not any(record.name for record in records):
        return []
    columns = ["data set", "files", "bytes", "records", "trained on", "held out", "repeated", "not drawn", "unused"]
    rows: list[list[Cell]] = [
        [
            *(one.title, one.files, one.bytes, one.records, sum(one.train.values()), sum(one.val.values())),
            *(one.repeated, one.not_drawn, one.unused, one.weight, one.licence),
        ]
        for one in records
    ]
    systems: list[list[Cell]] = [[one.title, i, text] for one in records for i, text in enumerate(one.systems, 1)]
    tables = [Table("data sets", [*columns, "weight", "licence"], rows)]
    return [*tables, Table("system messages of data sets", ["data set", "", "text"], systems)] if systems else tables


def sources_by_data(files: Mapping[Path, Source], indices: Mapping[str, int], n: int) -> list[list[Source]]:
    """The files of each of `n` data sets; `indices` has that of each file's name."""
    found: list[list[Source]] = [[] for _ in range(n)]
    for source in files.values():
        found[indices[source.name]].append(source)
    return found
