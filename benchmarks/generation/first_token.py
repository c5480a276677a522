"""How long a short prompt waits for its first token beside a long one that is being read.

    python -m benchmarks.generation.first_token [--rounds 8]

A model of random weights (26 M parameters, context 4,096) in an engine of 4 slots, as in the server. A prompt of 16
tokens has the engine to itself; then others like it come at random moments while one of 3,900 tokens is read, several
times. Prints how long each takes to its first token.
"""

from __future__ import annotations

import random
import statistics
import time
from typing import TYPE_CHECKING

from babyllm.model.config import ModelConfig
from benchmarks import figures

if TYPE_CHECKING:
    from babyllm.generation import Engine

CONFIG = ModelConfig(
    n_layers=8, d_model=512, n_heads=8, n_kv_heads=4, d_ff=1376, vocab_size=4096, max_seq_len=4096, tie_embeddings=True
)
SHORT, LONG = 16, 3900


def submit(engine: Engine, length: int) -> int:
    """The number of a prompt of random tokens, of which one more is wanted."""
    from babyllm.generation import Sampling

    prompt = [random.randrange(CONFIG.vocab_size) for _ in range(length)]
    return engine.submit(prompt, Sampling(temperature=0, max_new_tokens=1))


def alone(engine: Engine, length: int) -> float:
    """Seconds to the first token of a prompt that has the engine to itself."""
    begin = time.perf_counter()
    submit(engine, length)
    while not engine.is_idle:
        engine.step()
    return time.perf_counter() - begin


def beside(engine: Engine, rng: random.Random) -> tuple[list[float], float]:
    """Seconds to the first token of short prompts that come while a long one is read, and of that."""
    waits = []
    begin = time.perf_counter()
    number = None
    long = submit(engine, LONG)
    arrival = time.perf_counter() + rng.uniform(0, 0.3)
    while True:
        if number is None and time.perf_counter() >= arrival:
            number = submit(engine, SHORT)  # it came while the last step was at work
        finished = {event.number for event in engine.step() if event.finish}
        now = time.perf_counter()
        if number in finished:
            waits.append(now - arrival)
            number, arrival = None, now + rng.uniform(0, 0.3)
        if long in finished:
            return waits, now - begin


def main() -> None:
    """Measure and print."""
    parser = figures.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=8, help="long prompts")
    args = figures.parse(parser, rounds=1)
    import torch

    from babyllm.generation import Engine
    from babyllm.model.transformer import Transformer

    torch.manual_seed(0)
    engine = Engine(Transformer(CONFIG).eval(), slots=4)
    alone(engine, SHORT)
    one = statistics.median(alone(engine, SHORT) for _ in range(20))
    whole = min(alone(engine, LONG) for _ in range(min(3, args.rounds)))
    rounds = [beside(engine, random.Random(seed)) for seed in range(args.rounds)]
    waits = [wait for waits, _ in rounds for wait in waits]
    beside_s = statistics.median(waits)
    measured = [
        figures.Figure(f"{SHORT} tokens alone", 1e3 * one, "ms"),
        figures.Figure(f"{SHORT} tokens beside {LONG:,}, median", 1e3 * beside_s, "ms"),
        figures.Figure(f"{SHORT} tokens beside {LONG:,}, worst", 1e3 * max(waits), "ms"),
        figures.Figure(f"{SHORT} tokens beside {LONG:,}, median over alone", beside_s / one, "x"),
        figures.Figure(f"{SHORT} tokens beside {LONG:,}, worst over alone", max(waits) / one, "x"),
        figures.Figure(f"{LONG:,} tokens alone", whole, "s"),
        figures.Figure(f"{LONG:,} tokens beside short prompts", statistics.median(s for _, s in rounds), "s"),
    ]
    print(f"{torch.get_num_threads()} threads, {len(waits)} short prompts beside {args.rounds} long ones")
    for name, value, unit in measured:
        print(f"{name:44} {value:9.2f} {unit}")
    figures.write(args, measured)


if __name__ == "__main__":
    main()
