"""Write the curve of a run that went well as a reference of the package, with what it was made by.

    python -m benchmarks.learning.reference_curve runs/pretrain pretrain-nano-sample \
        --command="python train_pretrain.py" --model="nano" --data=data/sample --tokenizer="..." --machine="..."

The curve is the mean loss of stretches that grow with the run, about `POINTS` of them. The file is written into
babyllm/training/curves/built_in.
"""

from __future__ import annotations

import argparse
import json
from datetime import datetime, timezone
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from babyllm.training.curves.curve_facts import REWARD, Curve, facts_of_run
from babyllm.training.curves.reference_curves import bytes_per_token
from babyllm.training.recording.records import read_metrics

POINTS = 32
_HELD_OUT = ("tokens", "val/all/loss", "val/all/bpb")
TARGET = Path(__file__).resolve().parents[2] / "babyllm/training/curves/built_in"


def main() -> None:
    """Read a run and write its reference."""
    arguments = _arguments()
    target = TARGET / f"{arguments.name}.yaml"
    values = reference(arguments.run, arguments)
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=110, default_flow_style=None)
    target.write_text(text, encoding="utf-8")
    print(f"{target}: {len(values['points'])} points, the last {values['points'][-1]}")


def reference(run_dir: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """The fields of a `Reference`, as plain values."""
    records = read_metrics(run_dir)
    curve, facts = Curve(list(records)), facts_of_run(run_dir)
    environment = json.loads((run_dir / "environment.json").read_text(encoding="utf-8"))
    metric = REWARD if np.isfinite(curve.column(REWARD)).any() else "loss"
    x = "steps" if metric == REWARD else "tokens"
    places, values = curve.column("step" if x == "steps" else "tokens"), curve.column(metric)
    known = np.isfinite(values) & np.isfinite(places)
    places, values = places[known], values[known]
    edges = np.unique(np.geomspace(1, len(values) + 1, POINTS + 1).round().astype(int)) - 1
    spans = [(a, b) for a, b in pairwise(edges) if b > a]
    held = [
        [int(tokens), round(loss, 4), None if np.isnan(bits) else round(bits, 4)]
        for tokens, loss, bits in zip(*(curve.column(n).tolist() for n in _HELD_OUT), strict=True)
        if not np.isnan(tokens + loss)
    ]
    day = datetime.fromtimestamp(float(records[-1]["time"] or 0), timezone.utc).date()
    commit = str(environment.get("commit") or "")[:8]
    per_token = bytes_per_token(curve)
    return {
        "name": arguments.name,
        "stage": facts.stage,
        "model": arguments.model,
        "n_parameters": arguments.parameters or facts.n_parameters,
        "vocab_size": arguments.vocabulary or facts.vocab_size,
        "tokenizer": arguments.tokenizer,
        "data": arguments.data,
        "metric": metric,
        "x": x,
        "points": [[int(places[a:b].mean()), round(float(values[a:b].mean()), 4)] for a, b in spans],
        "held_out": held,
        "bytes_per_token": None if per_token is None else round(per_token, 4),
        "loss": facts.loss,
        "source": f"measured: `{arguments.command}`, {arguments.machine}, {day}, commit {commit}",
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("name")
    for flag in ("command", "model", "data", "tokenizer", "machine"):
        parser.add_argument(f"--{flag}", required=True)
    parser.add_argument("--parameters", type=int)
    parser.add_argument("--vocabulary", type=int)
    return parser.parse_args()


if __name__ == "__main__":
    main()
