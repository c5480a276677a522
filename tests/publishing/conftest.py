"""A run that was not trained but written: its files are what a card and an upload read."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from babyllm.config import dump
from babyllm.data.token_config import DataConfig
from babyllm.files import sha256
from babyllm.integrity import OPTIMIZER
from babyllm.interop.huggingface import save_model
from babyllm.model.config import ModelConfig
from babyllm.model.options import ModelOptions
from babyllm.model.transformer import Transformer
from babyllm.run_directory import step_name, write_resume
from babyllm.schedule import Plan
from babyllm.tokenizer import Tokenizer
from babyllm.training.stages.pretraining_config import PretrainConfig

STEP = 20
ENVIRONMENT = {
    "babyllm": "0.1.0",
    "torch": "2.13.0",
    "cpu": "A processor | of ours",
    "cores": 4,
    "gpus": [],
    "platform": "odd \ud800",
}


@pytest.fixture(scope="session")
def written_run(
    tmp_path_factory: pytest.TempPathFactory,
    token_dir: Path,
    tokenizer: Tokenizer,
    tiny: Callable[..., ModelConfig],
) -> Path:
    """A run directory with one step, whose records go on to a later one; not to be changed."""
    home = tmp_path_factory.mktemp("home")
    run_dir, step_dir = home / "run", home / "run" / step_name(STEP)
    step_dir.mkdir(parents=True)
    save_model(step_dir, Transformer(tiny()), tokenizer)
    (step_dir / OPTIMIZER).write_bytes(b"moments")
    sums = {file.name: sha256(file) for file in step_dir.iterdir()}
    write_resume(step_dir, {"step": STEP, "tokens": 5000, "sha256": sums})
    (step_dir / ".verified.json").write_text("{}")
    (step_dir / "notes.txt").write_text("not for others")
    config = PretrainConfig(
        run_dir=str(run_dir), model=ModelOptions(n_layers=2), data=DataConfig(path=str(token_dir)), plan=Plan(steps=40)
    )
    (run_dir / "config.yaml").write_text(dump(config))
    (run_dir / "environment.json").write_text(json.dumps(ENVIRONMENT))
    records = [
        {"step": step, "time": 1.0, "loss": 6.0 - step / 10, "lr": 0.1, "tokens": 250 * step, "tokens_per_s": 100.0}
        | {"val/news/bpb": 3.0 - step / 100, "val/all/bpb": 2.5, "val/all/loss": 5.5}
        for step in (10, STEP, 40)
    ]
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (run_dir / "samples.jsonl").write_text(json.dumps({"step": 10, "name": "sample/0", "text": "今天天气很好"}) + "\n")
    (run_dir / "latest").write_text(step_dir.name + "\n")
    return run_dir


@pytest.fixture
def run_copy(written_run: Path, tmp_path: Path) -> Path:
    """A copy of the run, to be changed."""
    return Path(shutil.copytree(written_run, tmp_path / "run"))


@pytest.fixture
def foreign(written_run: Path, tmp_path: Path) -> Path:
    """A Hugging Face directory without a run."""
    names = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
    target = tmp_path / "foreign"
    target.mkdir()
    for name in names:
        shutil.copyfile(written_run / step_name(STEP) / name, target / name)
    return target
