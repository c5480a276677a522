"""The table of drills."""

from __future__ import annotations

import random
from collections.abc import Callable

from tests.campaign.bench import Bench
from tests.campaign.damages import damage
from tests.campaign.faults import Outcome

Drill = Callable[[random.Random, Bench], Outcome]
DRILLS: dict[str, Drill] = {"damage": damage}
WEIGHTS = {"damage": 70}
"""How often each kind comes, of a hundred faults."""
