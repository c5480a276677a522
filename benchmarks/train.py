"""Training tokens/s of babyllm beside transformers' Llama and beside the matrix products alone, in one run.

    python benchmarks/train.py [--rounds 8] [--steps 3] [--only NAME ...] [--json OUT.json]

Each contestant is a process of its own that trains the same shape on the same number of tokens with clipping and AdamW.
They take turns, a few steps each, so that a machine whose speed drifts slows all of them alike; rates are medians over
the turns. babyllm runs its real loop, loader included; "gemm" runs only the products of the linear layers, forward and
backward, and is what no implementation can pass.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

BATCH, SEQ_LEN, VOCAB = 16, 256, 8192
LAYERS, WIDTH, HEADS, KV_HEADS, FF = 6, 256, 4, 2, 704
TOKENS = BATCH * SEQ_LEN

CONTESTANTS = {
    "babyllm": ("babyllm", "auto", False),
    "babyllm compiled": ("babyllm", "auto", True),
    "babyllm bf16": ("babyllm", "bfloat16", False),
    "babyllm bf16 compiled": ("babyllm", "bfloat16", True),
    "babyllm fp32": ("babyllm", "float32", False),
    "transformers bf16": ("transformers", "bfloat16", False),
    "transformers fp32": ("transformers", "float32", False),
    "gemm bf16": ("gemm", "bfloat16", False),
    "gemm fp32": ("gemm", "float32", False),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=8, help="turns of each contestant")
    parser.add_argument("--steps", type=int, default=3, help="optimizer steps per turn")
    parser.add_argument("--only", nargs="*", default=list(CONTESTANTS), choices=list(CONTESTANTS))
    parser.add_argument("--json", type=Path, help="also write every turn's seconds here")
    parser.add_argument("--worker", nargs=3, metavar=("KIND", "DTYPE", "COMPILE"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        kind, dtype, compiled = args.worker
        WORKERS[kind](dtype, compiled == "True", args.steps)
        return
    workers = {name: _start(CONTESTANTS[name], args.steps) for name in args.only}
    facts = {name: _turn(worker) for name, worker in workers.items()}
    turns: dict[str, list[float]] = {name: [] for name in workers}
    waits: dict[str, list[float]] = {}
    for _ in range(args.rounds):
        for name, worker in workers.items():
            answer = _turn(worker)
            turns[name].append(answer["seconds"])
            if "waited" in answer:
                waits.setdefault(name, []).append(answer["waited"])
    for worker in workers.values():
        worker.kill()
    _report(turns, waits, facts, args.steps)
    if args.json:
        args.json.write_text(json.dumps({"turns_s": turns, "steps": args.steps, "facts": facts}, indent=1) + "\n")


def _report(turns: dict[str, list[float]], waits: dict[str, list[float]], facts: dict[str, Any], steps: int) -> None:
    print(f"{LAYERS} layers, width {WIDTH}, vocabulary {VOCAB}, {BATCH} x {SEQ_LEN} tokens, {steps} steps a turn")
    references = [name for name in ("transformers bf16", "transformers fp32") if name in turns]
    print(f"{'':24}{'tokens/s':>10}" + "".join(f"{'/ ' + name:>22}" for name in references) + "   notes")
    for name, seconds in turns.items():
        ratios = [median(r / s for r, s in zip(turns[ref], seconds, strict=True)) for ref in references]
        rate = TOKENS * steps / median(seconds)
        note = facts[name]["note"] + (f", waits {median(waits[name]):.2%} for data" if name in waits else "")
        print(f"{name:24}{rate:>10,.0f}" + "".join(f"{ratio:>22.2f}" for ratio in ratios) + f"   {note}")


def _start(contestant: tuple[str, str, bool], steps: int) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, "--steps", str(steps), "--worker", *map(str, contestant)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _turn(worker: subprocess.Popen[str]) -> dict[str, Any]:
    assert worker.stdin and worker.stdout
    worker.stdin.write("go\n")
    worker.stdin.flush()
    for line in worker.stdout:
        if line.startswith("{"):
            answer: dict[str, Any] = json.loads(line)
            return answer
    raise SystemExit("a contestant ended early; its error is above")


def _serve(turn: Callable[[], float], note: str) -> None:
    """Answer each line on stdin with a turn; the first turn warms up and answers with the note."""
    for i, _ in enumerate(sys.stdin):
        seconds = turn()
        print(json.dumps({"note": note} if i == 0 else {"seconds": seconds}), flush=True)


def _babyllm(dtype: str, compiled: bool, steps: int) -> None:
    import numpy as np

    import babyllm
    from babyllm.data.loader import Loader, Share
    from babyllm.data.order import Shuffled
    from babyllm.data.shard_writer import ShardWriter
    from babyllm.data.shards import open_tokens
    from babyllm.data.windows import Windows
    from babyllm.objectives.lm import language_model
    from babyllm.optim import OptimConfig, adamw
    from babyllm.runtime import RuntimeConfig, start
    from babyllm.training.state import Every, TrainState

    shape = babyllm.ModelConfig(VOCAB, LAYERS, WIDTH, HEADS, KV_HEADS, FF, max_seq_len=SEQ_LEN, tie_embeddings=True)
    with tempfile.TemporaryDirectory() as folder, start(RuntimeConfig(dtype=dtype, compile=compiled)) as runtime:  # type: ignore[arg-type]
        writer = ShardWriter(Path(folder, "tokens"), VOCAB, 2, "")
        writer.add(np.random.default_rng(0).integers(3, VOCAB, 1 << 21).tolist(), "random", "train", 1)
        writer.finish()
        rows = Windows(open_tokens(Path(folder, "tokens")).stream("train"), SEQ_LEN, 2)
        loader = Loader(Shuffled(rows, 0), Share(BATCH, BATCH), seed=0)
        model = babyllm.Transformer(shape).to(runtime.device)
        state = TrainState(model, adamw(model, OptimConfig()), runtime.scaler(), loader, runtime)
        turns = 0

        def report(state: TrainState) -> None:
            nonlocal turns
            busy_s, waited_s = state.take_times()
            note = f"{str(runtime.dtype).removeprefix('torch.')}"
            answer = {"note": note} if turns == 0 else {"seconds": busy_s, "waited": waited_s / busy_s}
            turns += 1
            print(json.dumps(answer), flush=True)
            if not sys.stdin.readline():
                state.stop_reason = "end of the benchmark"
            state.take_times()

        sys.stdin.readline()
        babyllm.train(state, language_model, babyllm.Plan(steps=1_000_000), [Every(steps, report, at_end=False)])


def _transformers(dtype: str, compiled: bool, steps: int) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=WIDTH,
        intermediate_size=FF,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        max_position_embeddings=SEQ_LEN,
        tie_word_embeddings=True,
        attn_implementation="sdpa",
        use_cache=False,
    )
    model = LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    tokens = torch.randint(3, VOCAB, (BATCH, SEQ_LEN))
    kind = getattr(torch, dtype)

    def turn() -> float:
        began = time.perf_counter()
        for _ in range(steps):
            with torch.autocast("cpu", torch.bfloat16, enabled=kind is torch.bfloat16):
                loss = model(input_ids=tokens, labels=tokens).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        return time.perf_counter() - began

    _serve(turn, f"{dtype} {'autocast' if kind is torch.bfloat16 else ''}")


def _gemm(dtype: str, compiled: bool, steps: int) -> None:
    import torch

    kind = getattr(torch, dtype)
    kv_width = WIDTH // HEADS * KV_HEADS
    shapes = [(WIDTH, WIDTH + 2 * kv_width), (WIDTH, WIDTH), (WIDTH, 2 * FF), (FF, WIDTH)] * LAYERS + [(WIDTH, VOCAB)]
    inputs = {k: torch.randn(TOKENS, k, dtype=kind) for k in {k for k, _ in shapes}}
    grads = {n: torch.randn(TOKENS, n, dtype=kind) for n in {n for _, n in shapes}}
    weights = {shape: torch.randn(shape[1], shape[0], dtype=kind) for shape in set(shapes)}

    @torch.no_grad()
    def turn() -> float:
        began = time.perf_counter()
        for _ in range(steps):
            for shape in shapes:
                x, g, w = inputs[shape[0]], grads[shape[1]], weights[shape]
                torch.nn.functional.linear(x, w)
                _ = g @ w
                _ = g.t() @ x
        return time.perf_counter() - began

    _serve(turn, "products of the linear layers only")


WORKERS = {"babyllm": _babyllm, "transformers": _transformers, "gemm": _gemm}

if __name__ == "__main__":
    main()
