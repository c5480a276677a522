"""Deduplication beside loops around other libraries; its recall and precision; its growth in time and memory.

    python -m benchmarks.corpus.dedup [speed] [quality] [growth] [--workers 2] [--sizes 50000 100000 200000 400000]

It reads the poems of BABYLLM_DATA. Times are wall and CPU seconds of processes of their own; on a machine with other
work to do the CPU seconds say more.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import pyarrow.parquet as pq

from babyllm.documents import Document
from babyllm.store.corpus import Part, write_corpus, write_part
from babyllm.text.dedup.normal import normal_form
from benchmarks import figures
from benchmarks.corpus.dedup_peers import PEERS, THRESHOLD, Loop, N, installed, measure

PART_DOCUMENTS = 50_000
COMMAND = (
    "import sys; from pathlib import Path; from babyllm.commands.corpus import dedup; from babyllm.config import parse;"
    "dedup.run(parse(dedup.Flags, sys.argv[3:], prog='dedup'), *sys.argv[1:3])"
)


def main() -> None:
    parts = {"speed": speed, "quality": quality, "growth": growth}
    parser = figures.parser(__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help="speed, quality or growth; default: all")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2, help="turns of each for the speed")
    parser.add_argument("--documents", type=int, default=400_000, help="at most, for the speed")
    parser.add_argument("--sizes", type=int, nargs="+", default=[50_000, 100_000, 200_000, 400_000])
    args = figures.parse(parser, rounds=1, documents=2000, sizes=[1000, 2000])
    if unknown := set(args.parts) - set(parts):
        parser.error(f"no part {', '.join(unknown)}")
    poems = figures.poems() or figures.skip(figures.NO_POEMS)
    measured: list[figures.Figure] = []
    for name in args.parts or parts:
        with tempfile.TemporaryDirectory() as folder:
            measured += parts[name](poems, Path(folder), args)
    figures.write(args, measured)


def read_poems(poems: Path) -> list[Document]:
    table = pq.read_table(poems, columns=["text", "source", "id"])
    return [Document(*row) for row in zip(*(column.to_pylist() for column in table.columns), strict=True)]


def make_corpus(documents: list[Document], directory: Path) -> Path:
    directory.mkdir()
    parts = []
    for first in range(0, len(documents), PART_DOCUMENTS):
        name = f"{first:09d}.parquet"
        parts.append(Part(name, write_part(documents[first : first + PART_DOCUMENTS], directory / name)))
    write_corpus(directory, parts, {})
    return directory


# ---- speed


def speed(poems: Path, folder: Path, args: argparse.Namespace) -> Iterator[figures.Figure]:
    """Documents per second from Parquet to clusters, and to the corpus that is left, beside the peers'."""
    if missing := set(PEERS) - set(installed()):
        print(f"not installed, so not measured: {', '.join(sorted(missing))}")
    documents = read_poems(poems)[: args.documents]
    corpus, ours = make_corpus(documents, folder / "in"), []
    theirs: dict[str, list[Loop]] = {name: [] for name in installed()}
    for number in range(args.rounds):
        for name, loops in theirs.items():
            loops.append(measure(name, poems, len(documents)))
        ours.append(run_dedup(corpus, folder / f"out{number}", args.workers))
    clusters, whole, cpu = (len(documents) / median(t[key] for t in ours) for key in ("clusters_s", "wall_s", "cpu_s"))
    print(f"babyllm: {clusters:,.0f} documents/s to clusters, {whole:,.0f} with the corpus written", end="")
    print(f" ({cpu:,.0f} per CPU second)", flush=True)
    yield figures.Figure("Parquet to clusters", clusters, "documents/s")
    yield figures.Figure("with the corpus written", whole, "documents/s")
    yield figures.Figure("with the corpus written, CPU", cpu, "documents per CPU second")
    for name, loops in theirs.items():
        yield from _beside(name, loops, clusters, cpu)


