"""babyllm's own training as benchmarks measure it: shapes, and runs of them on random tokens.

shape -> random tokens on disk -> loader -> TrainState -> babyllm.train, which stops between steps for its turn
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from babyllm.model.config import ModelConfig
from babyllm.optim.config import OptimConfig
from benchmarks import turns

if TYPE_CHECKING:
    import torch

    from babyllm.data.loader import Loader
    from babyllm.runtime import Runtime
    from babyllm.training.state import TrainState

N_TOKENS = 1 << 21


class Shape(NamedTuple):
    """A model, and the sequences and tokens of a step."""

    model: ModelConfig
    batch: int
    seq_len: int

    @property
    def n_tokens(self) -> int:
        """Number of tokens of a step."""
        return self.batch * self.seq_len

    def __str__(self) -> str:
        """The sizes on which time depends."""
        model = f"{self.model.n_layers} layers, width {self.model.d_model}, vocabulary {self.model.vocab_size:,}"
        return f"{model}, {self.batch} x {self.seq_len} tokens"


# Shapes for a few cores.
SHAPES = {
    "quick": Shape(ModelConfig(4096, 4, 128, 4, 2, max_seq_len=128, tie_embeddings=True), 16, 128),
    "small": Shape(ModelConfig(8192, 6, 256, 4, 2, 672, max_seq_len=256, tie_embeddings=True), 16, 256),
    "large": Shape(ModelConfig(32000, 8, 512, 8, 4, max_seq_len=512, tie_embeddings=True), 8, 512),
}


def random_tokens(folder: Path, vocab_size: int, n_tokens: int = N_TOKENS) -> Path:
    """Token data of random ids in a new folder, one document."""
    import numpy as np

    from babyllm.store.shard_writer import ShardWriter

    writer = ShardWriter(folder, vocab_size, 2, "")
    ids = np.random.default_rng(0).integers(3, vocab_size, n_tokens, np.uint16)
    writer.append(ids, np.array([[len(ids), 0]]), "random", "train")
    writer.finish()
    return folder


def new_loader(tokens: Path, shape: Shape, runtime: Runtime, micro_batch: int | None = None) -> Loader:
    """A loader at its first row, with nothing read from the token data yet.

    Args:
        tokens: directory of token data.
        shape: global batch and tokens of a row.
        runtime: device and ranks.
        micro_batch: sequences per rank and forward pass; None is the whole share of a rank.
    """
    from babyllm.data.loader import Loader
    from babyllm.data.order.shuffle import Shuffled
    from babyllm.data.row_config import Share
    from babyllm.data.rows.windows import Windows
    from babyllm.store.shards import open_tokens

    rows = Windows(open_tokens(tokens, check=False).stream("train"), shape.seq_len, 2)
    share = Share(shape.batch, micro_batch or shape.batch // runtime.world_size, runtime.rank, runtime.world_size)
    return Loader(Shuffled(rows, 0), share, seed=0, pin_memory=runtime.device.type == "cuda")


def new_state(shape: Shape, loader: Loader, runtime: Runtime, optim: OptimConfig | None = None) -> TrainState:
    """A run at step 0, with AdamW unless `optim` sets another optimizer."""
    import babyllm
    from babyllm.optim.build import make_optimizer
    from babyllm.parallel.forms import choose_forms
    from babyllm.training.state import TrainState

    model = babyllm.Transformer(shape.model).to(runtime.device)
    choose_forms(model, runtime, shape.seq_len)
    return TrainState(model, make_optimizer(model, optim or OptimConfig()), runtime.scaler(), loader, runtime)


def train_steps(state: TrainState, n_steps: int) -> None:
    """Train some steps more; a stop signal ends the benchmark."""
    import babyllm
    from babyllm.objectives.lm import language_model

    babyllm.train(state, language_model, babyllm.Plan(steps=state.step + n_steps))
    if state.stop_reason:
        raise SystemExit(state.stop_reason)


def train_in_turns(state: TrainState, steps: int) -> None:
    """In a worker of `benchmarks.turns`: train `steps` steps a turn.

    An answer has the turn's seconds, the share of them spent waiting for data, and the dtype.
    """
    import babyllm
    from babyllm.objectives.lm import language_model
    from babyllm.runtime.precision import dtype_name
    from babyllm.training.state import Every

    runtime, began = state.runtime, 0.0

    def wait(state: TrainState) -> None:
        nonlocal began
        is_over = runtime.is_main and not sys.stdin.readline()
        if runtime.sum([float(is_over)])[0]:
            state.stop_reason = "end of the benchmark"
        state.take_times()
        began = now(runtime.device)

    def end_turn(state: TrainState) -> None:
        seconds = now(runtime.device) - began
        _, waited_s = state.take_times()
        if runtime.is_main:
            facts = {"waited": waited_s / seconds, "dtype": dtype_name(runtime.dtype)}
            turns.answer({"seconds": seconds, **facts, **peak_memory(runtime.device)})
        wait(state)

    wait(state)
    babyllm.train(state, language_model, babyllm.Plan(steps=1_000_000), [Every(steps, end_turn, at_end=False)])


def peak_memory(device: torch.device) -> dict[str, float]:
    """The most memory in GiB that this process has held on a GPU, as "memory"; nothing on a CPU."""
    import torch

    return {"memory": torch.cuda.max_memory_allocated() / 2**30} if device.type == "cuda" else {}


def now(device: torch.device) -> float:
    """Seconds, when the device has done all that was asked of it."""
    import torch

    getattr(torch, device.type).synchronize()
    return time.perf_counter()
