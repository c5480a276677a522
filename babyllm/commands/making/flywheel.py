"""Turn the flywheel once: harvest stored sessions, train with replay, compare with the old model, replace it or not.

It says first what it does. A turn that was stopped goes on where it was:

    babyllm flywheel LOG OUT --current=models/chat --replay=data/sample_sft/train.jsonl --test=test.jsonl --dry_run=true
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from babyllm.errors import UserError
from babyllm.flywheel.flywheel_config import TurnConfig

ARGUMENTS = "LOG OUT"


@dataclass(frozen=True)
class Flags(TurnConfig):
    """Flags of `babyllm flywheel`."""


def run(flags: Flags, log: str, out: str) -> None:
    """Say what a turn does, then do it, unless --dry_run is given.

    Raises:
        UserError: a flag, a file or a step is at fault.
    """
    from babyllm.flywheel.turn import Turn
    from babyllm.pipeline.report import print_report

    turn = Turn(Path(log), Path(out), flags, _run)
    print("\n".join(turn.plan()), flush=True)
    if flags.dry_run:
        print("nothing was done; leave out --dry_run to do it")
        return
    report = turn.run()
    print()
    print_report(report)


def _run(argv: Sequence[str]) -> None:
    """Run a command of babyllm in a process of its own; it may start others."""
    print(f"\nbabyllm {' '.join(argv)}", flush=True)
    status = subprocess.run([sys.executable, "-m", "babyllm", *argv], check=False).returncode
    if status:
        raise UserError(f"babyllm {argv[0]}: ended with status {status}; the same call goes on from there")
