"""Generated tokens/s of babyllm's engine beside transformers' generate, with the same weights, prompts and type.

    python -m benchmarks.generation.generate [--rounds 5] [--batch 1 8] [--dtype float32 bfloat16]

Both answer the same random prompts greedily in one process and take turns, so that a machine whose speed drifts slows
both alike; ratios are medians over the turns. A decode step reads every weight once, so no implementation passes
bandwidth / bytes of the weights; the bandwidth is measured in every turn by summing a large tensor. Only babyllm holds
weights as int8: beside it transformers is float32, and tokens may differ.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable
from contextlib import nullcontext
from statistics import median
from typing import TYPE_CHECKING, Any

from babyllm.model.config import ModelConfig
from benchmarks import figures

if TYPE_CHECKING:
    import torch

    from babyllm.generation import Engine
    from babyllm.model.transformer import Transformer

SHAPE = ModelConfig(
    vocab_size=49152,
    n_layers=30,
    d_model=576,
    n_heads=9,
    n_kv_heads=3,
    d_ff=1536,
    max_seq_len=2048,
    tie_embeddings=True,
)

SHORT = {"float32": "fp32", "bfloat16": "bf16"}
Turn = tuple[float, float, list[list[int]]]  # seconds to the first token of all rows, seconds in all, answers


def main() -> None:
    parser = figures.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="turns of each contestant")
    parser.add_argument("--batch", type=int, nargs="*", default=[1, 8])
    parser.add_argument(
        "--dtype", nargs="*", default=["float32", "bfloat16", "int8"], choices=["float32", "bfloat16", "int8"]
    )
    parser.add_argument("--prompt", type=int, default=64, help="tokens of each prompt")
    parser.add_argument("--new", type=int, default=64, help="tokens of each answer")
    parser.add_argument("--threads", type=int, default=2)
    args = figures.parse(parser, rounds=1, new=4)
    import torch

    from babyllm.model.adapt.lora import to_int8

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    ours, theirs = models()
    print(f"{sum(p.numel() for p in ours.parameters()) / 1e6:.1f} M parameters, prompts of {args.prompt} tokens,")
    print(f"answers of {args.new}, {args.threads} threads, medians of {args.rounds} turns")
    print(f"{'':26}{'babyllm':>10}{'transformers':>14}{'ratio':>7}{'of the bound':>14}{'first token, ms':>22}")
    measured: list[figures.Figure] = []
    for dtype in args.dtype:
        theirs.to(dtype=torch.bfloat16 if dtype == "bfloat16" else torch.float32)
        mine = to_int8(copy.deepcopy(ours)) if dtype == "int8" else ours
        for batch in args.batch:
            measured += show(compare(mine, theirs, dtype, batch, args))
    figures.write(args, measured)


def models() -> tuple[Transformer, Any]:
    """Ours and transformers', with the same random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from babyllm.interop.hf_config import config_to_json
    from babyllm.model.transformer import Transformer

    ours = Transformer(SHAPE).eval()
    values = config_to_json(SHAPE, None) | {"eos_token_id": None, "bos_token_id": None, "pad_token_id": 0}
    config = LlamaConfig(**values)
    theirs: Any = LlamaForCausalLM(config)
    theirs.eval()
    state = {name if name == "lm_head.weight" else f"model.{name}": w for name, w in ours.state_dict().items()}
    theirs.load_state_dict(state)
    return ours, theirs


