"""The seconds of a training step on this machine's CPU: each part of it is run for a moment, the blocks only twice.

a model of two blocks of the job's shape, a few rows -> with one block, with two -> x blocks -> seconds per token

The second block's time is that of each further one. Measured are the model's own passes and the optimizer's update, so
attention, norms, the output layer and Muon take part as they do in training. Reading data and records do not.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from babyllm.errors import UserError
from babyllm.model.config import flops_per_token
from babyllm.parallel.config import ParallelConfig
from babyllm.planning.job import Job, computed_flops
from babyllm.planning.training_memory import training_memory
from babyllm.runtime.machine import available_memory, keep_freed_memory

if TYPE_CHECKING:
    import torch

    from babyllm.model.transformer import Transformer

FLOPS = 6e10
"""What one measured pass may compute: half a second on two cores. Jobs with more have fewer rows, or shorter."""
FEWEST_TOKENS = 64
SECONDS, FEWEST_ROUNDS = 2.0, 3
CLIP_NORM = 1.0


class StepSeconds(NamedTuple):
    """The time of one process.

    Attributes:
        passes: seconds of a forward and a backward pass, per token.
        update: seconds of clipping and the optimizer, per step.
    """

    passes: float
    update: float


def small_job(job: Job) -> Job:
    """The job that is measured in place of another: two blocks, none of them every k-th, and few tokens."""
    kind = job.model.activation_checkpointing
    is_every = isinstance(kind, int) and int(kind) > 1
    model = replace(job.model, n_layers=2, activation_checkpointing=False if is_every else kind)
    tokens = max(FEWEST_TOKENS, int(FLOPS / flops_per_token(model, job.seq_len)))
    rows = max(1, min(job.micro_batch, tokens // job.seq_len))
    length = min(job.seq_len, tokens)
    return replace(job, model=model, micro_batch=rows, seq_len=length, passes=1, ranks=1, parallel=ParallelConfig())


def measure_step(job: Job, threads: int | None = None) -> StepSeconds:
    """Measure the parts of a step of `job`, at the lengths of `small_job`.

    Args:
        job: the job.
        threads: number of threads; None takes PyTorch's.

    Raises:
        UserError: this machine's memory is too short even for two blocks.
    """
    small = small_job(job)
    if (needed := sum(training_memory(small).values())) > (free := available_memory()):
        raise UserError(
            f"device=cpu: measuring two blocks takes {needed / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are "
            "free; name a GPU, or leave the device out to plan memory"
        )
    with _threads(threads):
        keep_freed_memory()  # as a run does
        one, two = _in_turns(_Steps(small))
    n_layers = job.model.n_layers
    further = n_layers - 1
    passes, update = (first + further * max(0.0, second - first) for first, second in zip(one, two, strict=True))
    as_long = replace(small, model=replace(small.model, n_layers=n_layers))
    return StepSeconds(passes * computed_flops(job) / computed_flops(as_long), update)


def _in_turns(steps: _Steps) -> tuple[StepSeconds, StepSeconds]:
    """Medians with one block and with two, which take turns."""
    found: tuple[list[StepSeconds], list[StepSeconds]] = ([], [])
    for n_layers in (1, 2):
        steps.run(n_layers)  # makes moments and tables
    deadline = time.perf_counter() + SECONDS
    while len(found[0]) < FEWEST_ROUNDS or time.perf_counter() < deadline:
        for n_layers in (1, 2):
            found[n_layers - 1].append(steps.run(n_layers))
    one, two = (StepSeconds(*(statistics.median(part) for part in zip(*rounds, strict=True))) for rounds in found)
    return one, two


@contextmanager
def _threads(n: int | None) -> Iterator[None]:
    """Another number of PyTorch's threads within the body."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(n or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Steps:
    """Steps of a small job."""

    def __init__(self, job: Job) -> None:
        import torch

        from babyllm.optim.build import make_optimizer

        with torch.random.fork_rng([]):
            self._job, self._model = job, _model(job)
        self._blocks = self._model.layers
        self._optimizer = make_optimizer(self._model, job.optim)
        ids = torch.arange(job.tokens).view(job.micro_batch, job.seq_len) % job.model.vocab_size
        self._tokens, self._documents = ids, torch.zeros_like(ids) if job.documents else None

    def run(self, n_layers: int) -> StepSeconds:
        """The seconds of one step of the model's first blocks."""
        import torch

        self._model.layers = self._blocks[:n_layers]
        began = time.perf_counter()
        with torch.autocast("cpu", self._dtype, enabled=self._dtype != torch.float32):
            loss = self._model(self._tokens, self._tokens, documents=self._documents).sum()
        torch.autograd.backward(loss)
        passed = time.perf_counter()
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), CLIP_NORM)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return StepSeconds((passed - began) / self._job.tokens, time.perf_counter() - passed)

    @property
    def _dtype(self) -> torch.dtype:
        import torch

        dtype: torch.dtype = getattr(torch, self._job.dtype)
        return dtype


def _model(job: Job) -> Transformer:
    """The model of a job, with small weights; the optimizer's rate is 0."""
    from babyllm.model.adapt.lora import LoraConfig, add_lora
    from babyllm.model.attention import set_attention
    from babyllm.model.transformer import Transformer

    model, lora = Transformer(job.model).train(), job.adapter
    if lora.rank:
        add_lora(model, LoraConfig(lora.rank, targets=lora.targets, base=lora.base, double_quant=lora.double_quant))
    set_attention(model, job.attention)
    return model
