"""Show the generations of an index of `babyllm dedup --index`, or merge them into one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from babyllm.errors import UserError

if TYPE_CHECKING:
    from babyllm.pipeline.report import Report
    from babyllm.text.dedup.index.kept_index import Generation, KeptIndex

ARGUMENTS = "DIR"


@dataclass(frozen=True)
class Flags:
    """Flags of `babyllm index`.

    Attributes:
        merge: whether to merge all generations into one, which makes comparisons faster, and to delete the keys of
            documents that were taken down.
    """

    merge: bool = False


def run(flags: Flags, directory: str) -> None:
    """Merge the generations on request, and print what the index holds."""
    from babyllm.pipeline.report import print_report
    from babyllm.text.dedup.index.kept_index import open_index

    index = open_index(Path(directory))
    if not index.generations:
        raise UserError(f"{directory}: holds no index; `babyllm dedup IN OUT --index={directory}` makes one")
    if flags.merge:
        from babyllm.text.dedup.index.merging import merge_generations

        index, n_removed = merge_generations(Path(directory))
        if n_removed:
            print(f"{directory}: {n_removed:,} documents taken down, whose keys and shingles are deleted")
    print_report(_report(index))


def _report(index: KeptIndex) -> Report:
    from babyllm.pipeline.report import Cell, Fact, Report, Table

    rows: list[list[Cell]] = [[g.name, len(g.made), g.documents(), _size_bytes(g)] for g in index.generations]
    facts: list[Fact] = [("documents", sum(g.documents() for g in index.generations))]
    facts += [(name, ", ".join(value) if isinstance(value, list) else value) for name, value in index.settings.items()]
    return Report(
        f"index: {index.directory}", facts, [Table("Generations", ["name", "runs", "documents", "bytes"], rows)]
    )


def _size_bytes(generation: Generation) -> int:
    folder = Path(generation.directory, generation.name)
    return sum(file.stat().st_size for file in folder.iterdir())
