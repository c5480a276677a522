"""What fits a memory: the largest micro-batch, and changes that make a job fit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from babyllm.model.config import Checkpointing
from babyllm.planning.job import Adapter, Job
from babyllm.planning.training_memory import training_memory

USABLE = 0.85
"""Share of a device's memory to plan for. The rest is lost between blocks of the allocator and to kernels whose own
memory is not counted; a GPU's have not been measured."""
_MOST_TOKENS = 1 << 24


def peak(job: Job) -> float:
    """Bytes of one rank at the peak of a step."""
    return sum(training_memory(job).values())


def fits(job: Job, memory: float) -> bool:
    """Whether a job fits a memory in bytes."""
    return peak(job) <= USABLE * memory


def largest_micro_batch(job: Job, memory: float, most: int | None = None) -> int:
    """The most sequences of a forward pass that fit a memory in bytes; 0 if not even one does.

    Args:
        job: the job; its own micro-batch does not count.
        memory: bytes of a device.
        most: largest number to try.
    """
    low, high = 0, most or max(1, _MOST_TOKENS // job.seq_len)
    if fits(replace(job, micro_batch=high), memory):
        return high
    while high - low > 1:
        middle = (low + high) // 2 if low else min(high // 2, max(1, high // 64))
        if fits(replace(job, micro_batch=middle), memory):
            low = middle
        else:
            high = middle
    return low


def alternatives(job: Job, memory: float) -> Iterator[tuple[str, float]]:
    """Changes with each of which alone a job fits, as flags, with the bytes of its peak; the mildest first."""
    for flags, other in _changes(job, memory):
        if (needed := peak(other)) <= USABLE * memory:
            yield flags, needed


def _changes(job: Job, memory: float) -> Iterator[tuple[str, Job]]:
    """Changes that may make a job fit, as flags and jobs."""
    smaller = largest_micro_batch(job, memory, job.micro_batch)
    if 0 < smaller < job.micro_batch:
        yield f"--micro_batch={smaller}", replace(job, micro_batch=smaller)
    kinds: tuple[tuple[Checkpointing, str], ...] = (("selective", "selective"), (True, "true"))
    for value, word in kinds:
        if job.model.activation_checkpointing != value:
            model = replace(job.model, activation_checkpointing=value)
            yield f"--model.activation_checkpointing={word}", replace(job, model=model)
    if job.seq_len > 1:
        yield f"--seq_len={job.seq_len // 2}", replace(job, seq_len=job.seq_len // 2)
    if job.ranks > 1 and job.parallel.shard == "none":
        yield "--parallel.shard=zero3", replace(job, parallel=replace(job.parallel, shard="zero3"))
    one = replace(job, micro_batch=1, model=replace(job.model, activation_checkpointing=True))
    yield "--micro_batch=1 --model.activation_checkpointing=true", one
    if job.ranks > 1:
        sharded = replace(one, parallel=replace(job.parallel, shard="zero3"))
        yield "--micro_batch=1 --model.activation_checkpointing=true --parallel.shard=zero3", sharded
    if not job.adapter.rank:
        yield "--lora.rank=16", replace(job, adapter=Adapter(16))
        yield "--lora.rank=16 --lora.base=nf4", replace(job, adapter=Adapter(16, base="nf4"))
        both = replace(one, adapter=Adapter(16, base="nf4"))
        yield "--micro_batch=1 --model.activation_checkpointing=true --lora.rank=16 --lora.base=nf4", both
