"""Deduplication beside the plain datasketch loop; its recall and precision; its growth in time and memory.

    python -m benchmarks.corpus.dedup [speed] [quality] [growth] [--workers 2] [--documents 50000 100000 200000 400000]

It reads the poems of BABYLLM_DATA. Times are wall and CPU
seconds of processes of their own; on a machine with other work to do the CPU seconds say more.
"""

from __future__ import annotations

import argparse
import json
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

import pyarrow.parquet as pq

from babyllm.documents import Document
from babyllm.store.corpus import Part, open_corpus, write_corpus, write_part
from babyllm.text.dedup.normal import normal_form

THRESHOLD, N, PERMUTATIONS = 0.85, 5, 256
N_LOOP = 20_000
PART_DOCUMENTS = 50_000
COMMAND = (
    "import sys; from pathlib import Path; from babyllm.commands.corpus import dedup; from babyllm.config import parse;"
    "dedup.run(parse(dedup.Flags, sys.argv[3:], prog='dedup'), *sys.argv[1:3])"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("speed", "quality", "growth", "loop"))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--data", type=Path, default=os.environ.get("BABYLLM_DATA"))
    parser.add_argument("--documents", type=int, nargs="+", default=[50_000, 100_000, 200_000, 400_000])
    args = parser.parse_args()
    if args.data is None:
        parser.error("set BABYLLM_DATA or give --data")
    poems = Path(args.data) / "corpora" / "chinese-poetry.parquet"
    with tempfile.TemporaryDirectory() as folder:
        if args.what == "speed":
            speed(poems, Path(folder), args.workers)
        elif args.what == "quality":
            quality(poems, Path(folder), args.workers)
        elif args.what == "growth":
            growth(poems, Path(folder), args.workers, args.documents)
        else:
            loop(poems)


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


def speed(poems: Path, folder: Path, workers: int) -> None:
    """Documents per second from Parquet to clusters, and to the corpus that is left, beside the loop's."""
    corpus = make_corpus(read_poems(poems), folder / "in")
    n_documents = sum(count.documents for count in open_corpus(corpus).domains().values())
    rounds = []
    for number in range(2):
        first = run_loop(poems)
        ours = run_dedup(corpus, folder / f"out{number}", workers)
        rounds.append((first, ours))
        print(
            f"datasketch loop {N_LOOP / first['wall_s']:8,.0f} documents/s; "
            f"babyllm {ours['clusters_s']:.1f} s to clusters, "
            f"{ours['wall_s']:.1f} s in all, {ours['cpu_s']:.1f} s of CPU",
            flush=True,
        )
    loop_s = min(first["wall_s"] for first, _ in rounds) / N_LOOP
    loop_cpu_s = min(first["cpu_s"] for first, _ in rounds) / N_LOOP
    for name in ("clusters_s", "wall_s"):
        seconds = min(ours[name] for _, ours in rounds)
        print(f"{name:<10} {n_documents / seconds:9,.0f} documents/s, {loop_s * n_documents / seconds:5.1f} x the loop")
    cpu_s = min(ours["cpu_s"] for _, ours in rounds)
    print(f"per CPU second {loop_cpu_s * n_documents / cpu_s:.1f} x the loop, the corpus written included")


def loop(poems: Path) -> None:
    """The plain loop: normalise, hash each shingle, query, insert."""
    from datasketch import MinHash, MinHashLSH

    texts = pq.read_table(poems, columns=["text"])["text"][:N_LOOP].to_pylist()
    start, cpu = time.perf_counter(), time.process_time()
    lsh = MinHashLSH(threshold=THRESHOLD, num_perm=PERMUTATIONS)
    for number, text in enumerate(texts):
        normal = normal_form(text)
        minhash = MinHash(num_perm=PERMUTATIONS)
        for i in range(len(normal) - N + 1):
            minhash.update(normal[i : i + N].encode())
        lsh.query(minhash)
        lsh.insert(number, minhash)
    print(json.dumps({"wall_s": time.perf_counter() - start, "cpu_s": time.process_time() - cpu}))


def run_loop(poems: Path) -> dict[str, float]:
    command = [sys.executable, __file__, "loop", f"--data={poems.parent.parent}"]
    result: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return result


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


def quality(poems: Path, folder: Path, workers: int) -> None:
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
    run_dedup(make_corpus(documents, folder / "in"), folder / "out", workers)
    rows = pq.read_table(folder / "out" / "clusters.parquet").to_pylist()
    cluster = {row["id"]: row["cluster"] for row in rows}
    found = [pair for pair in truth if cluster.get(pair[0], 0) == cluster.get(pair[1], 1)]
    found_known = [pair for pair in known if cluster.get(pair[0], 0) == cluster.get(pair[1], 1)]
    links = [row for row in rows if row["id"] != row["neighbour"]]
    good = [row for row in links if jaccard(sets[row["id"]], sets[row["neighbour"]]) >= THRESHOLD]
    print(f"{len(truth):,} pairs at Jaccard >= {THRESHOLD}, {len(known):,} of them planted")
    print(f"recall {len(found) / len(truth):.4f}, of the planted {len(found_known) / len(known):.4f}")
    print(f"precision {len(good) / len(links):.4f} of {len(links):,} links")


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


def growth(poems: Path, folder: Path, workers: int, sizes: list[int]) -> None:
    """Time and memory for more and more documents: the poems, then the poems again with edits."""
    rng = random.Random(1)
    originals = read_poems(poems)
    few = run_dedup(make_corpus(originals[:100], folder / "few"), folder / "few-out", workers)
    print(f"baseline: {few['wall_s']:.1f} s, {few['cpu_s']:.1f} s of CPU, {few['peak_bytes'] / 1e6:.0f} MB")
    last = None
    for n in sizes:
        documents = [
            originals[i] if i < len(originals) else again(originals[i % len(originals)], i, rng) for i in range(n)
        ]
        corpus, out = make_corpus(documents, folder / f"in{n}"), folder / f"out{n}"
        now = run_dedup(corpus, out, workers)
        over = (now["peak_bytes"] - few["peak_bytes"]) / n
        times = (
            ""
            if last is None
            else f", {now['wall_s'] / last['wall_s']:.2f} x time, {now['cpu_s'] / last['cpu_s']:.2f} x CPU"
        )
        print(
            f"{n:9,} documents: {now['wall_s']:6.1f} s, {now['cpu_s']:6.1f} s of CPU{times}; "
            f"peak {now['peak_bytes'] / 1e6:.0f} MB, {over:,.0f} bytes per document over the baseline",
            flush=True,
        )
        last = now


def again(document: Document, number: int, rng: random.Random) -> Document:
    return Document(edited(document.text, rng), document.domain, f"{document.id}-{number}")


if __name__ == "__main__":
    main()
