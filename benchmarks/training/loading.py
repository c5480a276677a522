"""Rows per second of the loader beside a plain read of the same windows, and the share of a step spent on waiting.

    python -m benchmarks.training.loading [--rounds 5] [--steps 60] [--rows 20000]

The bound reads shuffled windows of one `np.memmap`, in the order of the loader, into tensors of 64-bit ids, and does
nothing else. For the waits, the quick shape is trained on files that are in the page cache, and on files that were just
dropped from it; they hold 30 times more than a turn reads, so that nearly every row comes from the disk.
"""

from __future__ import annotations

import os
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from benchmarks import figures
from benchmarks.training.ours import SHAPES, new_loader, new_state, random_tokens, train_steps

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from babyllm.runtime import Runtime

SHAPE = SHAPES["quick"]
N_TOKENS = 1 << 26


def main() -> None:
    parser = figures.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="turns of each")
    parser.add_argument("--rows", type=int, default=20_000, help="rows that a turn reads")
    parser.add_argument("--steps", type=int, default=60, help="steps that a turn trains")
    args = figures.parse(parser, rounds=1, rows=1000, steps=2)
    from babyllm.runtime import RuntimeConfig, start

    with tempfile.TemporaryDirectory() as name, start(RuntimeConfig(device="cpu", compile=False)) as runtime:
        tokens = random_tokens(Path(name, "tokens"), SHAPE.model.vocab_size, N_TOKENS)
        rates = _rates(tokens, runtime, args.rounds, args.rows)
        waits = _waits(tokens, runtime, args.rounds, args.steps)
        figures.write(args, [*rates, *waits])


# ---- rows per second


def _rates(tokens: Path, runtime: Runtime, n_rounds: int, n_rows: int) -> Iterator[figures.Figure]:
    loader = new_loader(tokens, SHAPE, runtime)
    next(loader)  # starts its thread
    ours, bounds = [], []
    for _ in range(n_rounds):
        began = time.perf_counter()
        for _ in range(n_rows // SHAPE.batch):
            next(loader)
        ours.append(n_rows / (time.perf_counter() - began))
        bounds.append(n_rows / _plain_read(tokens, n_rows))
    loader.close()
    mb = SHAPE.seq_len * 2 / 1e6  # ids of two bytes
    shares = [our / bound for our, bound in zip(ours, bounds, strict=True)]
    print(f"rows of {SHAPE.seq_len} tokens: loader {figures.spread(ours, 0)} rows/s, {median(ours) * mb:.1f} MB/s")
    print(f"plain read of a memmap: {figures.spread(bounds, 0)} rows/s, {median(bounds) * mb:.1f} MB/s")
    print(f"loader over plain read: {figures.spread(shares, 3)}", flush=True)
    yield figures.Figure("loader, rows of 128 tokens", median(ours), "rows/s")
    yield figures.Figure("loader, ids of two bytes", median(ours) * mb, "MB/s")
    yield figures.Figure("loader over a plain read of the windows", median(shares), "ratio")


def _plain_read(tokens: Path, n_rows: int) -> float:
    """Seconds of a read of windows in a random order, a batch at a time, from one memory map."""
    import numpy as np
    import torch

    T, B = SHAPE.seq_len, SHAPE.batch
    ids = np.memmap(next(tokens.glob("*.bin")), "<u2", "r")
    order = np.random.default_rng(0).permutation((len(ids) - 1) // T)[:n_rows]
    began = time.perf_counter()
    for i in range(0, len(order), B):
        rows: NDArray[np.int64] = np.stack([ids[j * T : (j + 1) * T + 1] for j in order[i : i + B]]).astype(np.int64)
        torch.from_numpy(rows)
    return time.perf_counter() - began


# ---- waits


def _waits(tokens: Path, runtime: Runtime, n_rounds: int, n_steps: int) -> Iterator[figures.Figure]:
    state = new_state(SHAPE, new_loader(tokens, SHAPE, runtime), runtime)
    shares: dict[str, list[float]] = {"in the page cache": [], "dropped from the page cache": []}
    for i in range(n_rounds + 1):
        for name, of_name in shares.items():
            state.stream = new_loader(tokens, SHAPE, runtime)  # the one before it unmaps the files
            if "dropped" in name:
                _drop(tokens)
            train_steps(state, 1)  # starts the loader's thread, once a run
            faults = _faults()
            state.take_times()
            train_steps(state, n_steps)
            busy_s, waited_s = state.take_times()
            state.stream.close()
            if i:  # the first turn warms up
                of_name.append(100 * waited_s / busy_s)
            print(f"{name}: waits {waited_s / busy_s:.3%} of {busy_s:.1f} s, {_faults() - faults:,} reads of the disk")
    for name, of_name in shares.items():
        print(f"waits for data, {name}: {figures.spread(of_name, 3)} % of the steps")
        yield figures.Figure(f"waits for data, of a step, {name}", median(of_name), "%")


def _drop(tokens: Path) -> None:
    """Make the system forget the pages of the files, none of which may be in use."""
    for path in tokens.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _faults() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_majflt


if __name__ == "__main__":
    main()
