"""Peak memory of a training step, by preset and by what the backward pass computes again.

    python -m benchmarks.training.memory [--presets nano tiny 92m 160m] [--rounds 1]
    python -m benchmarks.training.memory --plain_loss

Each configuration runs in a process of its own: a step on a few tokens, which allocates gradients and moments, then the
step that is measured. The peak is what the kernel counts as resident (VmHWM in /proc/self/status, reset before the
step), less what was resident before: weights, gradients and moments. So it holds activations and the temporary tensors
of loss and backward pass. The C library returns freed memory at once here, which a real run lets it keep. The peak is
then that of the tensors: torch's profiler counts the same to 2 MiB. Linux with glibc only.

`--plain_loss` compares with the same model, all logits at once and `cross_entropy`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from babyllm.model.config import parameter_counts
from babyllm.model.options import PRESETS, ModelOptions
from benchmarks import figures
from benchmarks.history import ROOT

KINDS: dict[str, Any] = {"none": False, "selective": "selective", "full": True}
BATCHES = {"nano": (16, 128), "tiny": (16, 256), "92m": (1, 1024), "160m": (1, 1024), "218m": (1, 1024)}
LOSS_SHAPE = ("92m", 16, 512)  # 8 layers of width 512, vocabulary 64,794
MODULE = "benchmarks.training.memory"


def main() -> None:
    parser = figures.parser(__doc__)
    parser.add_argument("--presets", nargs="+", default=["nano", "tiny", "92m", "160m"], choices=list(BATCHES))
    parser.add_argument("--plain_loss", action="store_true", help="compare with a plain loss, instead of presets")
    parser.add_argument("--rounds", type=int, default=1, help="processes per configuration; the least counts")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = figures.parse(parser, presets=["nano"])
    if args.worker:
        print(json.dumps(measured(*json.loads(args.worker))))
        return
    figures.write(args, against_plain_loss(args.rounds) if args.plain_loss else by_preset(args.presets, args.rounds))


def by_preset(presets: Iterable[str], rounds: int) -> list[figures.Figure]:
    """Memory and processor time of a step of each preset with each kind of checkpointing; prints a table."""
    found: list[figures.Figure] = []
    print("| preset, tokens | " + " | ".join(KINDS) + " |\n|---|" + "---|" * len(KINDS))
    for preset in presets:
        batch, seq_len = BATCHES[preset]
        cells = []
        for kind in KINDS:
            mib, seconds = least(preset, batch, seq_len, kind, "chunks", rounds)
            cells.append(f"{mib:,.0f} MiB, {seconds:.2f} s")
            name = f"{preset}, {batch} x {seq_len} tokens, checkpointing {kind}"
            found.append(figures.Figure(f"peak memory of a step, {name}", mib, "MiB"))
            found.append(figures.Figure(f"processor time of a step, {name}", seconds, "s"))
        print(f"| {preset}, {batch} x {seq_len} | " + " | ".join(cells) + " |", flush=True)
    return found


def against_plain_loss(rounds: int) -> list[figures.Figure]:
    """Peak memory with each kind of checkpointing over that of plain logits and cross-entropy; prints the shares.

    There are two shares: of the peak alone, and with 16 bytes per parameter for weights, gradients and moments.
    """
    preset, batch, seq_len = LOSS_SHAPE
    found: list[figures.Figure] = []
    state = 16 * sum(parameter_counts(PRESETS[preset]).values()) / 2**20
    plain, _ = least(preset, batch, seq_len, "none", "plain", rounds)
    print(f"{preset}, {batch} x {seq_len}: state {state:,.0f} MiB, plain loss {plain:,.0f} MiB", flush=True)
    for kind in KINDS:
        mib, _ = least(preset, batch, seq_len, kind, "chunks", rounds)
        shares = {"": mib / plain, ", state included": (mib + state) / (plain + state)}
        print(f"checkpointing {kind}: {mib:,.0f} MiB, {shares}", flush=True)
        for what, share in shares.items():
            name = f"{preset}, {batch} x {seq_len} tokens, checkpointing {kind}{what}"
            found.append(figures.Figure(f"peak memory over that of a plain loss, {name}", share, "ratio"))
    return found


def least(preset: str, batch: int, seq_len: int, kind: str, loss: str, rounds: int) -> tuple[float, float]:
    """The least peak in MiB and the least processor time in seconds, over some processes."""
    # Blocks of 64 KiB and more are memory of their own, which is returned to the system when a tensor is freed.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    command = [sys.executable, "-m", MODULE, "--worker", json.dumps([preset, batch, seq_len, kind, loss])]
    found = []
    for _ in range(rounds):
        done = subprocess.run(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, check=True, text=True)
        found.append(json.loads(done.stdout))
    return min(mib for mib, _ in found), min(seconds for _, seconds in found)


def measured(preset: str, batch: int, seq_len: int, kind: str, loss: str) -> tuple[float, float]:
    """The peak in MiB beyond weights, gradients and moments, and processor seconds of a step, in this process."""
    import torch
    from torch.nn import functional

    from babyllm.model.transformer import Transformer

    torch.manual_seed(1)
    model = Transformer(ModelOptions(preset, activation_checkpointing=KINDS[kind]).build(seq_len=seq_len)).train()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    ids = torch.randint(model.config.vocab_size, (batch, seq_len + 1))
    tokens, targets = ids[:, :-1], ids[:, 1:]

    def step(rows: slice, positions: slice) -> None:
        inputs, goals = tokens[rows, positions], targets[rows, positions]
        optimizer.zero_grad(set_to_none=False)
        if loss == "plain":
            logits = functional.linear(model(inputs, returns=("hidden",))["hidden"], model.lm_head.weight)
            torch.autograd.backward(functional.cross_entropy(logits.flatten(0, 1), goals.flatten()))
        else:
            torch.autograd.backward(model(inputs, goals).mean())
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    step(slice(1), slice(8))  # allocates gradients and moments
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # resets VmHWM
    began = time.process_time()
    step(slice(None), slice(None))
    return (resident("VmHWM") - before) / 1024, time.process_time() - began


def resident(name: str) -> int:
    """A line of /proc/self/status, in KiB."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


if __name__ == "__main__":
    main()
