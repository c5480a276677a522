"""Bytes/s of `babyllm tokenize` from Parquet to shards, beside one SentencePiece thread encoding the texts from memory.

    python -m benchmarks.corpus.tokenize_corpus [--parquet FILE.parquet] [--documents 1200000] [--workers N]

The Parquet file has a column `text`; its documents are written as a corpus first, and a tokenizer is trained on some of
them. Then all contestants encode all of them, in turns. The stage is a process of its own: its time is from its start
to its end, and its CPU time is that of all its processes. "threads at once" is what the machine reaches when
SentencePiece works on all its cores and nothing else is done: on a busy machine, or where cores share their units, that
is less than one thread's rate times the cores.
"""

from __future__ import annotations

import multiprocessing
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import figures

VOCAB_SIZE, COVERAGE = 8192, 0.995
TRAINING_DOCUMENTS = 20_000
Time = tuple[float, float]
"""Seconds by the clock, and of all processors together."""


def main() -> None:
    parser = figures.parser(__doc__)
    parser.add_argument("--parquet", type=Path, help="file with a column text; default: the poems of BABYLLM_DATA")
    parser.add_argument("--documents", type=int, default=1_200_000, help="read so many; repeated to make more")
    parser.add_argument("--workers", type=int, help="processes; one per core unless given")
    parser.add_argument("--rounds", type=int, default=2, help="turns of each")
    args = figures.parse(parser, documents=20_000, rounds=1)
    parquet = args.parquet or figures.poems() or figures.skip(figures.NO_POEMS)
    from babyllm.runtime.machine import cores

    workers = args.workers or cores()
    with tempfile.TemporaryDirectory(prefix="tokenize-") as name:
        folder = Path(name)
        texts = _prepare(parquet, args.documents, folder)
        n_bytes = sum(len(text.encode()) for text in texts)
        contestants: dict[str, Callable[[], Time]] = {
            "one thread": lambda: _threads(texts, folder / "tokenizer", 1),
            f"{workers} threads at once": lambda: _threads(texts, folder / "tokenizer", workers),
            "babyllm tokenize": lambda: _stage(folder, workers),
        }
        turns: dict[str, list[Time]] = {label: [] for label in contestants}
        for _ in range(args.rounds):
            for label, run in contestants.items():
                turns[label].append(run())
    for label, times in turns.items():
        wall, cpu = (median(time[i] for time in times) for i in range(2))
        print(f"{label:<20}{n_bytes / wall / 1e6:8.1f} MB/s   wall {wall:7.2f} s   CPU {cpu:7.2f} s")
    one, bound, stage = turns.values()
    rate = n_bytes / median(wall for wall, _ in stage) / 1e6
    measured = [figures.Figure(f"Parquet to shards, {workers} workers", rate, "MB/s")]
    for label, base, n in ((f"{workers} times one SentencePiece thread", one, workers), ("threads at once", bound, 1)):
        walls, cpus = ([theirs[i] / ours[i] for theirs, ours in zip(base, stage, strict=True)] for i in range(2))
        ratios = [ratio / n for ratio in walls]
        print(f"over {label:<36} {figures.spread(ratios)} by wall time, {figures.spread(cpus)} by CPU time")
        measured.append(figures.Figure(f"over {label}", median(ratios), "x"))
    figures.write(args, measured)


def _prepare(parquet: Path, n_documents: int, folder: Path) -> list[str]:
    import pyarrow.parquet as pq

    from babyllm.documents import Document
    from babyllm.store.corpus import Part, write_corpus, write_part
    from babyllm.tokenizer import Tokenizer

    column = pq.read_table(parquet, columns=["text"]).column(0)
    texts: list[str] = [text for text in column.to_pylist() if text]
    texts = (texts * (n_documents // len(texts) + 1))[:n_documents]
    (folder / "corpus").mkdir()

    def documents() -> Iterator[Document]:
        for i, text in enumerate(texts):
            yield Document(text, "text", f"{parquet.name}:{i}")

    part = Part("part-00000.parquet", write_part(documents(), folder / "corpus" / "part-00000.parquet"))
    write_corpus(folder / "corpus", [part], {})
    step = max(1, len(texts) // TRAINING_DOCUMENTS)
    Tokenizer.train(texts[::step], VOCAB_SIZE, character_coverage=COVERAGE).save(folder / "tokenizer")
    return texts


def _threads(texts: list[str], tokenizer: Path, n: int) -> Time:
    """SentencePiece alone, in `n` processes of one thread that share the texts, which lie in their memory."""
    context = multiprocessing.get_context("fork")
    together, times = context.Barrier(n), context.Queue()
    workers = [context.Process(target=_encode, args=(texts[i::n], tokenizer, together, times)) for i in range(n)]
    for worker in workers:
        worker.start()
    found = [times.get() for _ in workers]
    for worker in workers:
        worker.join()
    return max(wall for wall, _ in found), sum(cpu for _, cpu in found)


def _encode(texts: list[str], tokenizer: Path, together: Any, times: Any) -> None:
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer / "tokenizer.model"))
    together.wait()
    wall, cpu = time.perf_counter(), time.process_time()
    for start in range(0, len(texts), 2048):
        processor.encode(texts[start : start + 2048], num_threads=1)
    times.put((time.perf_counter() - wall, time.process_time() - cpu))


def _stage(folder: Path, workers: int) -> Time:
    shutil.rmtree(folder / "tokens", ignore_errors=True)
    code = (
        "import sys; from babyllm.config import parse; from babyllm.commands.corpus.tokenize import Flags, run\n"
        "run(parse(Flags, sys.argv[3:], prog='tokenize'), *sys.argv[1:3])"
    )
    flags = [f"--tokenizer={folder / 'tokenizer'}", f"--work.workers={workers}", f"--work.partition_bytes={1 << 24}"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    wall = time.perf_counter()
    subprocess.run(
        [sys.executable, "-c", code, str(folder / "corpus"), str(folder / "tokens"), *flags],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wall = time.perf_counter() - wall
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
