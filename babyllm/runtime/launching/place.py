"""Which process of a run this one is; its launcher says so in the environment."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from babyllm.errors import UserError

# Environment variables of the processes that `launch` starts: the folder where they meet, and the id of their parent.
MEETING, PARENT = "BABYLLM_MEETING", "BABYLLM_PARENT"


@dataclass(frozen=True)
class Place:
    """A process among those of its run.

    Attributes:
        rank: the number of the process in the run, from 0.
        world_size: the number of processes of the run.
        local_rank: the number of the process on its machine, from 0.
        local_world_size: the number of processes on its machine.
        is_given: whether a launcher has started it as one of several.
        meeting: the folder where processes that `launch` started meet; None under torchrun or alone.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1
    is_given: bool = False
    meeting: Path | None = None


def find_place() -> Place:
    """The place of this process among those of its run.

    Raises:
        UserError: a variable of the environment is not a number.
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


def goes_on_without_others() -> bool:
    """Whether torchrun starts the processes of this machine again when those of another machine have ended."""
    return _number("GROUP_WORLD_SIZE", 1) > 1 and _number("TORCHELASTIC_MAX_RESTARTS", 0) > 0


def parent_process() -> int | None:
    """The id of the process whose `launch` started this one; None for any other process."""
    return _number(PARENT, 0) or None


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, default)
    try:
        return int(text)
    except ValueError:
        raise UserError(f"{name}={text}: this variable of the environment must be a whole number") from None