def _beside(name: str, loops: list[Loop], clusters: float, cpu: float) -> Iterator[figures.Figure]:
    """What a peer reaches beside babyllm, whose rates are in documents per second and per CPU second."""
    n = loops[0].n_documents
    by_wall, by_cpu = (n / median(loop.wall_s for loop in loops), n / median(loop.cpu_s for loop in loops))
    print(f"{name}: {by_wall:,.0f} documents/s to flags ({by_cpu:,.0f} per CPU second), {loops[0].n_flagged:,}", end="")
    print(f" of {n:,} flagged; babyllm {clusters / by_wall:.2f} x, {cpu / by_cpu:.2f} x per CPU second")
    yield figures.Figure(f"texts to flags by {name}", by_cpu, "documents per CPU second")
    yield figures.Figure(f"Parquet to clusters over a loop of {name}", clusters / by_wall, "x")
    yield figures.Figure(f"with the corpus written, CPU, over a loop of {name}", cpu / by_cpu, "x")


def run_dedup(corpus: Path, out: Path, workers: int, *flags: str) -> dict[str, float]:
    """Seconds to the clusters and in all, CPU seconds, and the peak of the memory of all its processes in bytes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start, started = time.perf_counter(), time.time()
    command = [sys.executable, "-c", COMMAND, str(corpus), str(out), f"--work.workers={workers}", *flags]
    with (out.parent / "log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        peak = 0
        while process.poll() is None:
            peak = max(peak, sum(memory(pid) for pid in family(process.pid)))
            time.sleep(0.02)
    wall_s = time.perf_counter() - start
    if process.returncode:
        raise SystemExit((out.parent / "log").read_text())
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    clusters_s = (out / "clusters.parquet").stat().st_mtime - started
    return {"wall_s": wall_s, "clusters_s": clusters_s, "cpu_s": cpu_s, "peak_bytes": float(peak)}


def family(pid: int) -> Iterator[int]:
    """A process and all that it started."""
    yield pid
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                yield from family(int(child))
    except OSError:  # it has ended
        return


def memory(pid: int) -> int:
    """Bytes that a process alone has, and those of files that it maps."""
    try:
        fields = Path(f"/proc/{pid}/statm").read_text(encoding="utf-8").split()
    except OSError:
        return 0
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


# ---- quality


def quality(poems: Path, folder: Path, args: argparse.Namespace) -> Iterator[figures.Figure]:
    """Recall of pairs at the threshold, all of which an exact join finds; precision of the links that clusters hold."""
    rng = random.Random(1)
    documents = [d for d in read_poems(poems) if d.domain in ("quantangshi.tang", "yudingquantangshi")]
    bases = rng.sample([d for d in documents if len(normal_form(d.text)) >= 60], 4000)
    planted = [Document(edited(d.text, rng), "planted", f"planted-{i}") for i, d in enumerate(bases)]
    documents += planted
    sets = {d.id: shingle_set(d.text) for d in documents}
    similarities = [jaccard(sets[a.id], sets[b.id]) for a, b in zip(bases, planted, strict=True)]
    print("planted pairs by similarity:", dict(sorted(Counter(math.floor(s * 50) / 50 for s in similarities).items())))
    truth = join(sets)
    known = {
        tuple(sorted((a.id, b.id))) for a, b, s in zip(bases, planted, similarities, strict=True) if s >= THRESHOLD
    }
    if not known <= truth:
        raise SystemExit("the exact join misses planted pairs")
    run_dedup(make_corpus(documents, folder / "in"), folder / "out", args.workers)
    rows = pq.read_table(folder / "out" / "clusters.parquet").to_pylist()
    cluster = {row["id"]: row["cluster"] for row in rows}
    found = [pair for pair in truth if cluster.get(pair[0], 0) == cluster.get(pair[1], 1)]
    found_known = [pair for pair in known if cluster.get(pair[0], 0) == cluster.get(pair[1], 1)]
    links = [row for row in rows if row["id"] != row["neighbour"]]
    good = [row for row in links if jaccard(sets[row["id"]], sets[row["neighbour"]]) >= THRESHOLD]
    print(f"{len(truth):,} pairs at Jaccard >= {THRESHOLD}, {len(known):,} of them planted")
    print(f"recall {len(found) / len(truth):.4f}, of the planted {len(found_known) / len(known):.4f}")
    print(f"precision {len(good) / len(links):.4f} of {len(links):,} links")
    yield figures.Figure(f"recall of {len(truth):,} pairs at {THRESHOLD} or above", len(found) / len(truth), "share")
    yield figures.Figure(f"precision of {len(links):,} links", len(good) / len(links), "share")


def edited(text: str, rng: random.Random) -> str:
    """The text with characters replaced, so that between 100 % and about 80 % of its shingles stay."""
    letters = list(text)
    places = [i for i, c in enumerate(letters) if normal_form(c)]
    # A replaced character changes N shingles of either text: of n the share n_edits * N / n is changed.
    share = rng.uniform(0, 0.13)
    for place in rng.sample(places, round(share * len(places) / N)):
        letters[place] = chr(rng.randrange(0x4E00, 0x9FA0))
    return "".join(letters)


def shingle_set(text: str) -> frozenset[str]:
    normal = normal_form(text)
    return frozenset(normal[i : i + N] for i in range(max(1, len(normal) - N + 1))) if normal else frozenset()


def jaccard(a: frozenset[str], b: frozenset[str]) -> float:
    return len(a & b) / len(a | b) if a or b else 1.0


def join(sets: dict[str, frozenset[str]]) -> set[tuple[str, ...]]:
    """All pairs at the threshold, exactly: the rarest elements of two such sets meet (Chaudhuri et al. 2006)."""
    frequency = Counter(element for one in sets.values() for element in one)
    index: dict[str, list[str]] = defaultdict(list)
    pairs: set[tuple[str, ...]] = set()
    for name, one in sets.items():
        ordered = sorted(one, key=lambda element: (frequency[element], element))
        prefix = ordered[: len(one) - math.ceil(THRESHOLD * len(one) - 1e-9) + 1]
        for other in {other for element in prefix for other in index[element]}:
            if jaccard(one, sets[other]) >= THRESHOLD:
                pairs.add(tuple(sorted((name, other))))
        for element in prefix:
            index[element].append(name)
    return pairs


# ---- growth


def growth(poems: Path, folder: Path, args: argparse.Namespace) -> Iterator[figures.Figure]:
    """Time and memory for more and more documents: the poems, then the poems again with edits."""
    rng = random.Random(1)
    originals = read_poems(poems)
    few = run_dedup(make_corpus(originals[:100], folder / "few"), folder / "few-out", args.workers)
    print(f"baseline: {few['wall_s']:.1f} s, {few['cpu_s']:.1f} s of CPU, {few['peak_bytes'] / 1e6:.0f} MB")
    last: tuple[int, float] | None = None
    for n in args.sizes:
        documents = [
            originals[i] if i < len(originals) else again(originals[i % len(originals)], i, rng) for i in range(n)
        ]
        now = run_dedup(make_corpus(documents, folder / f"in{n}"), folder / f"out{n}", args.workers)
        over = (now["peak_bytes"] - few["peak_bytes"]) / n
        print(f"{n:9,} documents: {now['wall_s']:6.1f} s, {now['cpu_s']:6.1f} s of CPU; ", end="")
        print(f"peak {now['peak_bytes'] / 1e6:.0f} MB, {over:,.0f} bytes per document over the baseline", flush=True)
        yield figures.Figure(f"peak memory over the baseline, {_short(n)} documents", over, "bytes per document")
        if last:
            title = f"wall time, {_short(last[0])} to {_short(n)} documents"
            yield figures.Figure(title, now["wall_s"] / last[1], "x")
        last = n, now["wall_s"]


def _short(n: int) -> str:
    return f"{n // 1000} k"


def again(document: Document, number: int, rng: random.Random) -> Document:
    return Document(edited(document.text, rng), document.domain, f"{document.id}-{number}")


if __name__ == "__main__":
    main()
