"""The memory that is planned, against the tensors that a step takes, and what else follows from it."""

from dataclasses import replace

import pytest
from planning_fixtures import tensor_peak

from babyllm.data.row_config import RowConfig, share_of
from babyllm.model import attention, chunk_logits
from babyllm.model.config import ModelConfig, parameter_counts
from babyllm.model.options import PRESETS
from babyllm.model.transformer import Transformer
from babyllm.optim import muon
from babyllm.optim.config import OptimConfig
from babyllm.parallel.config import ParallelConfig
from babyllm.planning import (
    Adapter,
    Job,
    alternatives,
    fits,
    largest_micro_batch,
    offloaded_memory,
    reading_memory,
    training_memory,
)
from babyllm.planning.events import block as planned_block
from babyllm.planning.job import recomputed_blocks
from babyllm.planning.speed import MUON_STEPS
from babyllm.planning.training_memory import CHUNK_BYTES, FEWEST_ROWS
from babyllm.runtime import RuntimeConfig, start

MIB = 1 << 20
SHAPE = ModelConfig(1500, 3, 64, 4, 2, max_seq_len=128, tie_embeddings=True)
ADAMW, MUON = OptimConfig(), OptimConfig(matrices="muon", average=0.9)

JOBS = {
    "plain": Job(SHAPE, 128, 8),
    "untied, muon, two passes": Job(replace(SHAPE, tie_embeddings=False), 64, 4, passes=2, optim=MUON),
    "muon, few tokens": Job(SHAPE, 16, 1, optim=MUON),
    "selective": Job(replace(SHAPE, activation_checkpointing="selective"), 128, 8),
    "whole blocks again": Job(replace(SHAPE, activation_checkpointing=True, n_layers=5), 128, 8),
    "attention in blocks": Job(SHAPE, 128, 8, attention="blocks"),
    "dropout and norms of heads": Job(replace(SHAPE, dropout=0.1, qk_norm=True), 128, 8),
    "lora": Job(SHAPE, 128, 8, adapter=Adapter(8)),
    "nf4": Job(SHAPE, 128, 8, adapter=Adapter(4, base="nf4")),
    "int8, two targets": Job(SHAPE, 128, 8, adapter=Adapter(4, ["q_proj", "v_proj"], "int8")),
    "bfloat16": Job(replace(SHAPE, n_layers=2), 32, 4, dtype="bfloat16"),
    "bfloat16, selective": Job(
        replace(SHAPE, n_layers=2, activation_checkpointing="selective"), 32, 4, dtype="bfloat16"
    ),
}


def planned(job: Job) -> float:
    """The planned bytes of all tensors."""
    return sum(size for part, size in training_memory(job).items() if part != "process")


@pytest.mark.parametrize("name", JOBS)
def test_the_plan_is_what_a_step_takes(name: str) -> None:
    """Planned and counted bytes at the peak of a step differ by less than 10 %, for each way to save memory."""
    assert planned(JOBS[name]) == pytest.approx(tensor_peak(JOBS[name]), rel=0.10)


def test_constants_are_those_of_the_model() -> None:
    """Sizes of chunks and blocks are repeated for the plan, which loads no torch, and are the same."""
    assert (CHUNK_BYTES, FEWEST_ROWS) == (chunk_logits.CHUNK_BYTES, chunk_logits.FEWEST_ROWS)
    assert planned_block.BLOCK == attention.BLOCK
    assert len(muon.POLYNOMIALS) == MUON_STEPS


def test_shards_divide_what_lasts() -> None:
    """Weights, gradients and moments of each of four ranks are a quarter; copies on every rank stay whole."""
    job = Job(SHAPE, 16, 1, passes=2, ranks=4)
    whole, shards = training_memory(job), training_memory(replace(job, parallel=ParallelConfig("zero3")))
    for part in ("weights", "optimizer"):
        assert shards[part] == whole[part] / 4  # type: ignore[literal-required]
    assert whole["weights"] == 4 * sum(parameter_counts(SHAPE).values())


