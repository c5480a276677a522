"""What is planned: a training job, and the sizes that follow from it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from babyllm.config.values import Count, Limits, Members
from babyllm.errors import UserError
from babyllm.model.config import Checkpointing, ModelConfig, flops_per_token, parameter_counts
from babyllm.optim.config import OptimConfig
from babyllm.parallel.config import ParallelConfig

Kind = Literal["cpu", "cuda", "mps"]
Number = Literal["float32", "bfloat16", "float16"]
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
NF4_BYTES, NF4_DOUBLE_BYTES, INT8_BYTES = 0.5625, 0.515869140625, 1.0

LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The linear layers of a block."""


@dataclass(frozen=True)
class Adapter:
    """Low-rank adaptation, as far as memory depends on it; the names are those of the section `lora` of a run.

    Attributes:
        rank: rank of the update of each target; 0 trains the model itself.
        targets: linear layers of a block by name, such as q_proj; all: all of them.
        base: storage of the blocks' frozen weights.
        double_quant: whether the scales of nf4 are stored in 8 bits.
    """

    rank: Annotated[int, Limits(0, 16_384)] = 0
    targets: list[str] = field(default_factory=lambda: ["all"])
    base: Literal["float32", "bfloat16", "int8", "nf4"] = "float32"
    double_quant: bool = False

    def __post_init__(self) -> None:
        """Refuse names of layers that no block has.

        Raises:
            UserError: a target is unknown, or a base is named without a rank.
        """
        for name in self.targets:
            if name not in ("all", *LAYERS):
                raise UserError(f"lora.targets: {name!r} is not planned for; name all, or some of {', '.join(LAYERS)}")
        if self.base != "float32" and not self.rank:
            raise UserError(f"lora.base={self.base}: needs a lora.rank above 0; a model trained itself is float32")

    def adapts(self, layer: str) -> bool:
        """Whether a layer has an update."""
        return self.rank > 0 and (layer in self.targets or "all" in self.targets)

    @property
    def base_bytes(self) -> float:
        """Bytes of a frozen weight of a block, without those that a row has once."""
        nf4 = NF4_DOUBLE_BYTES if self.double_quant else NF4_BYTES
        return {"float32": 4.0, "bfloat16": 2.0, "int8": INT8_BYTES, "nf4": nf4}[self.base]


@dataclass(frozen=True)
class Job:
    """A training job: one rank of it takes the memory that is planned.

    Attributes:
        model: shape, with its `activation_checkpointing`.
        seq_len: tokens per sequence.
        micro_batch: sequences of a forward pass.
        passes: forward passes of an optimizer step on one rank; with more than one, gradients are kept between them.
        dtype: type of the numbers in matrix products; weights are float32.
        attention: how attention is computed: fused or blocks.
        documents: whether attention is masked by documents.
        optim: the optimizer.
        adapter: low-rank adaptation.
        parallel: how the model is divided among ranks.
        ranks: number of processes.
        device: kind of the device.
    """

    model: ModelConfig
    seq_len: Members
    micro_batch: Members = 1
    passes: Count = 1
    dtype: Number = "float32"
    attention: Literal["fused", "blocks"] = "fused"
    documents: bool = False
    optim: OptimConfig = field(default_factory=OptimConfig)
    adapter: Adapter = field(default_factory=Adapter)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    ranks: Count = 1
    device: Kind = "cpu"

    @property
    def tokens(self) -> int:
        """Tokens of a forward pass on one rank, which may share its rows with others."""
        return -(-self.micro_batch * self.seq_len // self.parallel.context)

    @property
    def shards(self) -> int:
        """Number of ranks among which the parameters are divided."""
        if self.parallel.shard == "none":
            return 1
        return min(self.ranks, self.parallel.shard_ranks or self.ranks) if self.is_hybrid else self.ranks

    @property
    def is_hybrid(self) -> bool:
        """Whether shards have copies."""
        return self.parallel.shard == "hybrid"

    @property
    def is_outside(self) -> bool:
        """Whether weights and gradients lie in the CPU's memory and not in the device's."""
        return self.device != "cpu" and self.parallel.offload == "all"

    @property
    def has_outside_step(self) -> bool:
        """Whether the optimizer computes on the CPU all of a step of a device; shards of Muon's matrices return."""
        return self.device != "cpu" and self.parallel.offload != "none" and self.shards == 1

    @property
    def is_replicated(self) -> bool:
        """Whether each rank has all parameters, and DDP sums their gradients."""
        return self.ranks > 1 and self.parallel.shard == "none"


@dataclass(frozen=True)
class Matrix:
    """A linear layer of a block.

    Attributes:
        name: its name.
        inputs: width of its input.
        outputs: width of its output.
    """

    name: str
    inputs: int
    outputs: int

    @property
    def size(self) -> int:
        """Number of weights."""
        return self.inputs * self.outputs


def block_matrices(model: ModelConfig) -> dict[str, Matrix]:
    """The linear layers of a block by name."""
    d, f = model.d_model, model.ff_width
    q, kv = model.n_heads * model.head_width, model.kv_heads * model.head_width
    widths = ((d, q), (d, kv), (d, kv), (q, d), (d, f), (d, f), (f, d))
    return {name: Matrix(name, *width) for name, width in zip(LAYERS, widths, strict=True)}


def trained_counts(job: Job) -> dict[str, int]:
    """Numbers of trained parameters by optimizer: those that Muon updates, and those that AdamW does."""
    if job.adapter.rank:
        matrices = block_matrices(job.model).values()
        widths = sum(m.inputs + m.outputs for m in matrices if job.adapter.adapts(m.name))
        return {"muon": 0, "adamw": job.model.n_layers * job.adapter.rank * widths}
    in_blocks = job.model.n_layers * sum(m.size for m in block_matrices(job.model).values())
    muon = in_blocks if job.optim.matrices == "muon" else 0
    return {"muon": muon, "adamw": sum(parameter_counts(job.model).values()) - muon}


def recomputed_blocks(checkpointing: Checkpointing | int, n_layers: int) -> list[bool]:
    """Whether each block is computed again as a whole in the backward pass: none, all (True), or every k-th (k)."""
    every = int(checkpointing) if isinstance(checkpointing, int) else 0
    return [bool(every) and i % every == 0 for i in range(n_layers)]


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
