"""Compare recipes of pretraining on equal text: one process on one core each, as many at once as there are cores.

    python -m benchmarks.learning.recipes recipes.yaml --data data/sample --out recipes.jsonl [--seeds 1 2 3]

The file names recipes and their flags; the first is what the others are compared with, seed by seed:

    default: ""
    muon: --optim.matrices=muon --optim.embedding_lr=12

A run that is in OUT already is not repeated. Held-out bits per byte compare recipes with different tokenizers, too; the
CPU seconds are those of the whole run, evaluation at its end included.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue
from statistics import mean, stdev
from typing import Any

import yaml

from benchmarks import figures

ALWAYS = (
    *("--runtime.processes=1", "--runtime.threads=1", "--eval_every=0", "--save_every=0", "--prompts=[]"),
    "--runtime.device=cpu",
)


def main() -> None:
    args = _arguments()
    recipes: dict[str, str] = yaml.safe_load(args.recipes.read_text(encoding="utf-8"))
    done = {(run["recipe"], run["seed"]) for run in _read(args.out)}
    cores: Queue[int] = Queue()
    for core in sorted(os.sched_getaffinity(0)):
        cores.put(core)

    def run(job: tuple[str, int]) -> None:
        core = cores.get()
        try:
            record = _train(job[0], recipes[job[0]] or "", job[1], args.data, core)
        finally:
            cores.put(core)
        with args.out.open("a", encoding="utf-8") as out:
            out.write(json.dumps(record) + "\n")
        print(f"{record['recipe']:24} seed {record['seed']}: {record['bpb']:.3f} in {record['cpu_s']:,.0f} CPU s")

    jobs = [(name, seed) for seed in args.seeds for name in recipes if (name, seed) not in done]
    with ThreadPoolExecutor(cores.qsize()) as pool:
        list(pool.map(run, jobs))
    _report(_read(args.out), list(recipes))


def _arguments() -> argparse.Namespace:
    parser = figures.parser(__doc__)
    parser.add_argument("recipes", type=Path, help="YAML file: name -> flags of train_pretrain.py")
    parser.add_argument("--data", type=Path, required=True, help="directory of token data")
    parser.add_argument("--out", type=Path, required=True, help="JSON lines, one for each run")
    parser.add_argument("--seeds", type=int, nargs="*", default=[1])
    return parser.parse_args()


def _train(name: str, flags: str, seed: int, data: Path, core: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        seeds = (f"--plan.seed={seed}", f"--data.seed={seed}")
        command = [sys.executable, "-m", "babyllm", "pretrain", f"--run_dir={folder}/run", f"--data.path={data}"]
        with subprocess.Popen(
            ["taskset", "-c", str(core), *command, *ALWAYS, *seeds, *flags.split()],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            assert process.stdout
            printed = process.stdout.read()
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
    found = re.findall(r"held-out bits per byte: .*all ([0-9.]+)", printed)
    if not found:
        raise SystemExit(f"{name}: {printed.strip()}")
    seconds = usage.ru_utime + usage.ru_stime
    return {"recipe": name, "flags": flags, "seed": seed, "bpb": float(found[-1]), "cpu_s": round(seconds, 1)}


def _read(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()] if out.exists() else []


def _report(runs: list[dict[str, Any]], names: list[str]) -> None:
    by_recipe = {name: {run["seed"]: run["bpb"] for run in runs if run["recipe"] == name} for name in names}
    first = by_recipe[names[0]]
    print(f"\n{'recipe':24}{'bits per byte':>14}{'seeds':>7}{'to the first':>14}{'s.e.':>8}")
    for name, by_seed in by_recipe.items():
        paired = [value - first[seed] for seed, value in by_seed.items() if seed in first]
        error = f"{stdev(paired) / len(paired) ** 0.5:.3f}" if len(paired) > 1 else ""
        difference = f"{mean(paired):+.3f}" if paired else ""
        print(f"{name:24}{mean(by_seed.values()):>14.3f}{len(by_seed):>7}{difference:>14}{error:>8}")


if __name__ == "__main__":
    main()
