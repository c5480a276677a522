"""Exact-substring deduplication: its speed, and its growth in time and memory with the size of the corpus.

    python -m benchmarks.corpus.substrings [poems] [line] [--workers 2] [--sizes 100000 200000 400000 800000]

`poems` takes the poems of BABYLLM_DATA, and after their end edited copies of them. `line` takes one line, repeated a
hundred times in each document with a different end. Each size is deduplicated with and without `--substrings`, exact
repetitions only; the difference is what the spans cost.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from babyllm.documents import Document
from benchmarks import figures
from benchmarks.corpus.dedup import again, make_corpus, read_poems, run_dedup

FLAGS = ("--near=[]", "--substrings.min_characters=50")
LINE = "本网站所载文章、数据仅供参考，使用前务请仔细阅读法律声明，风险自负。All rights reserved. 未经许可不得转载。\n"
LINES = 100  # in each document of `line`


def main() -> None:
    parser = figures.parser(__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help="poems or line; default: both")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--sizes", type=int, nargs="+", default=[100_000, 200_000, 400_000, 800_000])
    args = figures.parse(parser, sizes=[1000, 2000])
    if unknown := set(args.parts) - {"poems", "line"}:
        parser.error(f"no part {', '.join(unknown)}")
    poems = figures.poems() or figures.skip(figures.NO_POEMS)
    originals, rng = read_poems(poems), random.Random(1)

    def poem(i: int) -> Document:
        return originals[i] if i < len(originals) else again(originals[i % len(originals)], i, rng)

    parts: dict[str, Callable[[int], list[Document]]] = {
        "poems": lambda n: [poem(i) for i in range(n)],
        "line": lambda n: [Document(LINE * LINES + str(i), "text", str(i)) for i in range(n // LINES)],
    }
    measured: list[figures.Figure] = []
    for name in args.parts or parts:
        with tempfile.TemporaryDirectory() as folder:
            measured += growth(name, parts[name], Path(folder), args)
    figures.write(args, measured)


def growth(
    name: str, make: Callable[[int], list[Document]], folder: Path, args: argparse.Namespace
) -> Iterator[figures.Figure]:
    """Megabytes of text per second, growth from size to size, and the peak memory of all processes."""
    last: float | None = None
    for n in args.sizes:
        documents = make(n)
        megabytes = sum(len(document.text.encode()) for document in documents) / 1e6
        corpus = make_corpus(documents, folder / f"in{n}")
        without = run_dedup(corpus, folder / f"plain{n}", args.workers, FLAGS[0])
        spans = run_dedup(corpus, folder / f"out{n}", args.workers, *FLAGS)
        wall_s, cpu_s = (spans[key] - without[key] for key in ("wall_s", "cpu_s"))
        print(f"{name} {n:9,}, {megabytes:6.1f} MB: {wall_s:6.1f} s, {cpu_s:6.1f} s of CPU for the spans; ", end="")
        print(f"{megabytes / wall_s:5.1f} MB/s, {megabytes / cpu_s:5.1f} MB per s of CPU; ", end="")
        print(f"peak {spans['peak_bytes'] / 1e6:.0f} MB, without them {without['peak_bytes'] / 1e6:.0f} MB", flush=True)
        yield figures.Figure(f"{name}, {n // 1000} k: spans", megabytes / wall_s, "MB/s")
        yield figures.Figure(f"{name}, {n // 1000} k: peak memory", spans["peak_bytes"] / 1e6, "MB")
        if last:
            yield figures.Figure(f"{name}, CPU seconds, to {n // 1000} k", cpu_s / last, "x")
        last = cpu_s


if __name__ == "__main__":
    main()
