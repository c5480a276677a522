"""Memory of each rank while it reads its part of a model's weights, over the size of that part. Linux only.

    python -m benchmarks.parallel.weights [--preset 1b] [--ranks 4]

A model directory of random float32 weights is written to the disk, one block in memory at a time: 4.4 GB for 1b. Then
the ranks make a divided model without memory and read it, as a pretraining run with `init_from` does. The growth is
that of a process's anonymous memory; of all ranks the highest counts.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

from babyllm.model.config import parameter_counts
from babyllm.model.options import PRESETS
from benchmarks import figures
from benchmarks.interop.base_memory import write_model
from benchmarks.parallel import ranks


def main() -> None:
    parser = figures.parser(__doc__)
    parser.add_argument("--preset", default="1b", choices=list(PRESETS))
    parser.add_argument("--ranks", type=int, default=4, help="processes that share the model")
    parser.add_argument("--worker", type=json.loads, help=argparse.SUPPRESS)
    args = figures.parse(parser, preset="92m")
    if args.worker:
        _work(Path(args.worker["directory"]))
        return
    share = 4 * sum(parameter_counts(PRESETS[args.preset]).values()) / args.ranks / 1e6
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder), args.preset, "float32")
        values = ranks.run(__spec__.name, {"directory": folder}, args.ranks)
    grown, seconds = values["in a reading"], values["seconds"]
    name = f"memory of reading {args.preset} on {args.ranks} ranks"
    print(f"{name}: share {share:,.0f} MB, {grown:,.0f} MB, {grown / share:.3f} of it, in {seconds:.1f} s")
    over = figures.Figure(f"{name}, over the share", grown / share, "ratio")
    figures.write(args, [figures.Figure(name, grown, "MB"), over])


def _work(directory: Path) -> None:
    from babyllm.interop.huggingface import unread_model
    from babyllm.parallel.config import ParallelConfig
    from babyllm.parallel.distribute import prepare
    from babyllm.parallel.filling import fill
    from babyllm.runtime import RuntimeConfig, start

    values: dict[str, float] = {}
    with start(RuntimeConfig(device="cpu", dtype="float32", threads=1)) as runtime:
        model, weights = unread_model(directory)
        runtime.barrier()
        began = time.perf_counter()
        with ranks.peak(values, "in a reading"):
            fill(prepare(model, runtime, ParallelConfig("zero3")), weights)
        values["seconds"] = time.perf_counter() - began
        ranks.report(runtime, values)


if __name__ == "__main__":
    main()
