"""Predict a run's memory by part and its time, what fits a device, and the size and tokens for a budget."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from babyllm.config.values import AnyCount, Count, Members, PathText, Positive, expand_paths
from babyllm.errors import UserError
from babyllm.interop.compatibility import remarks
from babyllm.model.config import flops_per_token, parameter_counts
from babyllm.model.options import ModelOptions
from babyllm.optim.config import OptimConfig
from babyllm.parallel.config import ParallelConfig
from babyllm.planning.job import Adapter

if TYPE_CHECKING:
    from babyllm.model.config import ModelConfig
    from babyllm.planning.gpus import Gpu
    from babyllm.planning.job import Job, Number

ARGUMENTS = ""


@dataclass(frozen=True)
class Flags:
    """Flags of `babyllm plan`.

    Attributes:
        model: the model to plan.
        seq_len: tokens per sequence; null takes the model's max_seq_len.
        micro_batch: sequences per rank and forward pass; null takes the most that fit the memory, at most a rank's
            share of global_batch.
        global_batch: sequences per optimizer step, over all ranks; null takes a micro-batch for each rank.
        processes: number of processes, one per device.
        device: name of a GPU, such as A100, "RTX 4090" or 3090; cpu measures the speed of this machine's processor,
            which takes some seconds; null plans the memory of a CPU, without its speed.
        memory_gb: memory of a device in GB, where it is not that of the GPU's data sheet.
        dtype: type of the numbers in matrix products; auto is bfloat16 on a GPU that has it, float16 on other GPUs, and
            float32 on a CPU.
        attention: how attention is computed, as runtime.attention.
        mask_documents: whether attention is masked by documents, as data.mask_documents.
        lora: low-rank adaptation of a trained model.
        tokens: number of tokens to train on.
        data: directory of token data; its number of tokens is used in place of tokens.
        epochs: number of passes over data.
        hours: budget in hours on the device: the size and the tokens to choose.
        flops: budget in floating-point operations, in place of hours.
        slots: requests that run together, to plan the memory of a model that writes; 0 plans training alone.
        int8: whether that model's matrices are held in 8 bits.
        json: whether to print JSON, with bytes and seconds.
    """

    model: ModelOptions = field(default_factory=ModelOptions)
    seq_len: Members | None = None
    micro_batch: Members | None = None
    global_batch: Members | None = None
    processes: Count = 1
    device: str | None = None
    memory_gb: Positive | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    attention: Literal["fused", "blocks"] = "fused"
    mask_documents: bool = False
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(matrices="muon"))
    lora: Adapter = field(default_factory=Adapter)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    tokens: Count | None = None
    data: PathText | None = None
    epochs: Positive = 1.0
    hours: Positive | None = None
    flops: Positive | None = None
    slots: AnyCount = 0
    int8: bool = False
    json: bool = False

    def __post_init__(self) -> None:
        """Expand `~` in paths."""
        expand_paths(self)


def run(flags: Flags) -> None:
    """Print a run's memory by part, its time, what fits a device, and the size and tokens for a budget."""
    from babyllm.planning.gpus import find_gpu
    from babyllm.planning.outline import Wanted, lines, outline

    available = _tokens_in(flags.data)
    gpu = None if flags.device in (None, "cpu") else find_gpu(str(flags.device))
    memory = flags.memory_gb * 1e9 if flags.memory_gb else gpu.memory if gpu else None
    config = flags.model.build(seq_len=flags.seq_len or 0)
    job, global_batch = _job(flags, config, gpu, memory)
    tokens = available * flags.epochs if available else flags.tokens
    wanted = Wanted(job, gpu, flags.device == "cpu", memory, global_batch, tokens, available, flags.hours, flags.flops)
    plan = outline(wanted) | _reading(flags, config, job)
    if flags.json:
        print(json.dumps({**plan, "remarks": list(remarks(config))}, indent=1))
        return
    for line in (*_shape(config, job.seq_len), *lines(plan), *_reading_lines(plan), *remarks(config)):
        print(line)


def _tokens_in(path: str | None) -> int | None:
    """The number of training tokens of a directory of token data."""
    if path is None:
        return None
    from babyllm.store.shards import open_tokens

    shards = open_tokens(path, check=False).manifest.shards
    return sum(shard.tokens for shard in shards if shard.split == "train")


def _job(flags: Flags, config: ModelConfig, gpu: Gpu | None, memory: float | None) -> tuple[Job, int]:
    """The job that the flags describe, and the sequences of its optimizer step over all ranks."""
    from babyllm.data.row_config import CPU_MICRO_TOKENS, Share, even
    from babyllm.planning.fitting import largest_micro_batch
    from babyllm.planning.job import Job

    sixteen: Number = "bfloat16" if gpu and gpu.has_bfloat16 else "float16"
    dtype = flags.dtype if flags.dtype != "auto" else sixteen if gpu else "float32"
    seq_len = flags.seq_len or config.max_seq_len
    job = Job(
        config,
        seq_len,
        passes=2 if flags.global_batch else 1,  # with several passes a step, gradients are held all along
        dtype=dtype,
        attention=flags.attention,
        documents=flags.mask_documents,
        optim=flags.optim,
        adapter=flags.lora,
        parallel=flags.parallel,
        ranks=flags.processes,
        device="cuda" if gpu else "cpu",
    )
    if flags.processes % flags.parallel.context:
        raise UserError(f"parallel.context={flags.parallel.context}: does not divide processes={flags.processes}")
    sharing = flags.processes // flags.parallel.context  # the global batch among them
    share = flags.global_batch // sharing if flags.global_batch else None
    micro = flags.micro_batch
    if micro is None:
        limit = largest_micro_batch(job, memory, share) if memory else CPU_MICRO_TOKENS // seq_len
        micro = even(share, limit) if share else max(1, limit)
    global_batch = flags.global_batch or micro * sharing
    Share(global_batch, micro, 0, sharing)  # refuses numbers that do not divide
    return replace(job, micro_batch=micro, passes=global_batch // sharing // micro), global_batch


def _shape(config: ModelConfig, seq_len: int) -> list[str]:
    """Parameters by part, and FLOPs."""
    counts = parameter_counts(config)
    tied = "  (tied to the embedding)" if config.tie_embeddings else ""
    return [
        *(f"{part:<12}{count:>16,}{tied if part == 'output' else ''}" for part, count in counts.items()),
        f"{'total':<12}{sum(counts.values()):>16,}",
        f"training FLOPs per token at seq_len {seq_len}: {flops_per_token(config, seq_len):.4g}",
    ]


def _reading(flags: Flags, config: ModelConfig, job: Job) -> dict[str, dict[str, float]]:
    """The memory of the model when it writes, if it is asked for."""
    if not flags.slots:
        return {}
    from babyllm.planning.reading_memory import reading_memory

    parts = reading_memory(
        config, slots=flags.slots, context=job.seq_len, dtype=job.dtype, int8=flags.int8, device=job.device
    )
    return {"reading": {**{part: round(size) for part, size in parts.items()}, "total": round(sum(parts.values()))}}


def _reading_lines(plan: dict[str, dict[str, float]]) -> list[str]:
    if "reading" not in plan:
        return []
    title = f"memory of the model when it writes, with keys and values of {plan['seq_len']} tokens a request:"
    return [title, *(f"{part:<14}{size / 1e9:>9.3f} GB" for part, size in plan["reading"].items())]
