"""Where copies of remote files lie on this machine, and how much room they may take."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from babyllm.config.values import MAX_COUNT, Limits, PathText, expand_paths
from babyllm.runtime.measured import cache_directory

CacheBytes = Annotated[int, Limits(16 << 20, MAX_COUNT)]


@dataclass(frozen=True)
class CacheConfig:
    """Local copies of files in object stores.

    Attributes:
        directory: directory of the copies, and of unfinished outputs; null takes ~/.cache/babyllm/objects.
        bytes: bytes that the copies may take; those not used for longest are deleted first.
    """

    directory: PathText | None = None
    bytes: CacheBytes = 64 << 30

    def __post_init__(self) -> None:
        """Expand `~` in paths."""
        expand_paths(self)

    def root(self) -> Path:
        """The directory of the copies."""
        return Path(self.directory) if self.directory else cache_directory() / "objects"
