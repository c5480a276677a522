"""How fast a job trains: FLOPs over the speed of products, of which it reaches a share.

GPU: the data sheet's peak x an assumed share (MFU). CPU: steps of two blocks of the job's own shape, measured here for
some seconds.
"""

from __future__ import annotations

from dataclasses import dataclass

from babyllm.model.config import flops_per_token
from babyllm.planning.gpus import Gpu
from babyllm.planning.job import Job, block_matrices, computed_flops, trained_counts
from babyllm.planning.measured_step import measure_step

MFU = 0.40
"""Share of a GPU's peak in useful FLOPs. Published: 0.56 (TinyLlama, 16 A100), 0.38 to 0.43 (Llama 3, Dubey et al.
2024, table 4), about 0.3 (nanoGPT, 124 M on 8 A100). Not measured with babyllm."""
GPU_BASIS = (
    f"the data sheet's peak x an assumed share of {MFU:.2f} (published runs: 0.3 to 0.56), and the optimizer's passes "
    "over memory; no time for communication or offload; not measured on this GPU"
)
BANDWIDTH_SHARE = 0.8  # of the data sheet's, which passes over memory reach
MUON_STEPS = 4
"""Polynomials of Muon's update, as in `babyllm.optim.muon`, which loads torch."""
CPU_BASIS = (
    "two blocks of this shape, its output layer and its optimizer, measured here now; no time for reading data, for "
    "evaluation and for saves"
)


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


def gpu_speed(job: Job, gpu: Gpu) -> Speed:
    """The speed of a job on `job.ranks` GPUs of a kind."""
    peak = gpu.flops32 if job.dtype == "float32" else gpu.flops16
    tokens = job.tokens * job.passes
    products = tokens * computed_flops(job) / (peak * MFU) + muon_flops(job) / job.ranks / (gpu.flops16 * MFU)
    # AdamW reads gradient, weight and two moments, and writes all but the gradient; Muon has one moment.
    counts = trained_counts(job)
    traffic = 28 * counts["adamw"] + 20 * counts["muon"]
    seconds = products + traffic / job.shards / (gpu.bandwidth * BANDWIDTH_SHARE)
    rate = job.ranks * tokens / seconds
    return Speed(rate, rate * flops_per_token(job.model, job.seq_len), GPU_BASIS)


def muon_flops(job: Job) -> float:
    """FLOPs of Muon's update of all matrices: X X', its square and the product with X, for each polynomial."""
    if not trained_counts(job)["muon"]:
        return 0.0
    sides = [sorted((m.inputs, m.outputs)) for m in block_matrices(job.model).values()]
    return MUON_STEPS * job.model.n_layers * sum(4.0 * r * r * c + 2.0 * r**3 for r, c in sides)


def cpu_speed(job: Job, threads: int | None = None) -> Speed:
    """The speed of a job on this machine's CPU, by a measurement; `threads` None takes PyTorch's number.

    Raises:
        UserError: as `measure_step`.
    """
    measured = measure_step(job, threads)
    seconds = measured.passes + measured.update / (job.tokens * job.passes * job.ranks)
    return Speed(1 / seconds, flops_per_token(job.model, job.seq_len) / seconds, CPU_BASIS)
