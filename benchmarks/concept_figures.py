"""What the pictures of docs/*/concepts show, computed by babyllm's own functions; drawn by `concept_pictures`."""

from __future__ import annotations

import math

from benchmarks.history import ROOT

SEED = 1


def unigram_losses(sizes: tuple[int, ...] = (1000, 1200, 1500, 2000)) -> list[tuple[int, float, float]]:
    """Vocabulary, nats per token and bits per byte of a model that knows how often each token occurs, for one text.

    The text is the Chinese README, and its tokenizers are trained on it. So the figures change when it does.
    """
    from collections import Counter

    from babyllm import Tokenizer

    text = (ROOT / "README.zh.md").read_text(encoding="utf-8")
    lines, n_bytes = text.splitlines(), len(text.encode())
    found = []
    for size in sizes:
        tokenizer = Tokenizer.train(iter(lines), size, n_threads=1)
        ids = tokenizer.encode(text)
        counts = Counter(ids)
        nats = -sum(n * math.log(n / len(ids)) for n in counts.values())
        found.append((tokenizer.vocab_size, nats / len(ids), nats / math.log(2) / n_bytes))
    return found


def gradient_errors(micro_batches: tuple[int, ...] = (32, 16, 8, 4, 2, 1)) -> list[tuple[int, float, float]]:
    """Micro-batch size, and the relative error of a step's gradient: by means of means, and by one division.

    The rows are 32 answers of 2 to 64 tokens; the true gradient is that of the mean over all their tokens.
    """
    import torch

    from babyllm import ModelConfig, Transformer
    from babyllm.data.batch import Batch
    from babyllm.objectives.lm import language_model

    torch.manual_seed(SEED)
    model = Transformer(ModelConfig(vocab_size=64, n_layers=2, d_model=32, n_heads=2, n_kv_heads=1, max_seq_len=64))
    lengths = torch.randint(1, 7, (32,)).exp2().long()
    tokens, targets = torch.randint(0, 64, (2, 32, 64))
    targets[torch.arange(64) >= lengths.unsqueeze(1)] = -100

    def gradient(size: int, *, by_means: bool) -> torch.Tensor:
        model.zero_grad()
        n_all, n_micro = int((targets != -100).sum()), 32 // size
        for i in range(0, 32, size):
            rows = {"tokens": tokens[i : i + size], "targets": targets[i : i + size]}
            n = int((rows["targets"] != -100).sum())
            total = language_model(model, Batch(rows, {"token": n})).sums["token"]
            (total / n / n_micro if by_means else total / n_all).backward()  # type: ignore[no-untyped-call]
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    true = gradient(32, by_means=False)
    error = {
        way: [float((gradient(m, by_means=way) - true).norm() / true.norm()) for m in micro_batches]
        for way in (True, False)
    }
    return list(zip(micro_batches, error[True], error[False], strict=True))


def lora_losses(ranks: tuple[int, ...] = (1, 2, 4, 8, 16), steps: int = 600) -> dict[int, list[float]]:
    """The loss over the steps of a linear layer of width 64 whose true update has rank 4, by the adapter's rank."""
    import torch
    from torch import nn

    from babyllm.model.linear import LoraLinear

    torch.manual_seed(SEED)
    base = nn.Linear(64, 64, bias=False)
    update = torch.randn(64, 4) @ torch.randn(4, 64) / 16
    x = torch.randn(512, 64)
    y = x @ (base.weight.detach() + update).T
    losses: dict[int, list[float]] = {}
    for rank in ranks:
        torch.manual_seed(SEED)
        layer = LoraLinear(base, "float32", rank, 2.0 * rank, rslora=False, dropout=0.0, lora_plus=1.0)
        optimizer = torch.optim.Adam([p for p in layer.parameters() if p.requires_grad], lr=5e-3)
        losses[rank] = []
        for _ in range(steps):
            loss = (layer(x) - y).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[rank].append(loss.item())
    return losses
