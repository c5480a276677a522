"""How long a short prompt waits for its first token beside a long one that is being read.

    python benchmarks/first_token.py

A model of random weights (26 M parameters, context 4,096) in an engine of 4 slots, as in the server. A prompt of 16
tokens has the engine to itself; then others like it come at random moments while one of 3,900 tokens is read, several
times. Prints how long each takes to its first token, and one line of JSON.
"""

import json
import random
import statistics
import time

import torch

from babyllm.generation import Engine, Sampling
from babyllm.model.config import ModelConfig
from babyllm.model.transformer import Transformer

CONFIG = ModelConfig(
    n_layers=8, d_model=512, n_heads=8, n_kv_heads=4, d_ff=1376, vocab_size=4096, max_seq_len=4096, tie_embeddings=True
)
ONE = Sampling(temperature=0, max_new_tokens=1)
SHORT, LONG, ROUNDS = 16, 3900, 8


def prompt(length: int) -> list[int]:
    """Random tokens."""
    return torch.randint(0, CONFIG.vocab_size, (length,)).tolist()


def alone(engine: Engine, length: int) -> float:
    """Seconds to the first token of a prompt that has the engine to itself."""
    begin = time.perf_counter()
    engine.submit(prompt(length), ONE)
    while not engine.is_idle:
        engine.step()
    return time.perf_counter() - begin


def beside(engine: Engine, rng: random.Random) -> tuple[list[float], float]:
    """Seconds to the first token of short prompts that come while a long one is read, and of that."""
    waits = []
    begin = time.perf_counter()
    number = None
    long = engine.submit(prompt(LONG), ONE)
    arrival = time.perf_counter() + rng.uniform(0, 0.3)
    while True:
        if number is None and time.perf_counter() >= arrival:
            number = engine.submit(prompt(SHORT), ONE)  # it came while the last step was at work
        finished = {event.number for event in engine.step() if event.finish}
        now = time.perf_counter()
        if number in finished:
            waits.append(now - arrival)
            number, arrival = None, now + rng.uniform(0, 0.3)
        if long in finished:
            return waits, now - begin


def main() -> None:
    """Measure and print."""
    torch.manual_seed(0)
    model = Transformer(CONFIG).eval()
    engine = Engine(model, slots=4)
    alone(engine, SHORT)
    one = statistics.median(alone(engine, SHORT) for _ in range(20))
    whole = min(alone(engine, LONG) for _ in range(3))
    rounds = [beside(engine, random.Random(seed)) for seed in range(ROUNDS)]
    waits = [wait for waits, _ in rounds for wait in waits]
    result = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "threads": torch.get_num_threads(),
        "short_alone_ms": round(1e3 * one, 1),
        "short_beside_median_ms": round(1e3 * statistics.median(waits), 1),
        "short_beside_worst_ms": round(1e3 * max(waits), 1),
        "ratio_median": round(statistics.median(waits) / one, 2),
        "ratio_worst": round(max(waits) / one, 2),
        "n_short": len(waits),
        "long_alone_s": round(whole, 2),
        "long_beside_s": round(statistics.median(long for _, long in rounds), 2),
    }
    for name, value in result.items():
        print(f"{name:24} {value}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