def test_what_is_offloaded_is_in_the_memory_of_the_cpu() -> None:
    """Moments, and copies for the step or weights and gradients themselves, leave the device; so does Muon's step."""
    plain = Job(SHAPE, 16, 1, passes=2, dtype="bfloat16", optim=MUON, device="cuda")
    step = replace(plain, parallel=ParallelConfig(offload="optimizer"))
    sizes = {part: size for part, size in training_memory(plain).items() if size}
    outside = offloaded_memory(step)
    assert not offloaded_memory(plain) and not offloaded_memory(replace(step, device="cpu"))
    for part in ("weights", "gradients", "optimizer"):
        assert outside[part] == sizes[part]  # type: ignore[literal-required]
    assert outside["workspace"] > 0 and not training_memory(step)["optimizer"]
    assert sum(training_memory(step).values()) <= sum(sizes.values()) - sizes["optimizer"]
    divided = replace(step, ranks=4, parallel=ParallelConfig("zero3", offload="all"))
    of_all, on_device = offloaded_memory(divided), training_memory(divided)
    assert of_all["weights"] == sizes["weights"] / 4 and of_all["average"] == sizes["average"] / 4
    assert not any(on_device[part] for part in ("weights", "gradients", "optimizer", "average"))


def test_ranks_that_share_rows_share_activations() -> None:
    """Of four ranks that share rows each holds about a quarter of one's activations, but all weights."""
    job = Job(replace(SHAPE, n_layers=8), 128, 8)
    alone, shared = (training_memory(replace(job, ranks=4, parallel=ParallelConfig(context=n))) for n in (1, 4))
    assert shared["activations"] == pytest.approx(alone["activations"] / 4, rel=0.02)
    assert shared["weights"] == alone["weights"]


def test_every_kth_block_is_computed_again() -> None:
    """Between none and all blocks, every k-th one may be computed again, and memory lies between as well."""
    assert recomputed_blocks(3, 7) == [True, False, False, True, False, False, True]
    assert recomputed_blocks("selective", 2) == recomputed_blocks(False, 2) == [False, False]
    sizes = [planned(Job(replace(SHAPE, n_layers=6, activation_checkpointing=kind), 128, 8)) for kind in (True, False)]
    third = planned(Job(replace(SHAPE, n_layers=6, activation_checkpointing=3), 128, 8))  # type: ignore[arg-type]
    assert sizes[0] < third < sizes[1]


def test_the_largest_micro_batch_just_fits() -> None:
    """One sequence more than the largest micro-batch would not fit; 0 says that none does."""
    job, memory = Job(SHAPE, 128), 500 * MIB
    most = largest_micro_batch(job, memory)
    assert fits(replace(job, micro_batch=most), memory) and not fits(replace(job, micro_batch=most + 1), memory)
    assert largest_micro_batch(job, memory, most=3) == 3
    assert largest_micro_batch(job, 10 * MIB) == 0


def test_what_would_fit_fits() -> None:
    """Each change that is named makes a job fit that does not; the flags name the change."""
    job, memory = Job(PRESETS["1b"], 2048, 8, dtype="bfloat16", ranks=2, device="cuda"), 24 * 1024 * MIB
    assert not fits(job, memory)
    found = dict(alternatives(job, memory))
    assert "--micro_batch=1 --model.activation_checkpointing=true --parallel.shard=zero3" in found
    assert "--model.activation_checkpointing=selective" not in found
    assert max(found.values()) <= memory


def test_the_automatic_micro_batch_is_the_planned_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a device with its own memory the automatic micro-batch is the largest planned one that divides evenly.

    A CPU keeps its number of tokens, whatever its memory.
    """
    rows = RowConfig(seq_len=128, global_batch=96)
    with start(RuntimeConfig(device="cpu", dtype="float32")) as runtime:
        assert share_of(rows, SHAPE, runtime).micro_batch == 32  # 4,096 tokens
        memory = 420 * MIB
        monkeypatch.setattr("babyllm.data.row_config.device_memory", lambda _: memory)
        limit = largest_micro_batch(Job(SHAPE, 128, passes=2), memory)
        micro = share_of(rows, SHAPE, runtime).micro_batch
        assert 1 < micro <= limit < 96 and micro == max(d for d in range(1, limit + 1) if 96 % d == 0)
        monkeypatch.setattr("babyllm.data.row_config.device_memory", lambda _: MIB)
        assert share_of(rows, SHAPE, runtime).micro_batch == 1


def test_a_model_that_writes_takes_weights_and_a_cache() -> None:
    """Bytes of weights are those of the tensors; the cache has keys and values of every slot, layer and token."""
    parts = reading_memory(SHAPE, slots=2, context=100)
    assert parts["weights"] == sum(p.nbytes for p in Transformer(SHAPE).parameters())
    assert parts["cache"] == 2 * 100 * SHAPE.n_layers * 2 * SHAPE.kv_heads * SHAPE.head_width * 4
    assert reading_memory(SHAPE, slots=2, context=100, dtype="bfloat16")["cache"] == parts["cache"] / 2
    assert reading_memory(PRESETS["92m"], int8=True)["weights"] < 0.6 * reading_memory(PRESETS["92m"])["weights"]
