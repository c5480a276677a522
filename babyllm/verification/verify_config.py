"""Settings of the checks of answers."""

from __future__ import annotations

from dataclasses import dataclass

from babyllm.config.values import Count, PathText, PositiveSeconds, expand_paths


@dataclass(frozen=True)
class VerifyConfig:
    """How answers are checked.

    Attributes:
        seconds: time on the clock for a program, a query or a schema.
        memory_bytes: memory for each of them.
        databases: folder of SQLite files, for SQL.
        unguarded: whether Python runs also where the system cannot keep it from files, network and processes.
    """

    seconds: PositiveSeconds = 5.0
    memory_bytes: Count = 256 << 20
    databases: PathText | None = None
    unguarded: bool = False

    def __post_init__(self) -> None:
        """Expand `~` in paths."""
        expand_paths(self)
