"""Seconds per gigabyte that checking files costs: token shards, other files, and the weights of a step directory.

    python -m benchmarks.corpus.verify [--gigabytes 0.5]

Shards are opened twice: the first time they are read through, the second time remembered. A model is loaded beside its
tensors alone, as safetensors reads them; all of them are touched, since they are mapped and not read at once.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from babyllm.files import json_digest, sha256, write_json
from babyllm.integrity import RESUME, TICK_NS, examine
from benchmarks import figures

N_SHARDS = 4


def main() -> None:
    parser = figures.parser(__doc__)
    parser.add_argument("--gigabytes", type=float, default=0.5, help="of each kind of file")
    args = figures.parse(parser, gigabytes=0.05)
    n_bytes = round(args.gigabytes * 1e9)
    with tempfile.TemporaryDirectory(prefix="verify-") as name:
        figures.write(args, [*_shards(Path(name, "shards"), n_bytes), *_weights(Path(name, "step"), n_bytes)])


def _timed(title: str, n_bytes: int, run: Callable[[], object]) -> figures.Figure:
    began, began_busy = time.perf_counter(), time.process_time()
    run()
    seconds, busy = time.perf_counter() - began, time.process_time() - began_busy
    print(f"{title:40} {seconds / n_bytes * 1e9:7.3f} s/GB {busy / n_bytes * 1e9:7.3f} processor s/GB")
    return figures.Figure(title, seconds / n_bytes * 1e9, "s/GB")


def _shards(directory: Path, n_bytes: int) -> Iterator[figures.Figure]:
    from babyllm.store.shard_writer import ShardWriter
    from babyllm.store.shards import open_tokens

    ids = np.random.default_rng(0).integers(0, 30_000, n_bytes // 2 // N_SHARDS, np.uint16)
    writer = ShardWriter(directory, 32_768, 2, "", len(ids))
    for _ in range(N_SHARDS):
        writer.append(ids, np.array([[len(ids), 0]]), "text", "train")
    writer.finish()
    time.sleep(2 * TICK_NS / 1e9)
    yield _timed("shards, opened without a check", n_bytes, lambda: open_tokens(directory, check=False))
    yield _timed("shards, the first time", n_bytes, lambda: open_tokens(directory))
    yield _timed("shards, remembered", n_bytes, lambda: open_tokens(directory))
    names = {file.name: None for file in directory.glob("*.bin")}
    yield _timed("files that hold no ids, as of a corpus", n_bytes, lambda: examine(directory, names, again=True))


def _weights(directory: Path, n_bytes: int) -> Iterator[figures.Figure]:
    import torch
    from safetensors.torch import load_file

    from babyllm.interop.huggingface import load_model, save_model
    from babyllm.interop.weights import WEIGHTS
    from babyllm.model.config import ModelConfig
    from babyllm.model.transformer import Transformer

    layers = max(1, round(n_bytes / 4 / 12.6e6))  # of that many parameters each
    directory.mkdir()
    save_model(directory, Transformer(ModelConfig(4096, layers, 1024, 16, 16, max_seq_len=64)), None)
    size = (directory / WEIGHTS).stat().st_size

    def touched(tensors: dict[str, torch.Tensor]) -> None:
        for tensor in tensors.values():
            tensor.sum()

    yield _timed("tensors, as safetensors reads them", size, lambda: touched(load_file(directory / WEIGHTS)))
    yield _timed("model without resume.json", size, lambda: load_model(directory))
    resume = {"sha256": {file.name: sha256(file) for file in directory.iterdir()}}
    resume["sha256"][RESUME] = json_digest(resume)
    write_json(directory / RESUME, resume)
    yield _timed("model of a step", size, lambda: load_model(directory))


if __name__ == "__main__":
    main()
