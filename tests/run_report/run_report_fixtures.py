"""Runs that were not trained but written: the files that a report reads."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from babyllm.config import parse, to_dict
from babyllm.training.stages.pretraining_config import PretrainConfig

ENVIRONMENT = {"babyllm": "0.1.0", "torch": "2.13.0", "cpu": "A processor", "cores": 2, "gpus": [], "world_size": 2}
Write = Callable[..., Path]


def lines(path: Path, values: list[Any]) -> None:
    """Write JSON lines."""
    path.write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")


def record(step: int, **values: float) -> dict[str, float]:
    """A record as a run writes it; the loss falls towards 2."""
    loss = 2 + 6 * math.exp(-step / 30)
    shown = {"step": step, "time": 1.7e9 + step, "loss": loss, "lr": 1e-3, "grad_norm": 0.5 + step % 3 / 10}
    shown |= {"tokens": 1000 * step, "tokens_per_s": 500.0, "data_wait": 0.25, "memory_bytes": 1e9, "skipped": 1}
    return {**shown, "mfu": 0.3, **values}


def held_out(step: int) -> dict[str, float]:
    return {"val/all/loss": 8 - step / 50, "val/all/bpb": 3 - step / 100, "val/zh/bpb": 2.5, "val/maths/acc": 0.25}


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a run directory: `write(name, kind, n_records, flags)`."""

    def write(name: str = "mine", kind: type = PretrainConfig, n: int = 100, flags: tuple[str, ...] = ()) -> Path:
        run = tmp_path / "runs" / name
        run.mkdir(parents=True)
        config = to_dict(parse(kind, ["--plan.steps=100", *flags], prog="test"))
        (run / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
        (run / "environment.json").write_text(json.dumps(ENVIRONMENT))
        records = [record(step, **(held_out(step) if step % 20 == 0 else {})) for step in range(1, n + 1)]
        if n >= 20:
            records[19] |= {"val/maths/acc_stderr": 0.03}
        lines(run / "metrics.jsonl", records)
        samples = [
            {"step": step, "name": f"sample/{i}", "text": f"text {i} of {step}"}
            for step in range(20, n + 1, 10)
            for i in (0, 1)
        ]
        lines(run / "samples.jsonl", samples)
        begun = {"step": 0, "time": 1.7e9, "total_steps": 100, "text": "begun"}
        said = {"step": 50, "time": 1.7e9, "text": "step 50: the loss lies above; it read rows 1 to 2, and is skipped"}
        end = {"step": n, "time": 1.7e9, "text": f"finished at step {n} of 100", "is_end": True}
        lines(run / "messages.jsonl", [begun, said, said, end])
        return run

    return write
