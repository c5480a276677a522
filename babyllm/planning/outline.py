"""A whole plan as values: what the command prints, or writes as JSON.

Wanted -> outline -> a dictionary of JSON values -> lines
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from babyllm.errors import UserError
from babyllm.model.config import flops_per_token, parameter_counts
from babyllm.planning.budget import plan_budget, remark
from babyllm.planning.events.ledger import PARTS
from babyllm.planning.fitting import USABLE, alternatives, largest_micro_batch
from babyllm.planning.gpus import Gpu
from babyllm.planning.job import Job
from babyllm.planning.offloaded_memory import offloaded_memory
from babyllm.planning.speed import Speed, cpu_speed, gpu_speed
from babyllm.planning.training_memory import training_memory
from babyllm.schedule import Plan

GB = 1e9


@dataclass(frozen=True)
class Wanted:
    """What a plan is asked for.

    Attributes:
        job: the job.
        gpu: the GPU it runs on; None is this machine's CPU.
        is_measured: whether the speed of this machine's CPU is to be measured.
        memory: bytes of a device; None where nothing limits it.
        global_batch: sequences of an optimizer step over all ranks.
        tokens: number of tokens to train on; None is unknown.
        available: number of tokens that the data has; None is unknown.
        hours: hours to spend, or None.
        flops: FLOPs to spend, or None.
    """

    job: Job
    gpu: Gpu | None
    is_measured: bool
    memory: float | None
    global_batch: int
    tokens: float | None = None
    available: int | None = None
    hours: float | None = None
    flops: float | None = None


def outline(wanted: Wanted) -> dict[str, Any]:
    """The plan as JSON values: parameters, memory in bytes by part, what fits, speed, length and budget.

    Raises:
        UserError: a budget in hours needs a device.
    """
    job = wanted.job
    counts = parameter_counts(job.model)
    plan: dict[str, Any] = {
        "parameters": {**counts, "total": sum(counts.values())},
        "flops_per_token": flops_per_token(job.model, job.seq_len),
        "seq_len": job.seq_len,
        "micro_batch": job.micro_batch,
        "passes": job.passes,
        "ranks": job.ranks,
        "dtype": job.dtype,
        "device": wanted.gpu.name if wanted.gpu else job.device,
        "memory": {part: round(size) for part, size in training_memory(job).items()},
    }
    plan["memory"]["total"] = sum(plan["memory"].values())
    if outside := offloaded_memory(job):
        plan["cpu_memory"] = {part: round(size) for part, size in outside.items()}
        plan["cpu_memory"]["total"] = sum(plan["cpu_memory"].values())
    if wanted.memory is not None:
        plan["fit"] = _fit(job, wanted.memory, plan["memory"]["total"])
    speed = _speed(wanted)
    if speed:
        step = job.seq_len * wanted.global_batch
        plan["speed"] = {
            "tokens_per_s": speed.tokens_per_s,
            "seconds_per_step": speed.seconds(step),
            "flops_per_s": speed.flops,
            "basis": speed.basis,
        }
    if wanted.tokens is not None:
        plan["length"] = _length(wanted, speed)
    if wanted.hours is not None or wanted.flops is not None:
        plan["budget"] = _budget(wanted, speed)
    return plan


def _speed(wanted: Wanted) -> Speed | None:
    if wanted.gpu:
        return gpu_speed(wanted.job, wanted.gpu)
    return cpu_speed(wanted.job) if wanted.is_measured else None


def _fit(job: Job, memory: float, total: float) -> dict[str, Any]:
    """Whether the job fits a memory, its largest micro-batch, and changes that would make it fit."""
    most = largest_micro_batch(job, memory)
    fit: dict[str, Any] = {"memory": memory, "usable": USABLE * memory, "fits": total <= USABLE * memory}
    fit["largest_micro_batch"] = most
    if not fit["fits"]:
        fit["instead"] = [{"flags": flags, "bytes": round(size)} for flags, size in alternatives(job, memory)]
    return fit


def _length(wanted: Wanted, speed: Speed | None) -> dict[str, Any]:
    """Steps and hours for the tokens that are asked for."""
    assert wanted.tokens is not None
    rows = math.ceil(wanted.tokens / wanted.job.seq_len)
    steps = Plan(epochs=1.0).with_steps(rows, wanted.global_batch).n_steps
    length: dict[str, Any] = {
        "tokens": wanted.tokens,
        "steps": steps,
        "remark": remark(wanted.tokens, wanted.available),
    }
    if speed:
        length["hours"] = speed.seconds(steps * wanted.global_batch * wanted.job.seq_len) / 3600
    return length


def _budget(wanted: Wanted, speed: Speed | None) -> dict[str, Any]:
    """The size and the tokens for a budget."""
    flops = wanted.flops
    if flops is None:
        if speed is None:
            raise UserError("--hours: needs a --device, whose speed says what can be done in them")
        assert wanted.hours is not None
        flops = wanted.hours * 3600 * speed.flops
    budget = plan_budget(flops)
    best = budget.choices[0]
    return {
        "flops": flops,
        "parameters": budget.parameters,
        "tokens": budget.tokens,
        "presets": [
            {"preset": c.preset, "parameters": c.parameters, "tokens": c.tokens, "tokens_per_parameter": c.ratio}
            for c in budget.choices
        ],
        "remark": remark(best.tokens, wanted.available),
    }


def lines(plan: Mapping[str, Any]) -> Iterator[str]:
    """A plan from `outline` for people to read."""
    each = "each of " * (plan["ranks"] > 1) + (f"{plan['ranks']} ranks" if plan["ranks"] > 1 else "one process")
    yield (
        f"training memory of {each}, {plan['micro_batch']} x {plan['seq_len']} tokens in {plan['dtype']} "
        f"on {plan['device']}, at the peak of a step:"
    )
    yield from _parts(plan["memory"])
    if outside := plan.get("cpu_memory"):
        yield "memory of the CPU that each rank takes besides, by parallel.offload:"
        yield from _parts(outside)
    if plan["device"] == "cpu":
        yield "  a run on a CPU lets the C library keep freed memory: 1.1 to 1.6 times these parts may stay resident"
    if fit := plan.get("fit"):
        yield from _fit_lines(plan, fit)
    if speed := plan.get("speed"):
        yield f"speed: {speed['tokens_per_s']:,.0f} tokens/s, {speed['seconds_per_step']:.3g} s a step"
        yield f"  rests on {speed['basis']}"
    if length := plan.get("length"):
        hours = f", {_duration(length['hours'])}" if "hours" in length else "; --device says how long they take"
        yield f"length: {length['tokens']:,.0f} tokens, {length['steps']:,} steps{hours}; {length['remark']}"
    if budget := plan.get("budget"):
        yield from _budget_lines(budget)


def _parts(memory: Mapping[str, int]) -> Iterator[str]:
    for part, size in memory.items():
        if size:
            note = f"  ({PARTS[part]})" if part in PARTS else ""
            yield f"{part:<14}{size / GB:>9.3f} GB{note}"


def _fit_lines(plan: Mapping[str, Any], fit: Mapping[str, Any]) -> Iterator[str]:
    most = fit["largest_micro_batch"]
    yield (
        f"{'fits' if fit['fits'] else 'does not fit'} {fit['memory'] / GB:.1f} GB, of which {USABLE:.0%} count; "
        + (f"largest micro-batch: {most}" if most else "not even a micro-batch of 1 does")
    )
    for other in fit.get("instead", []):
        yield f"  {other['bytes'] / GB:>8.3f} GB with {other['flags']}"
    if not fit["fits"] and not fit["instead"]:
        yield "  no single change fits; take a smaller model, or more ranks with --parallel.shard=zero3"


def _budget_lines(budget: Mapping[str, Any]) -> Iterator[str]:
    yield (
        f"budget: {budget['flops']:.3g} FLOPs are best spent on {budget['parameters'] / 1e6:,.1f} M parameters and "
        f"{budget['tokens'] / 1e6:,.0f} M tokens (20 a parameter, Hoffmann et al. 2022); presets, nearest first:"
    )
    for choice in budget["presets"]:
        yield (
            f"  {choice['preset']:<6}{choice['parameters'] / 1e6:>9,.1f} M parameters"
            f"{choice['tokens'] / 1e6:>14,.0f} M tokens{choice['tokens_per_parameter']:>10,.1f} a parameter"
        )
    yield f"  {budget['remark']}"


def _duration(hours: float) -> str:
    """Hours as people say them."""
    if hours < 1:
        return f"{60 * hours:.1f} minutes"
    return f"{hours:.1f} hours" if hours < 72 else f"{hours / 24:.1f} days"
