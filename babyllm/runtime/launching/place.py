"""Which process of a run this one is, as whoever started it says in the environment."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from babyllm.errors import UserError

# Set for the processes that `launch` starts: the folder where they meet, and the process that waits for them.
MEETING, PARENT = "BABYLLM_MEETING", "BABYLLM_PARENT"


@dataclass(frozen=True)
class Place:
    """A process among those of its run.

    Attributes:
        rank: its number among all.
        world_size: how many there are.
        local_rank: its number among those of its machine.
        local_world_size: how many there are on its machine.
        is_given: whether something outside this process started it as one of several.
        meeting: the folder where processes that `launch` started meet; None under torchrun or alone.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1
    is_given: bool = False
    meeting: Path | None = None


def find_place() -> Place:
    """The place of this process.

    Raises:
        UserError: a variable holds no number.
    """
    meeting = os.environ.get(MEETING)
    return Place(
        rank=_number("RANK", 0),
        world_size=_number("WORLD_SIZE", 1),
        local_rank=_number("LOCAL_RANK", 0),
        local_world_size=_number("LOCAL_WORLD_SIZE", 1),
        is_given="RANK" in os.environ or "WORLD_SIZE" in os.environ,
        meeting=Path(meeting) if meeting else None,
    )


def parent_process() -> int | None:
    """The process that started this one by `launch`; None where none did."""
    return _number(PARENT, 0) or None


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, default)
    try:
        return int(text)
    except ValueError:
        raise UserError(f"{name}={text}: this variable of the environment must be a whole number") from None
