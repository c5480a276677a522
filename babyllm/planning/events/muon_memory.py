"""The tensors of Muon's step, which exist when activations do not (`babyllm.optim.muon`)."""

from __future__ import annotations

import math
from collections import Counter

from babyllm.planning.events.ledger import Held, Ledger
from babyllm.planning.job import Job, Kind, block_matrices


def muon_step(job: Job, ledger: Ledger, device: Kind) -> None:
    """The events of a step: the matrices of one shape are orthogonalised together, one shape after another.

    Each matrix is orthogonalised by one rank; where the model is divided, that rank gathers it. `device` is where.
    """
    counts = Counter((m.outputs, m.inputs) for m in block_matrices(job.model).values())
    sizes = {shape: 4.0 * job.model.n_layers * n * math.prod(shape) for shape, n in counts.items()}
    total = sum(sizes.values())
    narrow = 0.5 if device == "cuda" else 1  # bfloat16 there
    found: list[Held] = []
    for shape, size in sizes.items():
        n = job.model.n_layers * counts[shape]
        mine = size * math.ceil(n / (job.ranks if job.is_replicated else job.shards)) / n
        gram = mine * min(shape) / max(shape)
        momenta = ledger.take("workspace", size / job.shards)
        parts = size / job.shards if job.shards > 1 else 0
        sent = ledger.take("communication", parts)
        received = ledger.take("communication", mine if parts else 0)
        stack = ledger.take("workspace", mine)
        if not parts:
            ledger.free(momenta)
        # The iterate and its product with the polynomial; x x^T and its polynomial.
        ledger.touch("workspace", narrow * 2 * (mine + gram))
        result = ledger.take("workspace", mine)
        ledger.free(sent, received, stack, result, momenta if parts else None)
        found.append(ledger.take("workspace", parts or mine))
    if job.is_replicated:
        ledger.touch("communication", total)
    ledger.free(*found)
