"""Messages between ranks whose contents and sums are known: which link loses or changes them, which is slow."""

from __future__ import annotations

import time
from statistics import median
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from babyllm.doctor.products import synchronize
from babyllm.runtime import Runtime

_TURNS = 5
_PERIOD = 251  # a prime, so that no page of memory looks like another


class Link(NamedTuple):
    """Messages between two ranks, as both have seen them.

    Attributes:
        one: number of the lower rank.
        other: number of the higher rank.
        n_wrong: messages that arrived changed at either.
        speed: bytes per second in one direction.
    """

    one: int
    other: int
    n_wrong: int
    speed: float


class Sums(NamedTuple):
    """Sums over all ranks, as one rank has received them.

    Attributes:
        n: number of sums.
        n_wrong: sums with a wrong number.
        seconds: time of the median one.
    """

    n: int
    n_wrong: int
    seconds: float


def tested_links(runtime: Runtime, n_bytes: int) -> list[Link]:
    """Send messages between every pair of ranks, one pair at a time, and compare what arrives.

    Every rank must call it. A pair that does not get its message ends the run, after `runtime.timeout_s`, with a line
    that names both.

    Args:
        runtime: this rank.
        n_bytes: length of a message.

    Returns:
        The links of this rank with higher ones, and those with lower ones, whose `speed` is 0.
    """
    links = []
    for one in range(runtime.world_size):
        for other in range(one + 1, runtime.world_size):
            runtime.beat(one * runtime.world_size + other)
            if runtime.rank in (one, other):
                links.append(_link(runtime, one, other, n_bytes))
            runtime.barrier()
    return links


def _link(runtime: Runtime, one: int, other: int, n_bytes: int) -> Link:
    """Send a message there and back, several times."""
    is_first = runtime.rank == one
    peer = other if is_first else one
    mine, theirs = (pattern(rank, n_bytes, runtime.device) for rank in (runtime.rank, peer))
    times, n_wrong = list[float](), 0
    for turn in range(_TURNS + 1):
        received = torch.empty_like(mine)
        synchronize(runtime.device)
        began = time.perf_counter()
        for sends in (is_first, not is_first):
            if sends:
                send(mine, peer)
            else:
                dist.recv(received, peer)
        synchronize(runtime.device)
        if turn:  # the first one also opens the connection
            times.append((time.perf_counter() - began) / 2)
        n_wrong += not torch.equal(received, theirs)
    return Link(one, other, n_wrong, mine.nbytes / median(times) if is_first else 0.0)


def send(message: Tensor, peer: int) -> None:
    """Send a message to a rank, which is receiving it."""
    dist.send(message, peer)


def tested_sums(runtime: Runtime, n_bytes: int) -> Sums:
    """Sum over all ranks on the device several times, and compare with the known sum; every rank must call it."""
    n = runtime.world_size
    answer = pattern(0, n_bytes, runtime.device) * (n * (n + 1) // 2)
    times, n_wrong = list[float](), 0
    for turn in range(_TURNS + 1):
        runtime.beat(n * n + turn)
        numbers = pattern(0, n_bytes, runtime.device) * (runtime.rank + 1)
        synchronize(runtime.device)
        began = time.perf_counter()
        dist.all_reduce(numbers)
        synchronize(runtime.device)
        if turn:
            times.append(time.perf_counter() - began)
        n_wrong += not torch.equal(numbers, answer)
    return Sums(_TURNS + 1, n_wrong, median(times))


def pattern(rank: int, n_bytes: int, device: torch.device) -> Tensor:
    """Whole numbers that differ between ranks, (n_bytes / 4,) float32, below 256."""
    return (torch.arange(max(1, n_bytes // 4), device=device) * (rank + 1) + rank).remainder(_PERIOD).float()


def clock_offset(runtime: Runtime) -> float:
    """Seconds by which this machine's clock is ahead of that of rank 0; every rank must call it."""
    offset = 0.0
    for rank in range(1, runtime.world_size):
        if runtime.is_main:
            for _ in range(_TURNS):
                dist.send(torch.tensor([time.time()], dtype=torch.float64), rank)
                dist.recv(torch.empty(1, dtype=torch.float64), rank)
        elif runtime.rank == rank:
            offset = _asked_offset()
        runtime.barrier()
    return offset


def _asked_offset() -> float:
    """The offset measured in the fastest of several exchanges with rank 0, which sends its time."""
    found = []
    for _ in range(_TURNS):
        theirs = torch.empty(1, dtype=torch.float64)
        began = time.perf_counter()
        dist.recv(theirs, 0)
        mine = time.time()
        dist.send(theirs, 0)
        found.append((time.perf_counter() - began, mine - float(theirs)))
    return min(found)[1]
