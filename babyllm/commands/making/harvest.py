"""Harvest the sessions that `babyllm serve --log` stores: data to train on, bad cases, pairs, held-out questions.

babyllm harvest LOG OUT --endpoint.url=http://127.0.0.1:8000/v1 --endpoint.model=NAME
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from babyllm.flywheel.harvest_config import HarvestConfig

ARGUMENTS = "LOG OUT"


@dataclass(frozen=True)
class Flags(HarvestConfig):
    """Flags of `babyllm harvest`."""


def run(flags: Flags, log: str, out: str) -> None:
    """Write what the sessions of a log are worth training on to OUT.

    Raises:
        UserError: a flag, the log or the endpoint is at fault.
    """
    from babyllm.flywheel.harvest import harvest
    from babyllm.pipeline.report import print_report

    report = harvest(Path(log), Path(out), flags)
    if report is None:
        print(f"{out}: is complete, there is nothing to do")
        return
    print_report(report)
    print(f"\n{Path(out) / 'report.md'} has this too")
