"""Tiny runs of train_dpo.py."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from preference_fixtures import pairs, write
from safetensors.torch import load_file
from training_fixtures import Worker

from babyllm.interop.huggingface import save_model
from babyllm.model.config import ModelConfig
from babyllm.model.transformer import Transformer
from babyllm.tokenizer import Tokenizer

DEVICE = ("--runtime.device=cpu", "--runtime.dtype=float32", "--runtime.threads=1", "--data.work.workers=1")
LORA = ("--lora.rank=4", "--reference=adapter_off")
WHOLE, ADAPTER = "model.safetensors", "adapter_model.safetensors"


@pytest.fixture(scope="module")
def train(
    worker: Worker,
    tokenizer: Tokenizer,
    tiny: Callable[..., ModelConfig],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., Path]:
    """Runs train_dpo.py in a directory and returns it."""
    base = tmp_path_factory.mktemp("base")
    torch.manual_seed(1)
    save_model(base, Transformer(tiny(max_seq_len=96)), tokenizer)
    file = write(tmp_path_factory.mktemp("pairs") / "pairs.jsonl", pairs(40))

    def trained(run_dir: Path, *more: str, ranks: int = 1, steps: int = 4, expects: int = 0) -> Path:
        settings = (f"--init_from={base}", f"--data.path={file}", f"--run_dir={run_dir}", "--data.template=plain")
        sizes = ("--data.seq_len=96", "--data.held_out=0.2", "--data.global_batch=8", "--data.micro_batch=2")
        plan = (f"--plan.steps={steps}", "--plan.peak_lr=0.01", "--save_every=2", "--eval_every=2", "--keep=9")
        arguments = [*settings, *sizes, *plan, "--log_every=1", *DEVICE, *more]
        worker.start("script", ranks=ranks, arguments=arguments, name="train_dpo.py")
        assert worker.wait() == [expects] * ranks, worker.output.read_text()
        return run_dir

    return trained


@pytest.fixture(scope="module")
def finished(train: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`finished(*flags)`: a run on one rank with these flags, which is trained once; not to be changed."""
    runs: dict[tuple[str, ...], Path] = {}

    def run(*more: str) -> Path:
        if more not in runs:
            runs[more] = train(tmp_path_factory.mktemp("finished") / "run", *more)
        return runs[more]

    return run


def tensors(run: Path, step: int = 4, name: str = WHOLE) -> dict[str, torch.Tensor]:
    return load_file(run / f"step_{step:08d}" / name)


def resumed(run: Path, copy: Path, train: Callable[..., Path], *more: str) -> Path:
    """A copy of a run, without what came after step 2, that goes on."""
    shutil.copytree(run, copy)
    shutil.rmtree(copy / "step_00000004")
    (copy / "latest").write_text("step_00000002\n", encoding="utf-8")
    return train(copy, *more)
