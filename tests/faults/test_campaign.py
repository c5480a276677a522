"""A few of the fault drills; an hour of them is run before a release (docs/en/training/reliability.md)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from campaign.faults import faults
from training_fixtures import ONE_THREAD, ROOT

SEED = 1


def campaign(*flags: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **ONE_THREAD, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.campaign", *flags]
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.slow
@pytest.mark.parametrize("n_faults", [3, pytest.param(60, marks=pytest.mark.campaign)])
def test_what_is_promised_holds_under_faults(tmp_path: Path, n_faults: int) -> None:
    """Damage is noticed or harmless; what is killed, stopped or out of space goes on to what it would have been."""
    out = tmp_path / "outcomes.jsonl"
    ended = campaign(f"--seed={SEED}", f"--faults={n_faults}", "--benches=1", f"--out={out}")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    records = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(records) == n_faults and "failed" not in {record["verdict"] for record in records}


def test_a_campaign_goes_on_where_it_stopped(tmp_path: Path) -> None:
    """Faults that the file has are not done again: they are counted, and a failure among them shows its seed."""
    out = tmp_path / "outcomes.jsonl"
    records = [
        {"kind": "damage", "seed": seed, "verdict": verdict, "why": "a bit", "seconds": 1}
        for seed, verdict in ((5, "detected"), (6, "failed"))
    ]
    out.write_text("".join(json.dumps(record) + "\n" for record in records) + '{"kind": "dam')
    ended = campaign("--seed=5", "--faults=2", "--only=damage", f"--out={out}")
    assert ended.returncode == 1 and not ended.stderr
    assert "failed: --only=damage --seed=6 --faults=1\n    a bit" in ended.stdout
    assert "2 faults from seed 5" in ended.stdout


def test_the_kinds_of_a_campaign_are_mixed_by_weight() -> None:
    """Any ten faults in a row hold the kinds by their weights, and seeds count up from the first."""
    drawn = faults({"often": 7, "seldom": 2, "rarely": 1}, 3)
    for begin in (3, 13):
        ten = [next(drawn) for _ in range(10)]
        assert [fault.seed for fault in ten] == list(range(begin, begin + 10))
        kinds = [fault.kind for fault in ten]
        assert [kinds.count(kind) for kind in ("often", "seldom", "rarely")] == [7, 2, 1]
