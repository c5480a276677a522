"""How long k-center-greedy takes beside the matrix product of all vectors with all centres, and what memory it needs.

    python -m benchmarks.selection.k_center [--vectors 100000] [--width 128] [--centres 5000] [--rounds 3] [--file]

The plain algorithm needs the distance of each vector to each centre, so one matrix product of this size, cut into
blocks, is the least that it could take. The vectors are of two kinds: "spread", independent normal numbers, and
"narrow", of ten independent directions and far from zero, as hidden states are. With `--file` they are read from a
memory map in a temporary folder. Memory is the peak of what numpy allocates, without the vectors.
"""

import tempfile
import time
import tracemalloc
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from babyllm.selection.numeric.k_center import k_center
from benchmarks import figures

BLOCK = 1024


def spread(n: int, width: int, rng: np.random.Generator) -> NDArray[np.float32]:
    return rng.standard_normal((n, width), np.float32)


def narrow(n: int, width: int, rng: np.random.Generator) -> NDArray[np.float32]:
    directions = rng.standard_normal((10, width), np.float32)
    return rng.standard_normal((n, 10), np.float32) @ directions + 5 * rng.standard_normal(width, np.float32)


def made(kind: str, n: int, width: int, path: Path | None) -> NDArray[np.float32]:
    """The vectors, made a part at a time, in memory or as a memory map."""
    shape = (n, width)
    vectors: NDArray[np.float32]
    vectors = np.lib.format.open_memmap(path, "w+", np.float32, shape) if path else np.empty(shape, np.float32)
    for first in range(0, n, 100_000):
        rng = np.random.default_rng([first, 1])
        part = vectors[first : first + 100_000]
        part[:] = {"spread": spread, "narrow": narrow}[kind](len(part), width, rng)
    return np.load(path, mmap_mode="r") if path else vectors


def product(vectors: NDArray[np.float32], k: int) -> float:
    """Seconds of all products of vectors with `k` of them, block by block."""
    centres = np.ascontiguousarray(vectors[:k].T)
    begin = time.perf_counter()
    for first in range(0, len(vectors), BLOCK):
        vectors[first : first + BLOCK] @ centres
    return time.perf_counter() - begin


def greedy(vectors: NDArray[np.float32], k: int) -> float:
    """Seconds of k-center-greedy."""
    begin = time.perf_counter()
    k_center(vectors, k)
    return time.perf_counter() - begin


def peak_mb(vectors: NDArray[np.float32], k: int) -> float:
    """The peak of what numpy allocates, in MB (10^6 bytes)."""
    tracemalloc.start()
    k_center(vectors, k)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 1e6


def measure(kind: str, args: Any, path: Path | None) -> list[figures.Figure]:
    vectors = made(kind, args.vectors, args.width, path)
    turns = [(product(vectors, args.centres), greedy(vectors, args.centres)) for _ in range(args.rounds)]
    memory = peak_mb(vectors, args.centres)
    seconds, ratios = [own for _, own in turns], [own / bound for bound, own in turns]
    title = f"{args.vectors:,} {kind} vectors, {args.centres:,} centres"
    print(f"{title}{', from a file' if path else ''}", flush=True)
    print(f"  {figures.spread(seconds)} s, the product alone {figures.spread([bound for bound, _ in turns])} s")
    print(f"  {figures.spread(ratios)} times the product; {memory:,.0f} MB", flush=True)
    return [
        figures.Figure(title, median(seconds), "s"),
        figures.Figure(f"{title}, over the product alone", median(ratios), "ratio"),
        figures.Figure(f"{title}, memory beside the vectors", memory, "MB"),
    ]


def main() -> None:
    parser = figures.parser(__doc__)
    parser.add_argument("--vectors", type=int, default=100_000, help="their number (default 100,000)")
    parser.add_argument("--width", type=int, default=128, help="numbers of a vector (default 128)")
    parser.add_argument("--centres", type=int, default=5000, help="chosen vectors (default 5,000)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of both (default 3)")
    parser.add_argument("--file", action="store_true", help="vectors are in a memory map")
    args = figures.parse(parser, vectors=5000, centres=200, rounds=1)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("spread", "narrow"):
            found += measure(kind, args, Path(folder, f"{kind}.npy") if args.file else None)
    figures.write(args, found)


if __name__ == "__main__":
    main()
