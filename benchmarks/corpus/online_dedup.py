"""Online deduplication: records per second, memory, and the recall and precision of what it refuses.

    python -m benchmarks.corpus.online_dedup [speed] [peer] [quality] [redis] [--held 200000] [--redis redis://...]

`speed`, `peer` and `redis` read couplets of the poems of BABYLLM_DATA, 8 to 40 characters each; `quality` reads the
prompts of its folders `sft` and `eval`. `redis` is left out without an address; it writes under a name of its own and
leaves its records there.
"""

from __future__ import annotations

import argparse
import csv
import importlib
import json
import os
import random
import re
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

import pyarrow.parquet as pq

from babyllm.dedup import Online
from babyllm.text.dedup.normal import normal_form
from babyllm.text.dedup.online.sketches import simplified_characters
from benchmarks import figures
from benchmarks.corpus.dedup import memory

SINGLES = 3000  # records added one by one
DATA = Path(os.environ.get("BABYLLM_DATA", "data"))


def main() -> None:
    parts = {"speed": speed, "peer": peer, "quality": quality, "redis": redis}
    parser = figures.parser(__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help="speed, peer, quality or redis; default: all")
    parser.add_argument("--held", type=int, default=200_000, help="records that are kept before single ones are added")
    parser.add_argument("--peer_held", type=int, default=20_000, help="the same, of datasketch")
    parser.add_argument("--redis", metavar="URL", help="address of a Redis server")
    args = figures.parse(parser, held=3000, peer_held=1000)
    if unknown := set(args.parts) - set(parts):
        parser.error(f"no part {', '.join(unknown)}")
    measured: list[figures.Figure] = []
    for name in args.parts or parts:
        measured += parts[name](args)
    figures.write(args, measured)


def couplets() -> Iterator[tuple[str, str]]:
    """Ids and texts of the couplets of all poems, then these again with their halves exchanged."""
    poems = figures.poems() or figures.skip(figures.NO_POEMS)
    texts = pq.read_table(poems, columns=["text"])["text"].to_pylist()
    for turn in range(2):
        for i, text in enumerate(texts):
            lines = [line for line in re.split(r"[\n。！？；]", text) if 8 <= len(line) <= 40]
            for k, line in enumerate(lines):
                yield f"{turn}-{i}-{k}", "，".join(reversed(line.split("，"))) if turn else line


# ---- speed


def speed(args: argparse.Namespace) -> Iterator[figures.Figure]:
    """Records per second into a file, bytes of memory and of the file, and the time to open it again."""
    stream = couplets()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kept.log")
        with Online(path) as kept:
            yield from _fill(kept, stream, args.held, f"{_short(args.held)} held")
        size = path.stat().st_size / args.held
        start = time.perf_counter()
        with Online(path) as kept:
            seconds = time.perf_counter() - start
            print(f"opened again in {seconds:.1f} s with {len(kept):,} records, {size:.0f} bytes of the file each")
        yield figures.Figure(f"file, {_short(args.held)} held", size, "bytes per record")
        yield figures.Figure(f"opening, {_short(args.held)} held", seconds, "s")


def redis(args: argparse.Namespace) -> Iterator[figures.Figure]:
    """Records per second into Redis, and bytes of its memory."""
    if not args.redis:
        print("redis: left out, since --redis names no server")
        return
    server = importlib.import_module("redis").Redis.from_url(args.redis)
    before = server.info("memory")["used_memory"]
    with Online(f"{args.redis}#benchmark-{time.time_ns()}") as kept:
        yield from _fill(kept, couplets(), args.held, f"{_short(args.held)} held in Redis")
        used = (server.info("memory")["used_memory"] - before) / len(kept)
    print(f"{used:,.0f} bytes of Redis per record")
    yield figures.Figure(f"memory of Redis, {_short(args.held)} held", used, "bytes per record")


def _fill(kept: Online, stream: Iterator[tuple[str, str]], held: int, title: str) -> Iterator[figures.Figure]:
    """Rates of `add_many` until so many records are kept, and of `add` after that."""
    kept.add_many(islice(stream, 100))
    before, n_seen, slowest, seconds, cpu = memory(os.getpid()), 0, 0.0, 0.0, 0.0
    while len(kept) < held:
        records = list(islice(stream, min(5000, held - len(kept))))
        start, cpu_start = time.perf_counter(), time.process_time()
        kept.add_many(records)
        took = time.perf_counter() - start
        seconds, cpu, n_seen = seconds + took, cpu + time.process_time() - cpu_start, n_seen + len(records)
        slowest = max(slowest, took / len(records))
    used = (memory(os.getpid()) - before) / held
    print(f"add_many, {title}: {n_seen / seconds:,.0f} records/s ({n_seen / cpu:,.0f} per CPU second), ", end="")
    print(f"slowest 5,000 {1 / slowest:,.0f}/s, {n_seen:,} seen; {used:,.0f} bytes of memory per record", flush=True)
    yield figures.Figure(f"add_many, {title}", n_seen / seconds, "records/s")
    yield figures.Figure(f"add_many, {title}, CPU", n_seen / cpu, "records per CPU second")
    yield figures.Figure(f"memory, {title}", used, "bytes per record")
    singles = list(islice(stream, SINGLES))
    times = []
    start, cpu_start = time.perf_counter(), time.process_time()
    for record in singles:
        began = time.perf_counter()
        kept.add(*record)
        times.append(time.perf_counter() - began)
    rate, by_cpu = SINGLES / (time.perf_counter() - start), SINGLES / (time.process_time() - cpu_start)
    times.sort()
    print(f"add, {title}: {rate:,.0f} records/s ({by_cpu:,.0f} per CPU second), ", end="")
    print(
        f"median {times[SINGLES // 2] * 1e3:.2f} ms, 99 % within {times[SINGLES * 99 // 100] * 1e3:.2f} ms", flush=True
    )
    yield figures.Figure(f"add, {title}", rate, "records/s")
    yield figures.Figure(f"add, {title}, CPU", by_cpu, "records per CPU second")


