"""Tiny token data, tiny runs, and processes to run them in."""

import math
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch
from worker import ONE_THREAD, ROOT, SCRIPT, Worker

from babyllm.data.batch import Batch
from babyllm.data.token_config import DataConfig
from babyllm.data.token_data import open_pretraining_data
from babyllm.documents import Document
from babyllm.model.options import ModelOptions
from babyllm.optim.config import OptimConfig
from babyllm.prepare.encode import train_tokenizer, write_tokens
from babyllm.runtime import Runtime, RuntimeConfig
from babyllm.schedule import Plan
from babyllm.training.stages.pretraining import new_state
from babyllm.training.stages.pretraining_config import PretrainConfig
from babyllm.training.state import Every, TrainState

T = TypeVar("T")
VOCAB_SIZE = 290
__all__ = ["ONE_THREAD", "ROOT", "SCRIPT", "Worker"]
CPU = RuntimeConfig(device="cpu", dtype="float32", threads=1)
FLAGS = [
    *("--data.seq_len=16", "--data.global_batch=8", "--data.micro_batch=4"),
    *("--model.n_layers=2", "--model.d_model=32", "--model.n_heads=4", "--model.n_kv_heads=2"),
    *("--model.max_seq_len=64", "--model.dropout=0.1", "--plan.steps=12", "--plan.peak_lr=0.01"),
    *("--runtime.device=cpu", "--runtime.dtype=float32", "--runtime.threads=1"),
    *("--log_every=1", "--save_every=4", "--eval_every=6", "--prompts=[ab]"),
]


def write_corpus(directory: Path, n_documents: int = 80) -> Path:
    """Token data of two domains, whose words repeat so that there is something to learn."""
    rng = random.Random(0)
    words = ["abba", "cad", "dada", "fig", "each", "badge", "decaf", "face", "hi", "jig"]
    texts = [" ".join(rng.choices(words, k=rng.randint(2, 12))) for _ in range(n_documents)]
    documents = [Document(text, ("left", "right")[i % 2]) for i, text in enumerate(texts)]
    write_tokens(documents, train_tokenizer(documents, VOCAB_SIZE), directory, held_out=0.2)
    return directory


def tiny_config(data: Path, *, dropout: float = 0.0, micro_batch: int = 2, steps: int = 20) -> PretrainConfig:
    """A run over `data` that takes a few milliseconds a step."""
    return PretrainConfig(
        model=ModelOptions(n_layers=2, d_model=32, n_heads=4, n_kv_heads=2, max_seq_len=64, dropout=dropout),
        data=DataConfig(path=str(data), seq_len=16, global_batch=8, micro_batch=micro_batch),
        optim=OptimConfig(),
        plan=Plan(steps=steps, peak_lr=1e-2, seed=3),
        runtime=CPU,
    )


def tiny_state(config: PretrainConfig, runtime: Runtime) -> TrainState:
    """Step 0 of the run that `config` describes."""
    return new_state(config, open_pretraining_data(config.data), runtime)[0]


def recording(losses: list[float]) -> Every:
    """Appends the mean loss over the global batch after each step; infinity for one that was skipped."""
    return Every(1, lambda state: losses.append(state.take_metrics().get("loss", math.inf)))


def stopping(step: int) -> Every:
    """Ends the loop after `step`, as early stopping does."""

    def stop(state: TrainState) -> None:
        if state.step == step:
            state.stop_reason = "enough"

    return Every(1, stop, at_end=False)


def weights(state: TrainState) -> torch.Tensor:
    """All weights as one vector."""
    return torch.cat([p.detach().flatten() for p in state.model.parameters()])


class Repeated:
    """The same micro-batches in every step."""

    def __init__(self, batches: list[Batch]) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[list[Batch]]:
        return self

    def __next__(self) -> list[Batch]:
        return self._batches

    def state_dict(self) -> dict[str, Any]:
        """Nothing: there is no position."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Do nothing: there is no position."""


class Kill(BaseException):
    """Nothing the code may catch."""


class Killer:
    """Ends what is done, as a kill would, at its k-th access to the file system."""

    ACCESSES = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.chmod", "os.utime", "shutil.rmtree")

    def __init__(self) -> None:
        self._left = -1
        sys.addaudithook(self._hook)  # which cannot be taken away again, only be put to rest

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self._left >= 0 and event in self.ACCESSES:
            self._left -= 1
            if self._left < 0:
                raise Kill

    def killing(self, k: int, work: Callable[[], T]) -> T:
        """What `work` returns, unless it has so many accesses that it raises Kill."""
        self._left = k
        try:
            return work()
        finally:
            self._left = -1

    def survives(self, k: int, work: Callable[[], object]) -> bool:
        """Whether `work` comes to its end before its k-th access."""
        try:
            self.killing(k, work)
        except Kill:
            return False
        return True
