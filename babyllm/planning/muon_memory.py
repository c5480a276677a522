"""The tensors of Muon's step, which exist when activations do not (`babyllm.optim.muon`)."""

from __future__ import annotations

from collections import Counter

from babyllm.planning.job import Job, block_matrices
from babyllm.planning.ledger import Ledger


def muon_step(job: Job, ledger: Ledger) -> None:
    """The events of a step: the matrices of one shape are orthogonalised together, one shape after another."""
    shapes = Counter((m.outputs, m.inputs) for m in block_matrices(job.model).values())
    sizes = {shape: 4 * job.model.n_layers * n * shape[0] * shape[1] for shape, n in shapes.items()}
    total = sum(sizes.values())
    momenta = ledger.take("workspace", total / job.shards)
    found = []
    for (rows, columns), size in sizes.items():
        mine = size / job.ranks
        gram = mine * min(rows, columns) / max(rows, columns)
        # The stack; the iterate, its multiple, its product with the polynomial and their sum; x x^T and its polynomial.
        e = 0.5 if job.device == "cuda" else 1
        ledger.touch("workspace", mine + e * (4 * mine + gram))
        ledger.touch("workspace", mine + 2 * e * mine)
        found.append(ledger.take("workspace", mine))
    if job.is_replicated:
        ledger.touch("communication", 2 * total - sum(sizes.values()) / job.ranks)
    ledger.free(momenta, *found)