def compare(ours: Transformer, theirs: Any, dtype: str, batch: int, args: argparse.Namespace) -> dict[str, Any]:
    """Turns of both and of the bandwidth."""
    import torch

    from babyllm.generation import Engine

    prompts = torch.randint(0, SHAPE.vocab_size, (batch, args.prompt))
    context = args.prompt + args.new
    cast = torch.autocast("cpu", torch.bfloat16) if dtype == "bfloat16" else nullcontext()
    with cast:
        engine = Engine(ours, slots=batch, context=context)
    contestants: dict[str, Callable[[], Turn]] = {
        "babyllm": lambda: our_turn(engine, prompts, args.new),
        "transformers": lambda: their_turn(theirs, prompts, args.new),
    }
    turns: dict[str, list[tuple[float, float]]] = {name: [] for name in contestants}
    bandwidths, answers = [], {}
    large = torch.ones(2**27)
    for i in range(args.rounds + 1):
        for name, run in contestants.items():
            first, total, answers[name] = run()
            if i:  # the first turn warms up
                turns[name].append((first, total))
        start = time.perf_counter()
        large.sum()
        bandwidths.append(large.nbytes / (time.perf_counter() - start))
    n_bytes = weight_bytes(ours, dtype)
    same = sum(a == b for x, y in zip(*answers.values(), strict=True) for a, b in zip(x, y, strict=True))
    return {
        "dtype": dtype,
        "batch": batch,
        "new": args.new,
        "turns": turns,
        "bandwidth": median(bandwidths),
        "weight_bytes": n_bytes,
        "same_tokens": same / (batch * args.new),
    }


def weight_bytes(model: Transformer, dtype: str) -> int:
    """Bytes of weights that a decode step reads; of the embedding, where it is apart, it reads a row."""
    if dtype == "int8":
        return sum(p.nbytes for name, p in model.named_parameters() if "embed" not in name)
    return sum(p.numel() for p in model.parameters()) * (4 if dtype == "float32" else 2)


def our_turn(engine: Engine, prompts: torch.Tensor, n_new: int) -> Turn:
    from babyllm.generation import Sampling

    start, first = time.perf_counter(), 0.0
    numbers = [engine.submit(ids, Sampling(max_new_tokens=n_new, temperature=0)) for ids in prompts.tolist()]
    answers: dict[int, list[int]] = {number: [] for number in numbers}
    while not engine.is_idle:
        for number, token, *_ in engine.step():
            assert token is not None
            answers[number].append(token.id)
        if not first and all(answers.values()):
            first = time.perf_counter() - start
    return first, time.perf_counter() - start, list(answers.values())


def their_turn(model: Any, prompts: torch.Tensor, n_new: int) -> Turn:
    mask = prompts.new_ones(prompts.shape)
    start = time.perf_counter()
    model.generate(prompts, attention_mask=mask, max_new_tokens=1, do_sample=False)
    first = time.perf_counter() - start
    start = time.perf_counter()
    ids = model.generate(prompts, attention_mask=mask, max_new_tokens=n_new, do_sample=False)
    return first, time.perf_counter() - start, ids[:, prompts.shape[1] :].tolist()


def show(result: dict[str, Any]) -> list[figures.Figure]:
    """Print a line of the table; returns its figures."""
    turns, n_tokens = result["turns"], result["batch"] * result["new"]
    ours, theirs = (n_tokens / median(total for _, total in turns[name]) for name in ("babyllm", "transformers"))
    ratios = [b[1] / a[1] for a, b in zip(turns["babyllm"], turns["transformers"], strict=True)]
    step = median((total - first) / max(1, result["new"] - 1) for first, total in turns["babyllm"])
    share = result["weight_bytes"] / step / result["bandwidth"]
    first = [median(first for first, _ in turns[name]) * 1e3 for name in ("babyllm", "transformers")]
    name = f"{result['dtype']}, batch {result['batch']}"
    print(
        f"{name:26}{ours:>10.1f}{theirs:>14.1f}{median(ratios):>7.2f}{share:>14.0%}{first[0]:>12.0f} /{first[1]:>8.0f}"
    )
    print(f"{'':4}ratio {figures.spread(ratios)}, reads {result['bandwidth'] / 1e9:.1f} GB/s, ", end="")
    print(f"{result['same_tokens']:.1%} of the tokens are the same", flush=True)
    title = f"{SHORT.get(result['dtype'], result['dtype'])}, batch {result['batch']}"
    return [
        figures.Figure(title, ours, "tokens/s"),
        figures.Figure(f"{title}, over transformers.generate", median(ratios), "x"),
        figures.Figure(f"{title}, share of the read bound", share, "ratio"),
    ]


if __name__ == "__main__":
    main()
