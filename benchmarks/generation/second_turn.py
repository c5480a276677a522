"""First token of a second turn beside that of the new turn alone, and what keeping keys and values costs a decode step.

    python -m benchmarks.generation.second_turn [--rounds 5] [--threads 2]

Models of random weights: the shape of the sample and that of SmolLM2-135M. After a conversation and its first answer
comes either the new turn alone or the second turn, which is the conversation and the new turn. The second turn comes
again with other words after another client's prompt, and in an engine that keeps nothing.
Engines with and without the cache also decode the same prompts, in turns. Ratios are medians over the rounds.
"""

from __future__ import annotations

import argparse
import random
import time
from statistics import median
from typing import TYPE_CHECKING

from babyllm.model.config import ModelConfig
from benchmarks import figures
from benchmarks.generation.generate import SHAPE

if TYPE_CHECKING:
    from babyllm.generation import Engine
    from babyllm.model.transformer import Transformer

SHAPES = {
    "sample": ModelConfig(
        n_layers=4,
        d_model=128,
        n_heads=4,
        n_kv_heads=2,
        d_ff=352,
        vocab_size=4096,
        max_seq_len=256,
        tie_embeddings=True,
    ),
    "135 M": SHAPE,
}
TURNS = {"sample": [(120, 20)], "135 M": [(300, 20), (1500, 20)]}
ANSWER = 24


def main() -> None:
    """Measure and print."""
    parser = figures.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="conversations of each kind")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--slots", type=int, nargs="*", default=[1, 8])
    args = figures.parse(parser, rounds=1, slots=[1])
    import torch

    from babyllm.model.transformer import Transformer

    torch.set_num_threads(args.threads)
    measured = []
    for name, shape in SHAPES.items():
        torch.manual_seed(0)
        model = Transformer(shape).eval()
        measured += [*turns(model, name, args), *decoding(model, name, args)]
    for title, value, unit in measured:
        print(f"{title:72} {value:9.2f} {unit}")
    figures.write(args, measured)


def turns(model: Transformer, name: str, args: argparse.Namespace) -> list[figures.Figure]:
    """First tokens of second turns."""
    from babyllm.generation import Engine

    keeping, forgetting, rng = Engine(model, slots=4), Engine(model, slots=4, cached_tokens=0), random.Random(0)
    measured = []
    for n_history, n_new in TURNS[name]:
        times: list[tuple[float, ...]] = []
        for i in range(args.rounds + 1):
            other, *new = (prompt(model.config, n_new, rng) for _ in range(3))
            answered(keeping, [prompt(model.config, n_history, rng)], ANSWER)  # what is measured follows the same work
            alone = answered(keeping, [prompt(model.config, n_new, rng)], 1)[0]
            history = prompt(model.config, n_history, rng)
            _, answer = answered(keeping, [history], ANSWER)
            second = answered(keeping, [[*history, *answer[0], *new[0]]], 1)[0]
            answered(keeping, [other], 1)
            conversation = [*history, *answer[0], *new[1]]
            copied = answered(keeping, [conversation], 1)[0]
            if i:  # the first turn warms up
                times.append((alone, second, copied, answered(forgetting, [conversation], 1)[0]))
        title = f"{name}, {n_new} tokens after {n_history + ANSWER:,}"
        kinds = "alone", "second turn", "second turn after another client's", "second turn without the cache"
        for kind, column in zip(kinds, zip(*times, strict=True), strict=True):
            measured.append(figures.Figure(f"{title}, {kind}", 1e3 * median(column), "ms"))
        for i, kind in enumerate(kinds[1:3], 1):
            ratio = median(each[i] / each[0] for each in times)
            measured.append(figures.Figure(f"{title}, {kind} over alone", ratio, "x"))
    return measured


def decoding(model: Transformer, name: str, args: argparse.Namespace) -> list[figures.Figure]:
    """Tokens per second with the cache over those without."""
    from babyllm.generation import Engine

    measured = []
    for slots in args.slots:
        keeping, forgetting = Engine(model, slots=slots), Engine(model, slots=slots, cached_tokens=0)
        ratios, rng = [], random.Random(0)
        for i in range(args.rounds + 1):
            prompts = [prompt(model.config, 64, rng) for _ in range(slots)]
            seconds = [answered(engine, prompts, 64)[0] for engine in (keeping, forgetting)]
            if i:
                ratios.append(seconds[1] / seconds[0])
        measured.append(figures.Figure(f"{name}, {slots} slots, tokens/s over without the cache", median(ratios), "x"))
    return measured


def prompt(config: ModelConfig, n: int, rng: random.Random) -> list[int]:
    """Random tokens."""
    return [rng.randrange(config.vocab_size) for _ in range(n)]


def answered(engine: Engine, prompts: list[list[int]], n_new: int) -> tuple[float, list[list[int]]]:
    """Seconds for the whole answers to prompts, and the answers."""
    from babyllm.generation import Sampling

    begin = time.perf_counter()
    answers: dict[int, list[int]] = {
        engine.submit(ids, Sampling(temperature=0, max_new_tokens=n_new)): [] for ids in prompts
    }
    while not engine.is_idle:
        for event in engine.step():
            if event.token is not None:
                answers[event.number].append(event.token.id)
    return time.perf_counter() - begin, list(answers.values())


if __name__ == "__main__":
    main()
