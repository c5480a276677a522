"""Deduplication against an index of kept documents, beside the new documents alone and one run over all.

    python -m benchmarks.corpus.dedup_over_time [--new 50000] [--generations 10] [--rounds 3] [--workers 2]

It reads the poems of BABYLLM_DATA in random order: the first are new, the others were kept earlier, in one generation
and in several. Runs take turns, each in a process of its own. The survivors must be those of a run with `--against`
the kept ones; else it ends with an error.
"""

from __future__ import annotations

import argparse
import random
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from babyllm.store.corpus import open_corpus
from babyllm.text.dedup.index.merging import merge_generations
from benchmarks import figures
from benchmarks.corpus.dedup import make_corpus, read_poems, run_dedup

LIKE_ALL = ("--clusters=direct", "--keep=first")
ALONE, ONE, MANY, MERGED = "the new ones alone", "one generation", "several generations", "several generations, merged"
AGAINST, ALL = "a run with --against", "a run over all"


def main() -> None:
    flags = figures.parser(__doc__)
    flags.add_argument("--new", type=int, default=50_000, help="new documents")
    flags.add_argument("--documents", type=int, default=400_000, help="documents at most, new and kept")
    flags.add_argument("--generations", type=int, default=10)
    flags.add_argument("--rounds", type=int, default=3)
    flags.add_argument("--workers", type=int, default=2)
    args = figures.parse(flags, rounds=1, new=500, documents=3000, generations=3)
    poems = figures.poems() or figures.skip(figures.NO_POEMS)
    with tempfile.TemporaryDirectory() as folder:
        prepare(poems, Path(folder), args)
        taken = take_turns(Path(folder), args)
        require_equal(Path(folder))
        figures.write(args, list(told(taken)))


def prepare(poems: Path, root: Path, args: argparse.Namespace) -> None:
    """The corpora and the indexes that are compared with."""
    documents = read_poems(poems)
    random.Random(1).shuffle(documents)
    documents = documents[: args.documents]
    earlier = documents[args.new :]
    make_corpus(documents[: args.new], root / "new")
    old = make_corpus(earlier, root / "old")
    make_corpus(documents, root / "all")
    run_dedup(old, root / "kept", args.workers, *LIKE_ALL, f"--index={root / 'one'}")
    for number in range(args.generations):
        edges = [len(earlier) * i // args.generations for i in (number, number + 1)]
        crawl = make_corpus(earlier[slice(*edges)], root / f"crawl{number}")
        run_dedup(crawl, root / f"kept{number}", args.workers, *LIKE_ALL, f"--index={root / 'many'}")
    shutil.copytree(root / "many", root / "merged")
    merge_generations(root / "merged")


def take_turns(root: Path, args: argparse.Namespace) -> dict[str, list[dict[str, float]]]:
    """What each way takes in each turn, see `run_dedup`."""
    new = root / "new"
    ways: dict[str, tuple[Path, str | None, tuple[str, ...]]] = {
        ALONE: (new, None, ()),
        ONE: (new, "one", ()),
        MANY: (new, "many", ()),
        MERGED: (new, "merged", ()),
        AGAINST: (new, None, (f"--against=[{root / 'kept'}]",)),
        ALL: (root / "all", None, ()),
    }
    taken: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    for turn in range(args.rounds):
        for name, (corpus, index, more) in ways.items():
            if index:
                shutil.rmtree(root / "index", ignore_errors=True)
                shutil.copytree(root / index, root / "index")
                more = (f"--index={root / 'index'}",)
            shutil.rmtree(root / name, ignore_errors=True)
            taken[name].append(run_dedup(corpus, root / name, args.workers, *LIKE_ALL, *more))
        print(f"turn {turn + 1}:", {name: round(runs[-1]["wall_s"], 2) for name, runs in taken.items()}, flush=True)
    return taken


def require_equal(root: Path) -> None:
    """End the benchmark if the survivors of a comparison with one generation are not those of --against."""
    found = [{d.id.rpartition("/")[2] for d in open_corpus(root / name).documents()} for name in (ONE, AGAINST)]
    if found[0] != found[1]:
        raise SystemExit(f"{len(found[0] ^ found[1]):,} documents survive in one of two runs only")
    print(f"{len(found[0]):,} documents survive in both")


def told(taken: dict[str, list[dict[str, float]]]) -> Iterator[figures.Figure]:
    """The figures, of which the table is printed."""
    for name, runs in taken.items():
        wall, cpu = ([run[key] for run in runs] for key in ("wall_s", "cpu_s"))
        print(f"{name}: {figures.spread(wall)} s, {figures.spread(cpu)} s of CPU")
        yield figures.Figure(name, median(wall), "s")
        yield figures.Figure(f"{name}, CPU", median(cpu), "s")
    for title, name, other in (
        ("one generation over the new ones alone", ONE, ALONE),
        ("one generation over a run with --against", ONE, AGAINST),
        ("one generation over a run over all", ONE, ALL),
        ("several generations over one", MANY, ONE),
    ):
        for key, unit in (("wall_s", "x"), ("cpu_s", "x of CPU")):
            ratio = median(run[key] for run in taken[name]) / median(run[key] for run in taken[other])
            print(f"{title}: {ratio:.2f} {unit}")
            yield figures.Figure(f"{title}{', CPU' * (key == 'cpu_s')}", ratio, "x")


if __name__ == "__main__":
    main()
