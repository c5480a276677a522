"""Tiny policies that answer short prompts, and runs of them."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from training_fixtures import Worker

from babyllm.config import parse
from babyllm.interop.huggingface import save_model
from babyllm.model.config import ModelConfig
from babyllm.model.transformer import Transformer
from babyllm.runtime import RuntimeConfig, start
from babyllm.tokenizer import Tokenizer
from babyllm.training import checkpoint
from babyllm.training.loop import train
from babyllm.training.stage import Beginning
from babyllm.training.stages.policy.grpo import begin
from babyllm.training.stages.policy.grpo_config import GrpoConfig
from babyllm.training.state import Every, TrainState

PATTERN = ".*a.*"


def write_policy(directory: Path, tokenizer: Tokenizer, shape: ModelConfig) -> Path:
    """A run with one step of a random model whose scores are spread."""
    step = directory / "step_00000001"
    step.mkdir(parents=True)
    torch.manual_seed(1)
    model = Transformer(shape)
    with torch.no_grad():
        model.embed_tokens.weight.mul_(10)
    save_model(step, model, tokenizer)
    return directory


def write_prompts(file: Path, n: int = 24) -> Path:
    """Short prompts with a right answer each."""
    records = [{"prompt": "abcdefgh"[i % 8] * (1 + i // 8), "reference": str(i)} for i in range(n)]
    file.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer, tiny: Callable[..., ModelConfig]) -> Path:
    """A run to start from; tests must not change it."""
    return write_policy(tmp_path_factory.mktemp("policy") / "base", tokenizer, tiny())


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prompts with right answers."""
    return write_prompts(tmp_path_factory.mktemp("prompts") / "prompts.jsonl")


def configured(base: Path, prompts: Path, run_dir: Path, *more: str) -> GrpoConfig:
    """A run of eight steps of 16 answers in groups of 4, which rewards the letter a."""
    arguments = [
        *(f"--init_from={base}", f"--data.path={prompts}", f"--run_dir={run_dir}", "--data.template=chatml"),
        *("--data.seq_len=32", "--data.max_new_tokens=6", "--data.max_prompt=26", "--data.global_batch=16"),
        *("--rollout.group=4", "--rollout.epochs=2", "--data.held_out=4", "--plan.steps=8", "--plan.peak_lr=0.003"),
        *("--reward.functions={format: 1}", f"--reward.pattern={PATTERN}", "--save_every=0", "--eval_every=0"),
        *("--runtime.device=cpu", "--runtime.dtype=float32", "--runtime.threads=1", "--runtime.processes=1", *more),
    ]
    return parse(GrpoConfig, arguments, prog="test")


def trained(stage: Beginning, save_to: Path | None = None, load: Path | None = None) -> list[dict[str, float]]:
    """Train a run to its end; the metrics of each step, those of the stream included."""
    if load:
        checkpoint.load(stage.state, load)
    seen: list[dict[str, float]] = []

    def look(state: TrainState) -> None:
        of_stream = {k: v for k, v in state.stream.metrics().items() if "second" not in k and "per_s" not in k}
        seen.append(state.take_metrics() | of_stream | {"grad_norm": state.grad_norm})
        if save_to:
            checkpoint.save(state, save_to, None, keep=99)

    train(stage.state, stage.loss, stage.plan, [Every(1, look)])
    return seen


def require_exact_resume(begin: Callable[[], Beginning], folder: Path) -> None:
    """A run of eight steps and one from its third, amid a rollout, have the same metrics and the same last files."""
    straight = trained(begin(), save_to=folder / "straight")
    middle = folder / "straight" / "step_00000003"
    assert (middle / "stream.safetensors").is_file()
    resumed = trained(begin(), save_to=folder / "resumed", load=middle)
    assert resumed == straight[3:]
    last = [folder / name / "step_00000008" for name in ("straight", "resumed")]
    files = [{p.relative_to(step): p.read_bytes() for p in step.rglob("*") if p.is_file()} for step in last]
    assert files[0] == files[1]


def require_equal_ranks(
    worker: Worker, job: str, folder: Path, sizes: dict[int, int], tolerance: float, **arguments: str | list[str]
) -> list[dict[str, float]]:
    """After two steps on several ranks the weights are those of one within 1e-5, and the numbers too; returns them.

    Args:
        worker: processes that know the job, which calls `leave_steps`.
        job: name of the job.
        folder: folder for what the ranks leave.
        sizes: micro-batch by number of ranks; one rank is among them.
        tolerance: tolerance of the numbers.
        arguments: what the job is given beside.
    """
    found: dict[int, list[tuple[torch.Tensor, list[dict[str, float]]]]] = {}
    for ranks, micro_batch in sizes.items():
        out = folder / str(ranks)
        out.mkdir()
        worker.run(job, ranks=ranks, out=str(out), micro_batch=micro_batch, **arguments)
        found[ranks] = [torch.load(out / f"{rank}.pt") for rank in range(ranks)]
    (alone, numbers), *_ = found[1]
    for of_ranks in found.values():
        assert all(torch.equal(weights, of_ranks[0][0]) for weights, _ in of_ranks)
        torch.testing.assert_close(of_ranks[0][0], alone, rtol=0, atol=1e-5)
        for mine, one in zip(of_ranks[0][1], numbers, strict=True):
            assert mine == pytest.approx(one, abs=tolerance)
    return numbers


def leave_steps(stage: Beginning, out: Path) -> None:
    """Leave the weights and the metrics of a run after its steps."""
    seen = trained(stage)
    flat = torch.cat([p.detach().flatten() for p in stage.state.model.parameters()])
    torch.save((flat, seen), out)


def grpo_steps(base: str, prompts: str, out: str, micro_batch: int, more: Sequence[str] = ()) -> None:
    """Leave the metrics, and the weights after two steps, of a run on all ranks."""
    with start(RuntimeConfig(device="cpu", dtype="float32", threads=1)) as runtime:
        steps = ("--plan.steps=2", f"--data.micro_batch={micro_batch}")
        config = configured(Path(base), Path(prompts), Path(out, "run"), *steps, *more)
        leave_steps(begin(config, runtime), Path(out, f"{runtime.rank}.pt"))


JOBS = {"grpo_steps": grpo_steps}
