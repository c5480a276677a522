"""How much longer a stage takes on Ray, or as one command that others could join, than on the local engine.

    python -m benchmarks.corpus.engines [--mb 500] [--workers 2]

It cleans (with three filters) and deduplicates the poems, repeated to so many MB of UTF-8 with a number at the end of
each, once per engine and in the same number of processes, and prints the seconds of each. The time of Ray includes the
start of a cluster of this machine. Leave the machine alone meanwhile.
"""

import filecmp
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq

from babyllm.documents import Document
from babyllm.pipeline.partitions import WorkConfig
from babyllm.store.corpus import Part, write_corpus, write_part
from babyllm.text.clean.filters import CleanConfig
from babyllm.text.clean.stage import clean
from babyllm.text.dedup.dedup_config import DedupConfig
from babyllm.text.dedup.stage import dedup
from benchmarks import figures

ENGINES = ("local", "shared", "ray")
N_PARTS = 8
FILTERS = replace(CleanConfig(), filters=["length", "unicode", "controls"])  # few, so that the engine's time shows


def write_repeated(folder: Path, poems: Path, n_bytes: int) -> None:
    """Write a corpus of so many bytes in equal parts."""
    folder.mkdir()
    texts: list[str] = pq.read_table(poems, columns=["text"])["text"].to_pylist()
    parts, number = [], 0
    for part in range(N_PARTS):
        documents, left = [], n_bytes // N_PARTS
        while left > 0:
            text = f"{texts[number % len(texts)]}\n{number}"
            documents.append(Document(text, "poems", str(number)))
            left -= len(text.encode())
            number += 1
        parts.append(Part(f"{part}.parquet", write_part(documents, folder / f"{part}.parquet")))
    write_corpus(folder, parts, {})


def measure(engine: str, folder: Path, workers: int, partition_bytes: int, has_dedup: bool) -> dict[str, float]:
    """The seconds of each stage, whose outputs are in a folder named after the engine."""
    work = WorkConfig(workers, partition_bytes, engine)  # type: ignore[arg-type]
    begin = time.perf_counter()
    assert clean([folder / "raw"], folder / engine / "clean", FILTERS, work=work)
    seconds = {"clean": time.perf_counter() - begin}
    if has_dedup:
        begin = time.perf_counter()
        assert dedup([folder / engine / "clean"], folder / engine / "dedup", DedupConfig(work=work))
        seconds["dedup"] = time.perf_counter() - begin
    return seconds


def is_same(one: Path, other: Path) -> bool:
    """Whether the parts of all corpora are equal in their bytes."""
    names = [path.relative_to(one) for path in one.rglob("*.parquet")]
    return bool(names) and all(filecmp.cmp(one / name, other / name, shallow=False) for name in names)


def main() -> None:
    parser = figures.parser(__doc__)
    parser.add_argument("--mb", type=float, default=500, help="text of the corpus (default 500)")
    parser.add_argument("--workers", type=int, default=2, help="processes (default 2)")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES), help="default: all")
    parser.add_argument("--no-dedup", action="store_true", help="clean alone")
    args = figures.parse(parser, mb=5)
    poems = figures.poems()
    if poems is None:
        figures.skip(figures.NO_POEMS)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    rates = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_repeated(folder / "raw", poems, int(args.mb * 1e6))
        size = min(16 << 20, int(args.mb * 1e6) // N_PARTS)
        for engine in args.engines:
            seconds = measure(engine, folder, args.workers, size, not args.no_dedup)
            same = engine == args.engines[0] or is_same(folder / args.engines[0], folder / engine)
            print(f"{engine}: {seconds}, {'same bytes' if same else 'OTHER BYTES'}", flush=True)
            rates += [figures.Figure(f"{stage} on {engine}", value, "s") for stage, value in seconds.items()]
    figures.write(args, rates)


if __name__ == "__main__":
    main()