def peer(args: argparse.Namespace) -> Iterator[figures.Figure]:
    """The same couplets into datasketch's MinHashLSH in memory, with the same bands and shingles, unverified."""
    try:
        from datasketch import MinHash, MinHashLSH
    except ImportError:
        print("peer: left out, since datasketch is not installed")
        return
    bands, rows = 41, 4
    index, first = MinHashLSH(num_perm=bands * rows, params=(bands, rows)), MinHash(num_perm=bands * rows)
    stream, held = couplets(), 0
    next(stream)
    before = memory(os.getpid())
    start, cpu_start, n_seen = time.perf_counter(), time.process_time(), 0
    while held < args.peer_held:
        name, text = next(stream)
        normal = normal_form(text)
        sketch = first.copy()
        sketch.update_batch([normal[i : i + 2].encode() for i in range(len(normal) - 1)])
        n_seen += 1
        if not index.query(sketch):
            index.insert(name, sketch)
            held += 1
    rate, by_cpu = n_seen / (time.perf_counter() - start), n_seen / (time.process_time() - cpu_start)
    used = (memory(os.getpid()) - before) / held
    print(f"datasketch, {held:,} held: {rate:,.0f} records/s ({by_cpu:,.0f} per CPU second), {used:,.0f} bytes each")
    yield figures.Figure(f"datasketch, {_short(held)} held, CPU", by_cpu, "records per CPU second")
    yield figures.Figure(f"memory of datasketch, {_short(held)} held", used, "bytes per record")


# ---- quality


def quality(args: argparse.Namespace) -> Iterator[figures.Figure]:
    """Recall and precision of what is refused among prompts and one edited copy of each."""
    languages = {"Chinese": (prompts("zh"), 6, chinese_edit), "English": (prompts("en"), 14, english_edit)}
    for language, (texts, least, edit) in languages.items():
        rng = random.Random(1)
        originals = unlike(texts, least)[: 300 if args.quick else None]
        planted = [edit(text, rng) for text in originals]
        stream = [(f"{i}", text) for i, text in enumerate(originals)]
        stream += rng.sample([(f"{i}-{kind}", text) for i, (kind, text) in enumerate(planted)], len(planted))
        with Online() as kept:
            matches = kept.add_many(stream)
        refused = [(name, match.id) for (name, _), match in zip(stream, matches, strict=True) if match]
        right = [name for name, other in refused if "-" in name and name.split("-")[0] == other.split("-")[0]]
        recall, precision = len(right) / len(planted), len(right) / len(refused)
        print(f"{language}: {len(originals):,} prompts, {recall=:.4f}, {precision=:.4f}; recall by edit: ", end="")
        of_kind, found = Counter(kind for kind, _ in planted), Counter(name.split("-")[1] for name in right)
        print(", ".join(f"{kind} {found[kind] / n:.3f}" for kind, n in sorted(of_kind.items())))
        by_length, found_names = defaultdict(list), set(right)
        for i, text in enumerate(originals):
            limit = next((n for n in (12, 20, 40, 100, 300) if len(normal_form(text)) < n), 10**9)
            by_length[limit].append(f"{i}-{planted[i][0]}" in found_names)
        print(
            "  recall by length:", ", ".join(f"below {n}: {sum(x) / len(x):.3f}" for n, x in sorted(by_length.items()))
        )
        yield figures.Figure(f"recall, {language}", recall, "share")
        yield figures.Figure(f"precision, {language}", precision, "share")


def prompts(language: str) -> list[str]:
    """Prompts of single turns, first questions of conversations, and questions of examinations."""
    if not (DATA / "sft").is_dir():
        figures.skip("set BABYLLM_DATA to a folder with sft and eval")
    texts = [row["instruction"] for row in json.loads((DATA / f"sft/alpaca_{language}_demo.json").read_text("utf-8"))]
    for line in (DATA / "sft/sharegpt_zh_1k.jsonl").read_text("utf-8").splitlines():
        users = [message["value"] for message in json.loads(line)["conversations"] if message["from"] == "human"]
        texts += [text[:2000] for text in users[:2] if bool(re.search("[\u4e00-\u9fff]", text)) == (language == "zh")]
    if language == "zh":
        for file in sorted(DATA.glob("eval/cmmlu/test/*.csv")):
            texts += [row["Question"] for row in islice(csv.DictReader(file.open(encoding="utf-8")), 60)]
    else:
        lines = (DATA / "eval/gsm8k/test.jsonl").read_text("utf-8").splitlines()[:600]
        texts += [json.loads(line)["question"] for line in lines]
    return texts


