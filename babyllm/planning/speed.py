"""How fast a job trains: FLOPs over the speed of products, of which it reaches a share.

GPU: the data sheet's peak x an assumed share (MFU). CPU: the products of the job's own shape, measured here for less
than a second, over the share of a step that they take in this project's benchmarks.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from babyllm.model.config import flops_per_token, parameter_counts
from babyllm.planning.gpus import Gpu
from babyllm.planning.job import Job, block_matrices, recomputed_blocks, trained_counts

MFU = 0.40
"""Share of a GPU's peak in useful FLOPs. Published: 0.56 (TinyLlama, 16 A100), 0.38 to 0.43 (Llama 3, Dubey et al.
2024, table 4), about 0.3 (nanoGPT, 124 M on 8 A100). Not measured with babyllm."""
GPU_BASIS = (
    f"the data sheet's peak x an assumed share of {MFU:.2f} (published runs: 0.3 to 0.56), and the optimizer's passes "
    "over memory; no time for communication or offload; not measured on this GPU"
)
BANDWIDTH_SHARE = 0.8  # of the data sheet's, which passes over memory reach
SHARES = {128: 0.62, 256: 0.71, 512: 0.78}
"""Share of a step that is products of linear layers, by width (rows as long as the model is wide): benchmarks, training
at the shapes quick, small and large in fp32, 2 cores of an Intel Xeon, 2026-11-28 (benchmarks/history.jsonl)."""
CPU_BASIS = (
    "products of this shape, measured here now, over their share of a step in this project's benchmarks "
    "(0.62 at width 128 to 0.78 at 512)"
)
_MEASURED_TOKENS, _SECONDS = 512, 0.6


@dataclass(frozen=True)
class Speed:
    """The speed of a job on all its devices.

    Attributes:
        tokens_per_s: tokens per second.
        flops: useful FLOP/s, those of `flops_per_token`.
        basis: what the numbers rest on, in a sentence.
    """

    tokens_per_s: float
    flops: float
    basis: str

    def seconds(self, tokens: float) -> float:
        """Seconds for a number of tokens."""
        return tokens / self.tokens_per_s


def computed_flops(job: Job) -> float:
    """FLOPs per token that are computed: with blocks that are computed again, without gradients of frozen weights."""
    useful = flops_per_token(job.model, job.seq_len)
    outside = 6.0 * job.model.vocab_size * job.model.d_model
    again = recomputed_blocks(job.model.activation_checkpointing, job.model.n_layers)
    total = useful + (useful - outside) / 3 * sum(again) / job.model.n_layers
    if job.adapter.rank:  # a third of the products of frozen weights is their gradient
        total -= 2.0 * (parameter_counts(job.model)["attention"] + parameter_counts(job.model)["mlp"])
        total -= outside / 3
    return total


def gpu_speed(job: Job, gpu: Gpu) -> Speed:
    """The speed of a job on `job.ranks` GPUs of a kind."""
    peak = gpu.flops32 if job.dtype == "float32" else gpu.flops16
    tokens = job.tokens * job.passes
    products = tokens * computed_flops(job) / (peak * MFU)
    # AdamW reads gradient, weight and two moments, and writes all but the gradient; Muon has one moment.
    counts = trained_counts(job)
    traffic = 28 * counts["adamw"] + 20 * counts["muon"]
    seconds = products + traffic / job.shards / (gpu.bandwidth * BANDWIDTH_SHARE)
    rate = job.ranks * tokens / seconds
    return Speed(rate, rate * flops_per_token(job.model, job.seq_len), GPU_BASIS)


def cpu_speed(job: Job, threads: int | None = None) -> Speed:
    """The speed of a job on this machine's CPU, by a measurement; `threads` None takes PyTorch's number."""
    linear = products_seconds(job, threads)
    share = products_share(job.model.d_model)
    flops, of_linear = computed_flops(job), flops_per_token(job.model, 0)
    # The benchmarks' rows are as long as the model is wide; longer rows add attention.
    usual = flops_per_token(job.model, job.model.d_model)
    seconds = linear / share * (1 + max(-0.5, (flops - usual) / of_linear))
    return Speed(1 / seconds, flops_per_token(job.model, job.seq_len) / seconds, CPU_BASIS)


def products_share(width: int) -> float:
    """The share of a step that products take, between and beyond the measured widths by the width's logarithm."""
    widths = sorted(SHARES)
    at = min(max(math.log2(width), math.log2(widths[0]) - 1), math.log2(widths[-1]) + 0.5)
    low = widths[0] if at < math.log2(widths[1]) else widths[1]
    slope = SHARES[2 * low] - SHARES[low]
    return SHARES[low] + slope * (at - math.log2(low))


def products_seconds(job: Job, threads: int | None = None) -> float:
    """Seconds per token of the linear layers' products, forward and backward, measured on this machine."""
    import torch

    model, dtype = job.model, getattr(torch, job.dtype)
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    sizes = [(m.inputs, m.outputs, model.n_layers) for m in block_matrices(model).values()]
    sizes.append((model.d_model, model.vocab_size, 1))
    rows = min(_MEASURED_TOKENS, job.tokens)
    total = 0.0
    try:
        with torch.no_grad():
            for inputs, outputs, times in sizes:
                x, g, w = (
                    torch.ones(shape, dtype=dtype) for shape in ((rows, inputs), (rows, outputs), (outputs, inputs))
                )
                best, deadline = math.inf, time.perf_counter() + _SECONDS / len(sizes)
                while best == math.inf or time.perf_counter() < deadline:
                    began = time.perf_counter()
                    _ = x @ w.T, g @ w, g.T @ x
                    best = min(best, time.perf_counter() - began)
                total += times * best
    finally:
        torch.set_num_threads(before)
    return total / rows
