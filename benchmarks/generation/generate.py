"""Generated tokens/s of babyllm's engine beside transformers' generate, with the same weights, prompts and type.

    python -m benchmarks.generation.generate [--rounds 5] [--batch 1 8] [--dtype float32 bfloat16]
    python -m benchmarks.generation.generate --device cuda [--preset 160m] [--batch 1 8 64]

Both answer the same random prompts greedily in one process and take turns, so that a machine whose speed drifts slows
both alike; ratios are medians over the turns. A decode step reads every weight once, so no implementation passes
bandwidth / bytes of the weights; the bandwidth is measured in every turn by summing a large tensor. Only babyllm holds
weights as int8: beside it transformers is float32, and tokens may differ. On a GPU transformers also decodes with a
static cache, for which it compiles the model.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable
from statistics import median
from typing import TYPE_CHECKING, Any

from babyllm.model.config import ModelConfig
from babyllm.model.options import PRESETS, ModelOptions
from babyllm.runtime.precision import reads_in
from benchmarks import figures
from benchmarks.training.ours import now

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

BYTES = {"float32": 4, "bfloat16": 2, "int8": 1}
SHORT = {"float32": "fp32", "bfloat16": "bf16"}
Turn = tuple[float, float, list[list[int]]]  # seconds to the first token of all rows, seconds in all, answers


def main() -> None:
    parser = figures.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="turns of each contestant")
    parser.add_argument("--batch", type=int, nargs="*", default=[1, 8])
    parser.add_argument("--dtype", nargs="*", choices=list(BYTES), help="default: all; on a GPU without int8")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--preset", choices=list(PRESETS), help="shape; default: a model of 135 M parameters")
    parser.add_argument("--prompt", type=int, default=64, help="tokens of each prompt")
    parser.add_argument("--new", type=int, default=64, help="tokens of each answer")
    parser.add_argument("--threads", type=int, default=2)
    args = figures.parse(parser, rounds=1, new=4)
    import torch

    from babyllm.model.adapt.lora import to_int8

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    device = torch.device(args.device)
    ours, theirs = models(ModelOptions(args.preset).build() if args.preset else SHAPE, device)
    print(f"{sum(p.numel() for p in ours.parameters()) / 1e6:.1f} M parameters, prompts of {args.prompt} tokens,")
    print(f"answers of {args.new}, {args.threads} threads, {device}, medians of {args.rounds} turns")
    print(f"{'':26}{'babyllm':>10}{'transformers':>14}{'ratio':>7}{'of the bound':>14}{'first token, ms':>22}")
    measured: list[figures.Figure] = []
    for dtype in args.dtype or [name for name in BYTES if name != "int8" or args.device == "cpu"]:
        theirs.to(dtype=torch.bfloat16 if dtype == "bfloat16" else torch.float32)
        mine = to_int8(copy.deepcopy(ours)) if dtype == "int8" else ours
        for batch in args.batch:
            measured += show(compare(mine, theirs, dtype, batch, args))
    figures.write(args, measured)


def models(shape: ModelConfig, device: torch.device) -> tuple[Transformer, Any]:
    """Ours and transformers', with the same random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from babyllm.interop.hf_config import config_to_json
    from babyllm.model.transformer import Transformer

    ours = Transformer(shape).eval()
    values = config_to_json(shape, None) | {"eos_token_id": None, "bos_token_id": None, "pad_token_id": 0}
    config = LlamaConfig(**values)
    theirs: Any = LlamaForCausalLM(config)
    theirs.eval()
    state = {name if name == "lm_head.weight" else f"model.{name}": w for name, w in ours.state_dict().items()}
    theirs.load_state_dict(state)
    return ours.to(device), theirs.to(device)


def compare(ours: Transformer, theirs: Any, dtype: str, batch: int, args: argparse.Namespace) -> dict[str, Any]:
    """Turns of both and of the bandwidth."""
    import torch

    from babyllm.generation import Engine

    device = torch.device(args.device)
    prompts = torch.randint(0, ours.config.vocab_size, (batch, args.prompt)).to(device)
    context = args.prompt + args.new
    with reads_in(device, torch.bfloat16 if dtype == "bfloat16" else torch.float32):
        engine = Engine(ours, slots=batch, context=context)
    contestants: dict[str, Callable[[], Turn]] = {
        "babyllm": lambda: our_turn(engine, prompts, args.new),
        "transformers": lambda: their_turn(theirs, prompts, args.new),
    }
    if device.type == "cuda":
        static = {"cache_implementation": "static"}
        contestants["transformers compiled"] = lambda: their_turn(theirs, prompts, args.new, static)
    turns: dict[str, list[tuple[float, float]]] = {name: [] for name in contestants}
    bandwidths, answers = [], {}
    large = torch.ones(2**27, device=device)
    for i in range(args.rounds + 1):
        for name, run in contestants.items():
            first, total, answers[name] = run()
            if i:  # the first turn warms up
                turns[name].append((first, total))
        start = now(device)
        large.sum()
        bandwidths.append(large.nbytes / (now(device) - start))
    n_bytes = weight_bytes(ours, dtype)
    pairs = zip(answers["babyllm"], answers["transformers"], strict=True)
    same = sum(a == b for x, y in pairs for a, b in zip(x, y, strict=True))
    return {
        "dtype": dtype,
        "batch": batch,
        "where": "" if device.type == "cpu" else f", {args.preset or '135 M'} on a GPU",
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
    return sum(p.numel() for p in model.parameters()) * BYTES[dtype]


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


def their_turn(model: Any, prompts: torch.Tensor, n_new: int, options: dict[str, Any] | None = None) -> Turn:
    mask = prompts.new_ones(prompts.shape)
    settings = {"attention_mask": mask, "do_sample": False, **(options or {})}
    start = now(prompts.device)
    model.generate(prompts, max_new_tokens=1, **settings)
    first = now(prompts.device) - start
    start = now(prompts.device)
    ids = model.generate(prompts, max_new_tokens=n_new, **settings)
    return first, now(prompts.device) - start, ids[:, prompts.shape[1] :].tolist()


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
    title = f"{SHORT.get(result['dtype'], result['dtype'])}, batch {result['batch']}{result['where']}"
    found = [
        figures.Figure(title, ours, "tokens/s"),
        figures.Figure(f"{title}, over transformers.generate", median(ratios), "x"),
        figures.Figure(f"{title}, share of the read bound", share, "ratio"),
    ]
    if compiled := turns.get("transformers compiled"):
        ratios = [b[1] / a[1] for a, b in zip(turns["babyllm"], compiled, strict=True)]
        print(f"{'':4}ratio {figures.spread(ratios)} to transformers with a static cache", flush=True)
        found.append(figures.Figure(f"{title}, over transformers.generate compiled", median(ratios), "x"))
    return found


if __name__ == "__main__":
    main()
