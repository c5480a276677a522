"""Faults and what became of them, as plain values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["held", "detected", "harmless", "skipped", "failed"]
VERDICTS: tuple[Verdict, ...] = ("held", "detected", "harmless", "skipped", "failed")


class BrokenPromise(Exception):
    """Something that must hold did not; says what was done and what was seen."""


@dataclass(frozen=True)
class Fault:
    """What is done: everything random about it follows from the kind and the seed, but for the machine's own timing."""

    kind: str
    seed: int


@dataclass(frozen=True)
class Outcome:
    """What became of a fault.

    Attributes:
        verdict: held (the end is that of a run left alone), detected (one line named the file), harmless (the result
            is the undamaged one's), skipped (this machine cannot do it) or failed.
        why: what was done, and for a failure what was seen.
    """

    verdict: Verdict
    why: str = ""


def faults(weights: Mapping[str, int], first_seed: int) -> Iterator[Fault]:
    """Faults without end: seeds count up, and kinds take turns by weight, so that even the first few are mixed."""
    credit = dict.fromkeys(weights, 0)
    seed = first_seed
    while True:
        for kind, weight in weights.items():
            credit[kind] += weight
        kind = max(credit, key=lambda name: credit[name])
        credit[kind] -= sum(weights.values())
        yield Fault(kind, seed)
        seed += 1
