"""Loss of the quick start's model at four times its context, after continued training with each stretching of RoPE.

    python -m benchmarks.learning.context [--factor 4] [--steps 150] [--base RUN]

The base is trained with rows of 128 tokens and a context of as many. Each arm continues it for the same steps with rows
`--factor` times as long: with rotary positions as they are, and with each method of `model.rope_scaling`. The loss is
the mean over the held-out text in windows of the new length, of the tokens that have more context before them than the
base was trained with, and of all; the base itself is measured there too, without any change.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks import figures
from benchmarks.history import ROOT

LENGTH = 128
METHODS = ("linear", "dynamic", "llama3", "yarn")


def main() -> None:
    parser = figures.parser(__doc__)
    parser.add_argument("--factor", type=int, default=4, help="new context length over the old one")
    parser.add_argument("--steps", type=int, default=150, help="steps of continued training")
    parser.add_argument("--base", type=Path, help="run directory of a base, in place of a new one")
    parser.add_argument("--ours", default="", help="flags of train_pretrain.py for the base")
    args = figures.parse(parser, steps=2, ours="--plan.steps=30")
    data = figures.sample("")
    measured: list[figures.Figure] = []
    with tempfile.TemporaryDirectory() as folder:
        base = args.base or _trained(Path(folder, "base"), f"--model.max_seq_len={LENGTH}", *args.ours.split())
        length = LENGTH * args.factor
        for name, flags in _arms(args).items():
            run = _trained(Path(folder, name), f"--init_from={base}", f"--data.seq_len={length}", *flags)
            measured += _measured(name, run, data, length)
        measured += _measured("base, unchanged", base, data, length)
    figures.write(args, measured)


def _arms(args: argparse.Namespace) -> dict[str, list[str]]:
    """The flags of each continued training, by name."""
    more = [f"--plan.steps={args.steps}", "--plan.peak_lr=1e-3", f"--data.global_batch={max(1, 16 // args.factor)}"]
    plain = [f"--model.max_seq_len={LENGTH * args.factor}"]
    stretched = {name: [f"--model.rope_scaling={name}", f"--model.rope_factor={args.factor}"] for name in METHODS}
    return {name: [*more, *flags] for name, flags in {"plain": plain, **stretched}.items()}


def _trained(run_dir: Path, *flags: str) -> Path:
    command = [sys.executable, "train_pretrain.py", f"--run_dir={run_dir}", "--prompts=[]", "--eval_every=0", *flags]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return run_dir


def _measured(name: str, run: Path, data: Path, length: int) -> list[figures.Figure]:
    """The mean nats of held-out tokens in windows of `length`: of those far from the beginning, and of all."""
    import torch

    from babyllm.loading import load
    from babyllm.model.options import ModelOptions
    from babyllm.store.shards import open_tokens

    # A longer context alone changes nothing of how a model reads.
    is_short = name.startswith("base")
    model = load(run, options=ModelOptions(max_seq_len=length if is_short else None))[0]
    tokens = open_tokens(data)
    nats = []
    for domain in tokens.domains("val"):
        stream = tokens.stream("val", domain)
        n_rows = (len(stream) - 1) // length
        ids = torch.from_numpy(stream.read(0, n_rows * length + 1))
        rows, targets = ids[:-1].view(n_rows, length), ids[1:].view(n_rows, length)
        with torch.inference_mode():
            for inputs, wanted in zip(torch.split(rows, 8), torch.split(targets, 8), strict=True):
                nats.append(model(inputs, wanted))
    losses = torch.cat(nats)
    far, whole = losses[:, LENGTH:].mean().item(), losses.mean().item()
    print(f"{name}: {far:.4f} after the first {LENGTH} tokens of {length}, {whole:.4f} in all", flush=True)
    return [
        figures.Figure(f"{name}, tokens after the first {LENGTH} of {length}", far, "nats per token"),
        figures.Figure(f"{name}, all tokens of {length}", whole, "nats per token"),
    ]


if __name__ == "__main__":
    main()
