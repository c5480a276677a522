"""Held-out bits per byte of the quick start, and of transformers' Trainer on the same shards in the same time.

    python -m benchmarks.learning.trainer [--seeds 1 2 3] [--lr 3e-3] [--ours="--plan.epochs=1.5"]

First `train_pretrain.py` runs with its defaults. The seconds of its whole command are then what the Trainer has for
training alone: the same model, rows of the same tokens in an order of its own, as many processes as babyllm took, fused
AdamW, clipping at norm 1 and the Trainer's linear decay. Its number of steps is chosen from the time of the first
`PROBE`. Both are scored by babyllm on the same held-out documents.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks import figures
from benchmarks.history import ROOT

MODULE = "benchmarks.learning.trainer"
PROBE = 40  # steps


def main() -> None:
    parser = figures.parser(__doc__)
    parser.add_argument("--seeds", type=int, nargs="*", default=[1, 2, 3])
    parser.add_argument("--lr", type=float, default=3e-3, help="the Trainer's highest learning rate")
    parser.add_argument("--batch", type=int, default=16, help="the Trainer's sequences of a step")
    parser.add_argument("--ours", default="", help="flags of train_pretrain.py")
    parser.add_argument("--worker", nargs=2, metavar=("SECONDS", "OUT"), help=argparse.SUPPRESS)
    args = figures.parse(parser, seeds=[1], ours="--plan.steps=30")
    if args.worker:
        _train(float(args.worker[0]), Path(args.worker[1]), args.seeds[0], args.lr, args.batch)
        return
    data = figures.sample("")
    ours, theirs = [], []
    for seed in args.seeds:
        with tempfile.TemporaryDirectory() as folder:
            bpb, seconds, n_ranks = _babyllm(Path(folder, "run"), seed, args.ours)
            ours.append(bpb)
            print(f"seed {seed}: babyllm {bpb:.3f} in {seconds:.0f} s", flush=True)
            theirs.append(_trainer(Path(folder, "trainer"), data, seed, seconds, n_ranks, args))
            print(f"seed {seed}: transformers' Trainer {theirs[-1]:.3f} in the same time", flush=True)
    share = mean(ours) / mean(theirs)
    print(f"means: {mean(ours):.3f} and {mean(theirs):.3f}, babyllm {1 - share:.1%} lower")
    found = {"babyllm": mean(ours), "transformers' Trainer": mean(theirs)}
    measured = [figures.Figure(f"held-out text, {name}", value, "bits per byte") for name, value in found.items()]
    figures.write(args, [*measured, figures.Figure("babyllm over transformers' Trainer", share, "ratio")])


def _babyllm(run_dir: Path, seed: int, flags: str) -> tuple[float, float, int]:
    """Bits per byte at the end, seconds of the whole command, and the number of its processes."""
    began = time.monotonic()
    command = [sys.executable, "train_pretrain.py", f"--run_dir={run_dir}", f"--plan.seed={seed}"]
    done = subprocess.run(
        [*command, f"--data.seed={seed}", *flags.split()], cwd=ROOT, check=True, capture_output=True, text=True
    )
    ranks = re.search(r" steps on (\d+) x", done.stdout)
    assert ranks
    return _bits_per_byte(done.stdout), time.monotonic() - began, int(ranks[1])


def _bits_per_byte(printed: str) -> float:
    return float(re.findall(r"bits per byte: .*all ([0-9.]+)", printed)[-1])


def _trainer(out: Path, data: Path, seed: int, seconds: float, n_ranks: int, args: argparse.Namespace) -> float:
    """Train with transformers for some seconds, then score what it saved; bits per byte."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={n_ranks}"]
    flags = [f"--seeds={seed}", f"--lr={args.lr}", f"--batch={args.batch}", "--worker", str(seconds), str(out)]
    threads = {"OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // n_ranks))}
    subprocess.run([sys.executable, *launcher, "-m", MODULE, *flags], cwd=ROOT, check=True, env=os.environ | threads)
    return _score(out, data)


def _score(model: Path, data: Path) -> float:
    from babyllm.evaluate import perplexity
    from babyllm.interop.huggingface import load_model
    from babyllm.runtime import RuntimeConfig, start
    from babyllm.store.shards import open_tokens
    from babyllm.tokenizer import Tokenizer

    with start(RuntimeConfig(device="cpu")) as runtime:
        lengths = Tokenizer.load(data).byte_lengths()
        return perplexity(load_model(model), open_tokens(data), runtime, seq_len=128, token_bytes=lengths)["all/bpb"]


def _train(seconds: float, out: Path, seed: int, lr: float, batch: int) -> None:
    """Train as one rank of transformers' Trainer, for about `seconds`, and save the model."""
    import torch
    import transformers

    from babyllm.model.options import PRESETS
    from babyllm.store.shards import open_tokens
    from benchmarks.training.peers import llama

    transformers.set_seed(seed)
    n_ranks = int(os.environ["WORLD_SIZE"])
    stream = open_tokens(figures.sample("")).stream("train")
    ids = torch.from_numpy(stream.read(0, len(stream)))
    rows = [{"input_ids": row, "labels": row} for row in ids[: len(ids) // 128 * 128].view(-1, 128)]
    initial = {name: value.clone() for name, value in llama(PRESETS["nano"], 256).state_dict().items()}

    def train(n_steps: int) -> tuple[Any, float]:
        model = llama(PRESETS["nano"], 256)
        model.load_state_dict(initial)
        arguments = transformers.TrainingArguments(
            output_dir=tempfile.mkdtemp(),
            per_device_train_batch_size=batch // n_ranks,
            max_steps=n_steps,
            learning_rate=lr,
            warmup_steps=min(50, n_steps // 10),
            weight_decay=0.1,
            adam_beta2=0.95,
            max_grad_norm=1.0,
            optim="adamw_torch_fused",
            seed=seed,
            use_cpu=True,
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
        )
        trainer = transformers.Trainer(model, arguments, train_dataset=rows)
        began = time.monotonic()
        trainer.train()
        return trainer, time.monotonic() - began

    train(2)  # the first steps of a process are slower
    _, probe = train(PROBE)
    n_steps = torch.tensor(round(seconds * PROBE / probe))
    if n_ranks > 1:
        torch.distributed.broadcast(n_steps, 0)
    trainer, taken = train(int(n_steps))
    if trainer.is_world_process_zero():
        print(f"transformers' Trainer: {int(n_steps)} steps of {batch} x 128 tokens in {taken:.0f} s", flush=True)
        trainer.save_model(str(out))


if __name__ == "__main__":
    main()
