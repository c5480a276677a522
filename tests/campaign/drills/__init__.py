"""The table of drills."""

from __future__ import annotations

import random
from collections.abc import Callable

from tests.campaign.bench import Bench
from tests.campaign.drills.damages import damage
from tests.campaign.drills.disks import fill_disk
from tests.campaign.drills.launches import disturb_launch
from tests.campaign.drills.stages import kill_stage
from tests.campaign.drills.training import disturb_training
from tests.campaign.faults import Outcome

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
