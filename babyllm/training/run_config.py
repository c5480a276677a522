"""What the configurations of all stages share, as far as a run directory needs it."""

from __future__ import annotations

from typing import Protocol

from babyllm.training.watch import WatchConfig


class RunConfig(Protocol):
    """What every stage's configuration has."""

    @property
    def run_dir(self) -> str:
        """Where the run is recorded."""
        ...

    @property
    def log_every(self) -> int:
        """Steps between records."""
        ...

    @property
    def eval_every(self) -> int:
        """Steps between evaluations."""
        ...

    @property
    def save_every(self) -> int:
        """Steps between checkpoints."""
        ...

    @property
    def keep(self) -> int:
        """Newest checkpoints that stay."""
        ...

    @property
    def early_stop(self) -> int:
        """Evaluations without a lower held-out loss that end the run; 0 never does."""
        ...

    @property
    def watch(self) -> WatchConfig:
        """What is watched while the run trains."""
        ...
