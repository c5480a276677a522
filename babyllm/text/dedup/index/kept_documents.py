"""What the stage needs of an index: the earlier documents to compare with, and the addition of those that stay."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from babyllm.config.values import without_paths
from babyllm.errors import UserError
from babyllm.text.dedup.dedup_config import DedupConfig
from babyllm.text.dedup.index.growth import grow
from babyllm.text.dedup.index.kept_index import KeptIndex, digest_of, held, open_index
from babyllm.text.dedup.index.recall import recall
from babyllm.text.dedup.near.linking import Steps
from babyllm.text.dedup.slices import Slice

_OF_KEYS = ("near", "threshold", "shingles", "minhash", "fold", "clusters")
"""The settings that all generations of an index share: keys and links of others could not be compared."""


@dataclass(frozen=True)
class KeptDocuments:
    """The documents kept before a run, and those that it adds; without an index there are none and it adds none.

    Attributes:
        index: index; None without one.
        settings: settings of keys and shingles, by flag.
        digest: digest of the inputs and settings of the run.
    """

    index: KeptIndex | None
    settings: dict[str, Any]
    digest: str

    def directories(self) -> list[Path]:
        """The directory of the index, if there is one."""
        return [self.index.directory] if self.index else []

    def about(self) -> dict[str, str]:
        """What determines the result, by name: the runs before this one."""
        return {"index": digest_of(self.index.before(self.digest))} if self.index else {}

    def require_added(self, out: Path) -> None:
        """Check that the index holds what this run has kept.

        Raises:
            UserError: it does not, though `out` is complete.
        """
        if self.index and self.digest not in self.index.made():
            raise UserError(
                f"{out}: is complete, but the index {self.index.directory} lacks its documents, as an earlier copy "
                "does; restore the newest one, or choose another OUT"
            )

    def held(self) -> AbstractContextManager[None]:
        """Hold the lock of the index; see `kept_index.held`."""
        return held(self.index) if self.index else nullcontext()

    def recalled(
        self, run: Steps, items: Sequence[tuple[Slice, bool]]
    ) -> tuple[Steps, list[Slice], Callable[[Steps], None] | None]:
        """The earlier documents that may be similar to new ones.

        Args:
            run: runner of the steps, for the new documents alone.
            items: slices of the new documents, as for `find_links`.

        Returns:
            The runner for both together, the slices of the earlier ones, and a function that fetches their shingles.
        """
        if self.index is None:
            return run, [], None
        found = recall(run, items, self.index.generations_before(self.digest))
        n = run.setting.n_documents + found.n()
        if n >= 1 << 32:
            raise UserError(f"{n:,} documents cannot be numbered with 32 bits; give the new ones in portions")
        return run.of(replace(run.setting, n_documents=n)), found.slices, found.fetch

    def add(self, run: Steps, slices: Sequence[Slice], removed: NDArray[np.int64]) -> None:
        """Add the documents that stay to the index; see `growth.grow`."""
        if self.index:
            grow(run, slices, removed, self.index, self.digest, self.settings)


def open_kept(config: DedupConfig, about: dict[str, Any]) -> KeptDocuments:
    """The documents kept before a run.

    Args:
        config: settings of the deduplication.
        about: what determines its result, without the index.

    Raises:
        UserError: the index is damaged or was made with other settings, or an index cannot hold what they need.
    """
    if config.index is None:
        return KeptDocuments(None, {}, "")
    if "simhash" in config.near:
        raise UserError("--near: an index holds the keys of minhash; take [minhash], or [] for exact repetitions only")
    settings = dict(_flat({name: value for name, value in without_paths(config).items() if name in _OF_KEYS}))
    index = open_index(Path(config.index))
    index.require(settings)
    return KeptDocuments(index, settings, digest_of(about))


def _flat(settings: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """The settings by flag, such as shingles.n."""
    found: list[tuple[str, Any]] = []
    for name, value in settings.items():
        found += _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else [(f"{prefix}{name}", value)]
    return found
