"""What a constraint costs: the time of a draw that is held to a JSON schema, beside a free draw and a whole token.

    python -m benchmarks.generation.constrained [--rounds 5] [--tokens 400]

Two shapes, the sample's and 135 M parameters, with byte-level tokenizers of 4,096 and up to 49,152 tokens, trained on
the sample corpus. The draws write a JSON list of texts of that corpus: scores are random, and the next token of the
text has a score that makes it certain. A whole token is one step of the engine with random weights.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

from babyllm.model.config import ModelConfig
from benchmarks import figures
from benchmarks.generation.generate import SHAPE

if TYPE_CHECKING:
    from babyllm.tokenizer import Tokenizer

SMALL = ModelConfig(
    n_layers=4, d_model=128, n_heads=4, n_kv_heads=2, d_ff=384, vocab_size=4096, max_seq_len=1024, tie_embeddings=True
)
SCHEMA = {"type": "array", "items": {"type": "string"}, "minItems": 5}


def of_draws(tokenizer: Tokenizer, vocab_size: int, ids: Sequence[int], is_held: bool) -> float:
    """Seconds per draw of these ids."""
    import torch

    from babyllm.generation.constraints.constraint import Constraint
    from babyllm.generation.constraints.matcher import matcher_of
    from babyllm.generation.sampling import Sampler, Sampling

    constraint = Constraint.of_schema(SCHEMA)
    matcher = matcher_of(constraint, tokenizer, [tokenizer.eos_id], vocab_size) if is_held else None
    sampler = Sampler(Sampling(temperature=1, seed=1), [], vocab_size, matcher)
    scores, seconds = torch.randn(vocab_size), 0.0
    for token in ids:
        sure = scores.index_fill(0, torch.tensor([token]), 1000.0)
        begin = time.perf_counter()
        drawn = sampler.draw(sure)
        seconds += time.perf_counter() - begin
        assert drawn.id == token
    return seconds / len(ids)


def of_steps(engine: Any, n_tokens: int) -> float:
    """Seconds per token of one answer without a constraint."""
    from babyllm.generation import Sampling

    engine.submit([1], Sampling(n_tokens, temperature=1, seed=1))
    engine.step()
    begin, n = time.perf_counter(), 0
    while not engine.is_idle:
        n += len(engine.step())
    return (time.perf_counter() - begin) / n


def measure(name: str, config: ModelConfig, texts: Sequence[str], args: Any) -> list[figures.Figure]:
    import torch

    from babyllm.generation import Engine
    from babyllm.model.transformer import Transformer
    from babyllm.tokenizer import Tokenizer

    tokenizer = Tokenizer.train(texts, config.vocab_size, model_type="byte_bpe", hard_vocab_limit=False)
    ids = tokenizer.encode(json.dumps(list(texts[:60]), ensure_ascii=False))[: args.tokens]
    torch.manual_seed(0)
    engine, extra, whole = Engine(Transformer(config), slots=1), list[float](), list[float]()
    for _ in range(args.rounds + 1):
        free, held = (of_draws(tokenizer, config.vocab_size, ids, is_held) for is_held in (False, True))
        extra.append(1e3 * (held - free))
        whole.append(1e3 * of_steps(engine, min(args.tokens, 100)))
    extra, whole = extra[1:], whole[1:]
    shares = [added / step for added, step in zip(extra, whole, strict=True)]
    print(
        f"{name}, {tokenizer.vocab_size:,} tokens: a schema adds {figures.spread(extra, 3)} ms to a token of "
        f"{figures.spread(whole)} ms, {median(shares):.1%} ({min(shares):.1%} to {max(shares):.1%})",
        flush=True,
    )
    return [
        figures.Figure(f"{name}: a schema adds to each token", median(extra), "ms"),
        figures.Figure(f"{name}: the same, over the time of a token", median(shares), "ratio"),
    ]


def main() -> None:
    parser = figures.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=400)
    args = figures.parse(parser, rounds=1, tokens=40)
    with figures.sample("raw.jsonl").open(encoding="utf-8") as lines:
        texts = [json.loads(line)["text"] for line in itertools.islice(lines, 20_000)]
    found = [*measure("sample", SMALL, texts, args), *measure("135 M", SHAPE, texts, args)]
    figures.write(args, found)


if __name__ == "__main__":
    main()
