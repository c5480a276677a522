"""The table of drills."""

from __future__ import annotations

import random
from collections.abc import Callable

from tests.campaign.bench import Bench
from tests.campaign.damages import damage
from tests.campaign.disks import fill_disk
from tests.campaign.faults import Outcome
from tests.campaign.launches import disturb_launch
from tests.campaign.stages import kill_stage
from tests.campaign.training import disturb_training

Drill = Callable[[random.Random, Bench], Outcome]
DRILLS: dict[str, Drill] = {
    "damage": damage,
    "stage": kill_stage,
    "training": disturb_training,
    "launch": disturb_launch,
    "disk": fill_disk,
}
WEIGHTS = {"damage": 68, "stage": 13, "training": 13, "launch": 2, "disk": 4}
"""How often each kind comes, of a hundred faults."""