def unlike(texts: Iterable[str], least: int) -> list[str]:
    """The texts of at least so many characters of which no two agree in 85 % of their characters in order (ROUGE-L)."""
    simplified = simplified_characters()
    chosen: list[str] = []
    normals: list[str] = []
    index: dict[str, list[int]] = defaultdict(list)
    for text in texts:
        normal = "".join(chr(simplified[ord(c)]) for c in normal_form(text))
        pairs = {normal[i : i + 2] for i in range(len(normal) - 1)}
        shared = Counter(number for pair in pairs for number in index[pair])
        near = [number for number, n in shared.items() if n >= 0.4 * len(pairs)]
        if len(normal) < least or any(agreement(normal, normals[number]) >= 0.85 for number in near):
            continue
        for pair in pairs:
            index[pair].append(len(normals))
        chosen.append(text)
        normals.append(normal)
    return chosen


def agreement(a: str, b: str) -> float:
    """Twice the longest common subsequence over both lengths, by one integer as a row of bits (Hyyrö 2004)."""
    places: dict[str, int] = defaultdict(int)
    for i, c in enumerate(a):
        places[c] |= 1 << i
    every = row = (1 << len(a)) - 1
    for c in b:
        hits = row & places.get(c, 0)
        row = (row + hits | row - hits) & every
    return 2 * (len(a) - row.bit_count()) / (len(a) + len(b))


MARKS = "，。！？、；：,.!?…~ "
Edit = tuple[str, str]


def chinese_edit(text: str, rng: random.Random) -> Edit:
    """An edit of one kind and its name: punctuation, traditional characters, words, particles, or several."""
    import opencc

    kind = rng.choice(["punctuation", "traditional", "characters", "particles", "exchange", "several"])
    letters = list(text)
    if kind in {"punctuation", "several"}:
        letters = [rng.choice(MARKS) if c in MARKS and rng.random() < 0.6 else c for c in letters] + [rng.choice("！~")]
    if kind in {"characters", "several"}:
        places = [i for i, c in enumerate(letters) if "\u4e00" <= c <= "\u9fff"]
        for i in rng.sample(places, min(len(places), max(1, len(letters) // 25))):
            letters[i] = rng.choice([chr(rng.randrange(0x4E00, 0x9FA0)), "", letters[i] + rng.choice("的了是很都也就")])
    if kind == "particles":
        letters = [rng.choice(["请问", "请", ""]), *text.rstrip("？?。."), rng.choice("呢啊吗呀"), "？"]
    if kind == "exchange":
        i = rng.randrange(len(letters) - 1)
        letters[i : i + 2] = letters[i + 1], letters[i]
    changed = "".join(letters)
    return kind, opencc.OpenCC("s2t").convert(changed) if kind in {"traditional", "several"} else changed


def english_edit(text: str, rng: random.Random) -> Edit:
    """An edit of one kind and its name: case, punctuation, typing errors, words, a polite beginning, or several."""
    words = text.split(" ")
    kind = rng.choice(["case", "punctuation", "typing", "polite", "several", *["words"] * (len(words) >= 6)])
    change: Callable[[str], str] = {
        "case": lambda t: rng.choice([t.upper(), t.lower(), t.title()]),
        "punctuation": lambda t: "".join(rng.choice(MARKS) if c in ",.!?;:" else c for c in t) + rng.choice(".!?"),
        "typing": lambda t: mistyped(t, rng),
        "words": lambda t: " ".join(reworded(words, rng)),
        "polite": lambda t: rng.choice(["Please ", "please, ", "Can you "]) + t,
        "several": lambda t: re.sub("[.,]", "", mistyped(t, rng).lower()) + " !",
    }[kind]
    return kind, change(text)


def mistyped(text: str, rng: random.Random) -> str:
    """The text with a letter in sixty dropped, doubled, exchanged or replaced."""
    letters = list(text)
    for _ in range(max(1, len(letters) // 60)):
        i, kind = rng.randrange(len(letters) - 1), rng.randrange(4)
        pair = [
            ["", letters[i + 1]],
            [letters[i] * 2, letters[i + 1]],
            [letters[i + 1], letters[i]],
            ["e", letters[i + 1]],
        ]
        letters[i : i + 2] = pair[kind]
    return "".join(letters)


def reworded(words: list[str], rng: random.Random) -> list[str]:
    """The words with one in twenty replaced."""
    changed = list(words)
    for i in rng.sample(range(len(words)), max(1, len(words) // 20)):
        changed[i] = rng.choice(["the", "one", "some", "new", "good", "really"])
    return changed


def _short(n: int) -> str:
    return f"{n // 1000} k"


if __name__ == "__main__":
    main()
