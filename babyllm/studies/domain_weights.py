"""Weights of a mixture from held-out losses by domain: what a run still has to learn gets more weight.

reference run -> its losses at its end ---+
proxy run -> its losses at each evaluation +-> excess losses -> weights after each evaluation -> their mean

This is the second step of DoReMi (Xie et al. 2023, algorithm 1), with one difference. There, the weights of the proxy
change in every step, by the losses of that step's batch. Here, the proxy runs with fixed weights, and its losses are
those of its evaluations. `data.mix` therefore remains a constant of each run, the order of rows a pure function of seed
and row, and a run resumes exactly. A further proxy that runs with the result does what the online change would do.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from babyllm.errors import UserError
from babyllm.run_directory import meant_step
from babyllm.selection.numeric.doremi import DoReMiConfig, average, update
from babyllm.training.recording.records import read_metrics

_LOSS = re.compile(r"val/(.+)/loss")
_ALL = "all"


def doremi_weights(excess: NDArray[np.float64], *, eta: float = 1.0, smoothing: float = 1e-3) -> NDArray[np.float64]:
    """The mean over all evaluations of the weights of DoReMi (Xie et al. 2023, algorithm 1).

    Beginning with equal weights, each evaluation multiplies them by exp(eta * max(excess, 0)), divides by their sum,
    and mixes them with equal weights: (1 - smoothing) * weights + smoothing / D.

    Args:
        excess: (T, D) losses of the proxy minus those of the reference, in nats per token, at T evaluations of D
            domains.
        eta: step size.
        smoothing: share of equal weights.

    Returns:
        (D,) weights that add up to 1.
    """
    config, weights, history = DoReMiConfig(eta, smoothing), np.full(excess.shape[1], 1 / excess.shape[1]), []
    for row in np.maximum(excess, 0.0):
        weights = update(weights, row, config)
        history.append(weights)
    return average(np.array(history))


def excess_losses(proxy: Path, reference: Path) -> tuple[list[str], NDArray[np.float64]]:
    """The domains that both runs evaluate, and how much worse the proxy is than the finished reference.

    Args:
        proxy: run directory of the proxy.
        reference: run directory of the reference; its losses are those of the step that it stands for.

    Returns:
        The names of D domains, and (T, D) losses of the proxy at each of its T evaluations after step 0 minus those of
        the reference, in nats per token.

    Raises:
        UserError: a run has no records, or too few domains or evaluations.
    """
    of_reference = _evaluations(reference, _meant(reference))
    of_proxy = [(step, losses) for step, losses in _evaluations(proxy, None) if step > 0]
    for directory, found in ((reference, of_reference), (proxy, of_proxy)):
        if not found:
            raise UserError(f"{directory}: has no evaluation on held-out data; run it with --eval_every above 0")
    final, every = of_reference[-1][1], {domain for _, losses in of_proxy for domain in losses}
    domains = sorted((set(final) & every) - {_ALL})
    missing = sorted((set(final) ^ every) - {_ALL})
    if missing:
        raise UserError(f"{proxy} and {reference}: only one is evaluated on {', '.join(missing)}; use one data set")
    if len(domains) < 2:
        raise UserError(f"{reference}: has the domain {', '.join(domains) or 'all'} alone; a mixture needs two or more")
    whole = [losses for _, losses in of_proxy if all(domain in losses for domain in domains)]
    if not whole:
        raise UserError(f"{proxy}: has no evaluation with finite losses of {', '.join(domains)}; choose another run")
    return domains, np.array([[losses[domain] - final[domain] for domain in domains] for losses in whole], np.float64)


def _meant(directory: Path) -> int | None:
    step = meant_step(directory)
    return int(step.name.removeprefix("step_")) if step else None


def _evaluations(directory: Path, last: int | None) -> list[tuple[int, dict[str, float]]]:
    """(step, finite losses by domain) of each evaluation, up to the step `last`."""
    found = []
    for record in read_metrics(directory):
        losses = {m[1]: value for name, value in record.items() if (m := _LOSS.fullmatch(name)) and value is not None}
        step = int(record["step"] or 0)
        if losses and (last is None or step <= last):
            found.append((step, losses))
    return found


def rounded_mix(domains: Sequence[str], weights: NDArray[np.float64]) -> dict[str, float]:
    """The mixture as a value of `data.mix`: weights of four decimals, and none of them 0."""
    return {domain: max(1e-4, round(float(weight), 4)) for domain, weight in zip(domains, weights, strict=True)}


def as_configuration(mix: Mapping[str, float], comment: str) -> str:
    """The YAML of a configuration with this mixture, which `--config` reads, after a comment of one line."""
    import yaml

    text: str = yaml.safe_dump({"data": {"mix": dict(mix)}}, sort_keys=False, allow_unicode=True)
    return f"# {comment}\n{text}"
