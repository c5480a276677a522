"""Anonymous memory that reading the base of an adapter takes, by the storage of its weights.

    python -m benchmarks.interop.base_memory [--preset 1b] [--rounds 1]

A model of random weights is written in float16, a file for each block. Each reading is a process of its own. It notes
RssAnon of /proc/self/status after the imports, reads the model, and notes the highest and the last RssAnon meanwhile.
Both are shown above that after the imports, over the size of the model in float16. The C library keeps freed memory as
it likes, as in a real run. Pages of the files themselves are not anonymous: the system drops them when it needs memory.
Linux only.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from babyllm.model.config import parameter_counts
from babyllm.model.options import PRESETS
from benchmarks import figures
from benchmarks.history import ROOT

STORAGES = ("nf4_double", "nf4", "int8", "bfloat16", "float32")
MODULE = "benchmarks.interop.base_memory"
_INTERVAL_S = 0.002


def main() -> None:
    parser = figures.parser(__doc__)
    parser.add_argument("--preset", default="1b", choices=list(PRESETS))
    parser.add_argument("--rounds", type=int, default=1, help="processes for each storage; the highest counts")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    args = figures.parse(parser, preset="nano")
    if args.worker:
        print(json.dumps(measured(Path(args.worker[0]), args.worker[1])))
        return
    mib = 2 * sum(parameter_counts(PRESETS[args.preset]).values()) / 2**20
    found: list[figures.Figure] = []
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder), args.preset)
        print(
            f"{args.preset} in float16: {mib:,.0f} MiB\n\n| storage | peak | at the end | seconds |\n|---|---|---|---|"
        )
        for storage in STORAGES:
            peak, end, seconds = highest(Path(folder), storage, args.rounds)
            print(
                f"| {storage} | {peak:,.0f} MiB, {peak / mib:.2f} | {end:,.0f} MiB, {end / mib:.2f} | {seconds:.1f} |"
            )
            for what, value in (("peak of", peak), ("memory after", end)):
                name = f"{what} reading {args.preset} as {storage}, over its float16 size"
                found.append(figures.Figure(name, value / mib, "ratio"))
    figures.write(args, found)


def write_model(directory: Path, preset: str, dtype: str = "float16") -> None:
    """Write a model directory of random weights, one block in memory at a time."""
    import torch
    from safetensors.torch import save_file

    from babyllm.interop.hf_config import config_to_json
    from babyllm.interop.weights import hf_name
    from babyllm.model.transformer import Transformer

    torch.manual_seed(1)
    with torch.device("meta"):
        model = Transformer(PRESETS[preset])
    (directory / "config.json").write_text(json.dumps(config_to_json(model.config, None)), encoding="utf-8")
    parts: dict[str, dict[str, torch.Size]] = {}
    for name, parameter in model.named_parameters():
        block = ".".join(name.split(".")[:2]) if name.startswith("layers.") else "others"
        parts.setdefault(block, {})[hf_name(name)] = parameter.shape
    for i, shapes in enumerate(parts.values(), 1):
        tensors = {name: torch.randn(shape).mul_(0.02).to(getattr(torch, dtype)) for name, shape in shapes.items()}
        save_file(tensors, directory / f"model-{i:05}-of-{len(parts):05}.safetensors")


def highest(directory: Path, storage: str, rounds: int) -> tuple[float, float, float]:
    """The highest peak and end in MiB, and the least seconds, over some processes."""
    command = [sys.executable, "-m", MODULE, "--worker", str(directory), storage]
    found = []
    for _ in range(rounds):
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True, text=True)
        found.append(json.loads(done.stdout))
    peaks, ends, seconds = zip(*found, strict=True)
    return max(peaks), max(ends), min(seconds)


def measured(directory: Path, storage: str) -> tuple[float, float, float]:
    """Peak and end in MiB above the memory after the imports, and processor seconds, in this process."""
    from babyllm.interop.huggingface import load_model

    before, peak, is_read = anonymous(), [0], threading.Event()

    def watch() -> None:
        while not is_read.wait(_INTERVAL_S):
            peak[0] = max(peak[0], anonymous())

    watching = threading.Thread(target=watch)
    watching.start()
    began = time.process_time()
    model = load_model(directory, storage=storage)  # type: ignore[arg-type]
    seconds, end = time.process_time() - began, anonymous()
    is_read.set()
    watching.join()
    assert model.layers
    return (max(*peak, end) - before) / 1024, (end - before) / 1024, seconds


def anonymous() -> int:
    """RssAnon of this process, in KiB."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))


if __name__ == "__main__":
    main()
