"""What a run will take before it runs: memory by part, time, and what to choose for a budget. Loads no torch.

    Job(model, seq_len, micro_batch, ...)        one training job: shape, batch, optimizer, adapter, ranks, device
    training_memory(job) -> bytes by part        at the peak of a step
    offloaded_memory(job) -> bytes by part       of the CPU, for a device
    reading_memory(model, ...) -> bytes by part  of a model that writes
    largest_micro_batch(job, memory)             what fits; `alternatives` if nothing does
    gpu_speed(job, gpu), cpu_speed(job)          tokens per second, and what the number rests on
    plan_budget(flops)                           size and tokens for a budget

Memory is counted, not estimated: `events` takes and frees what the model's own passes take and free.
"""

from babyllm.planning.budget import Budget, plan_budget
from babyllm.planning.fitting import alternatives, fits, largest_micro_batch
from babyllm.planning.gpus import Gpu, find_gpu
from babyllm.planning.job import Adapter, Job
from babyllm.planning.offloaded_memory import offloaded_memory
from babyllm.planning.reading_memory import reading_memory
from babyllm.planning.speed import Speed, cpu_speed, gpu_speed
from babyllm.planning.training_memory import training_memory

__all__ = [
    "Adapter",
    "Budget",
    "Gpu",
    "Job",
    "Speed",
    "alternatives",
    "cpu_speed",
    "find_gpu",
    "fits",
    "gpu_speed",
    "largest_micro_batch",
    "offloaded_memory",
    "plan_budget",
    "reading_memory",
    "training_memory",
]
