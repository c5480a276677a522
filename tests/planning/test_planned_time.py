"""The time and the budget that are planned, against published runs and the papers they rest on."""

import math
from dataclasses import replace

import pytest

from babyllm.errors import UserError
from babyllm.model.config import ModelConfig, flops_per_token, parameter_counts
from babyllm.model.options import PRESETS
from babyllm.optim.config import OptimConfig
from babyllm.planning import Adapter, Job, cpu_speed, find_gpu, fits, gpu_speed, plan_budget
from babyllm.planning.budget import remark
from babyllm.planning.gpus import gpu_names
from babyllm.planning.job import computed_flops
from babyllm.planning.measured_step import small_job
from babyllm.runtime.machine import listed_tflops

GPT2 = ModelConfig(50304, 12, 768, 12, d_ff=2048, max_seq_len=1024, tie_embeddings=True)  # as many weights as GPT-2
LLAMA_8B = ModelConfig(128256, 32, 4096, 32, 8, 14336, max_seq_len=8192)
DAY = 24 * 3600


def within(found: float, published: float, factor: float) -> bool:
    """Whether two numbers differ by at most a factor."""
    return published / factor <= found <= published * factor


def test_published_runs_take_as_long_as_planned() -> None:
    """Planned speeds are within a factor of 1.6 of three published runs, of 124 M to 8 B parameters."""
    a100, h100 = find_gpu("A100 40GB"), find_gpu("H100")
    tinyllama = gpu_speed(Job(PRESETS["1b"], 2048, 8, dtype="bfloat16", ranks=16, device="cuda"), a100)
    assert within(tinyllama.tokens_per_s / 16, 24_000, 1.6)  # its README
    assert within(tinyllama.seconds(3e12) / DAY, 90, 1.6)
    nanogpt = gpu_speed(Job(GPT2, 1024, 12, passes=5, dtype="bfloat16", ranks=8, device="cuda"), a100)
    assert within(nanogpt.seconds(600_000 * 491_520) / DAY, 4, 1.6)  # train_gpt2.py, "about 4 days"
    torchtitan = gpu_speed(Job(LLAMA_8B, 8192, 1, dtype="bfloat16", ranks=8, device="cuda"), h100)
    assert within(torchtitan.tokens_per_s / 8, 6_667, 1.6)  # docs/performance.md, compiled


@pytest.mark.parametrize(("preset", "seq_len"), [("92m", 512), ("218m", 1024)])
def test_the_models_of_baby_llama2_chinese_fit_its_gpus(preset: str, seq_len: int) -> None:
    """Both were trained on RTX 3090, 16 rows a pass, the smaller one in full and the larger one with checkpointing."""
    model = PRESETS[preset] if preset == "92m" else replace(PRESETS[preset], activation_checkpointing=True)
    job = Job(model, seq_len, 16, passes=2, dtype="float16", ranks=4, device="cuda")
    assert fits(job, find_gpu("3090").memory)


def test_recomputation_and_frozen_weights_change_the_time() -> None:
    """Blocks computed again cost a third more of their products; an adapter saves a third of the frozen ones."""
    job = Job(PRESETS["1b"], 2048, device="cuda")
    plain = computed_flops(job)
    assert plain == flops_per_token(PRESETS["1b"], 2048)
    again = computed_flops(replace(job, model=replace(job.model, activation_checkpointing=True)))
    assert 1.25 < again / plain < 4 / 3
    assert 0.66 < computed_flops(replace(job, adapter=Adapter(8))) / plain < 0.75


def test_every_gpu_has_memory_and_peaks() -> None:
    """Each listed GPU has both; names are found as people write them, and others are refused with the nearest one."""
    for name in gpu_names():
        gpu, listed = find_gpu(name), listed_tflops(name)
        assert listed and (gpu.flops16, gpu.flops32) == (listed[0] * 1e12, listed[1] * 1e12)
        assert gpu.name == name and 8e9 < gpu.memory < 2e11 and 2e11 < gpu.bandwidth < 1e13
    found = [
        find_gpu(name).name for name in ("4090", "rtx3090", "NVIDIA GeForce RTX 4060 Ti", "a100-80gb", "A100", "h100")
    ]
    assert found == ["RTX 4090", "RTX 3090", "RTX 4060 Ti", "A100 80GB", "A100 40GB", "H100"]
    with pytest.raises(UserError, match="RTX 4099: is not listed; did you mean 'RTX 4090'"):
        find_gpu("RTX 4099")


def test_a_cpu_is_measured() -> None:
    """The speed of this processor is measured on two blocks of the shape; more parameters take longer."""
    cut = replace(PRESETS["tiny"], activation_checkpointing=2)
    jobs = Job(PRESETS["nano"], 64, 4), Job(cut, 64, 4, optim=OptimConfig(matrices="muon"), documents=True)
    small, large = (cpu_speed(job, threads=1) for job in jobs)
    assert small.tokens_per_s > large.tokens_per_s > 0
    assert small.flops == pytest.approx(small.tokens_per_s * flops_per_token(PRESETS["nano"], 64))


def test_what_is_measured_is_small() -> None:
    """Two blocks and as many tokens as take a moment stand for a job of any size; a job that is small stays whole."""
    large = small_job(Job(PRESETS["1b"], 2048, 8, passes=4, ranks=2))
    assert (large.model.n_layers, large.micro_batch, large.passes, large.ranks) == (2, 1, 1, 1)
    assert 64 <= large.seq_len < 128
    job = Job(PRESETS["nano"], 128, 16)
    assert small_job(job) == replace(job, model=replace(job.model, n_layers=2))


def test_the_update_counts_once_a_step() -> None:
    """Muon's products take time on a GPU, which more tokens of a step make up for."""
    gpu, jobs = find_gpu("A100"), [Job(PRESETS["218m"], 1024, 1, dtype="bfloat16", passes=n) for n in (1, 64)]
    with_muon = [replace(job, optim=OptimConfig(matrices="muon")) for job in jobs]
    speeds = [[gpu_speed(job, gpu).tokens_per_s for job in kind] for kind in (with_muon, jobs)]
    few, many = (muon / adamw for muon, adamw in zip(*speeds, strict=True))
    assert few < 0.6 and 0.95 < many < 1


def test_a_budget_is_spent_as_in_chinchilla() -> None:
    """6 N D is the budget and D is 20 N; at Chinchilla's own budget N and D are its own, to 10 %."""
    budget = plan_budget(5.76e23)
    assert 6 * budget.parameters * budget.tokens == pytest.approx(budget.flops)
    assert budget.parameters == pytest.approx(70e9, rel=0.1) and budget.tokens == pytest.approx(1.4e12, rel=0.1)
    choices = plan_budget(1e19).choices
    assert {choice.preset for choice in choices} == set(PRESETS)
    assert choices[0].preset == "218m" and choices[0].parameters == sum(parameter_counts(PRESETS["218m"]).values())
    distances = [abs(math.log(choice.ratio / 20)) for choice in choices]
    assert distances == sorted(distances)


def test_the_data_is_compared_with_the_need() -> None:
    """Enough data, some passes over it, and far too many are told apart."""
    assert "which is enough" in remark(1e6, 2_000_000)
    assert "3.0 passes, nearly as good as new" in remark(6e6, 2_000_000)
    assert "50 passes; more than 4 bring little" in remark(1e8, 2_000_000)
    assert "0.4 GB of text" in remark(1e8, None)
