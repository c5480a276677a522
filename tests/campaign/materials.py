"""What drills work on: raw files, a corpus, a tokenizer, tokens, conversations and finished runs.

Each is made once, when the first drill asks for it, by the commands and scripts that users have; none is changed.
"""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import random
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.campaign.bench import TIMEOUT_S, Bench
from tests.campaign.faults import BrokenPromise

N_TEXTS, MANY_CHATS = 1500, 1500
WORDS = ["abba", "cad", "dada", "fig", "each", "badge", "decaf", "face", "hi", "jig", "今天", "天气", "很好", "公园"]
DEVICE = (
    *("--runtime.device=cpu", "--runtime.dtype=float32", "--runtime.threads=1", f"--runtime.timeout_s={TIMEOUT_S}"),
    "--log_every=1",
)
PRETRAIN = (
    *("--data.seq_len=16", "--data.global_batch=8", "--data.micro_batch=2", "--model.n_layers=2", "--model.d_model=32"),
    *("--model.n_heads=4", "--model.n_kv_heads=2", "--model.max_seq_len=64", "--model.dropout=0.1"),
    *("--plan.peak_lr=0.01", "--prompts=[ab]", *DEVICE),
)
SFT = (
    *("--data.seq_len=64", "--data.global_batch=8", "--data.micro_batch=2", "--data.held_out=0.2", "--samples=1"),
    *("--model.dropout=0.1", "--plan.peak_lr=0.01", "--data.template=plain", "--data.work.workers=1", *DEVICE),
)
LORA = ("--lora.rank=4", "--lora.dropout=0.1")
_LOCK = threading.RLock()


def material(bench: Bench, name: str) -> Path:
    """The folder of a material, made if it is not there; not to be changed."""
    folder = bench.root / "materials" / name
    with _LOCK:
        if not folder.exists():
            folder.parent.mkdir(exist_ok=True)
            MAKERS[name](bench, folder)
    return folder


def _texts(n: int, rng: random.Random) -> list[str]:
    texts = [" ".join(rng.choices(WORDS, k=rng.randint(20, 80))) + "." for _ in range(n)]
    return [rng.choice(texts) if rng.random() < 0.1 else text for text in texts]  # so that there are duplicates


def _lines(texts: list[str], domain: str) -> bytes:
    return "".join(json.dumps({"text": t, "domain": domain}, ensure_ascii=False) + "\n" for t in texts).encode()


def _make_raw(bench: Bench, folder: Path) -> None:
    """One small file of each kind that the readers read."""
    folder.mkdir()
    rng = random.Random(1)

    def lines(name: str) -> bytes:
        return _lines(_texts(40, rng), name)

    (folder / "plain.jsonl").write_bytes(lines("plain"))
    (folder / "gzip.jsonl.gz").write_bytes(gzip.compress(lines("gzip"), mtime=0))
    (folder / "bzip.jsonl.bz2").write_bytes(bz2.compress(lines("bzip")))
    (folder / "lzma.jsonl.xz").write_bytes(lzma.compress(lines("lzma")))
    with pa.CompressedOutputStream(str(folder / "zstd.jsonl.zst"), "zstd") as file:
        file.write(lines("zstd"))
    (folder / "array.json").write_text(json.dumps([{"text": text} for text in _texts(40, rng)]))
    (folder / "table.csv").write_text("text,domain\n" + "".join(f'"{text}",table\n' for text in _texts(40, rng)))
    (folder / "page.html").write_text(f"<html><body><p>{'</p><p>'.join(_texts(9, rng))}</p></body></html>")
    (folder / "story.txt").write_text("\n".join(_texts(9, rng)))
    pq.write_table(pa.table({"text": _texts(40, rng)}), folder / "rows.parquet")


def _make_texts(bench: Bench, folder: Path) -> None:
    folder.mkdir()
    rng = random.Random(2)
    for domain in ("left", "right"):
        (folder / f"{domain}.jsonl").write_bytes(_lines(_texts(N_TEXTS, rng), domain))


def _make_chats(bench: Bench, folder: Path, n: int = 60) -> None:
    folder.mkdir()
    rng = random.Random(3)
    records = []
    for number in range(n):
        messages = []
        for _ in range(rng.randint(1, 2)):
            messages.append({"role": "user", "content": rng.choice(["今天?", "a?", "很好 b"])})
            messages.append({"role": "assistant", "content": "".join(rng.choices("今天abc", k=rng.choice([1, 6])))})
        records.append({"messages": messages, "task": ("judge", "tell")[number % 2]})
    lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    (folder / "chats.jsonl").write_text(lines, encoding="utf-8")


def _made_by(job: str, *arguments: str, **more: str) -> Callable[[Bench, Path], None]:
    """A maker that runs a job; `{out}` in its arguments is the folder, `{NAME}` another material."""

    def make(bench: Bench, folder: Path) -> None:
        try:
            bench.start(job, *(filled(bench, argument, out=str(folder)) for argument in arguments), **more).succeed()
        except BrokenPromise as broken:
            raise RuntimeError(f"{arguments[0]}: no drill can begin: {broken}") from broken

    return make


def filled(bench: Bench, argument: str, **places: str) -> str:
    """An argument with the paths of materials, which are made, in the place of their names in braces."""
    for name in MAKERS:
        if f"{{{name}}}" in argument:
            places[name] = str(material(bench, name))
    for name, path in places.items():
        argument = argument.replace(f"{{{name}}}", path)
    return argument


def _trained(script: str, *arguments: str) -> Callable[[Bench, Path], None]:
    # Six steps of twelve: what is damaged goes on to the end.
    more = ("--run_dir={out}", "--plan.steps=6", "--save_every=3", "--eval_every=3")
    return _made_by("training", *arguments, *more, name=script)


_ONE = "--work.workers=1"
_TUNED = ("--init_from={pretrained}", "--data.path={chats}", *SFT)
MAKERS: dict[str, Callable[[Bench, Path], None]] = {
    "raw": _make_raw,
    "texts": _make_texts,
    "chats": _make_chats,
    "many chats": partial(_make_chats, n=MANY_CHATS),
    "corpus": _made_by("command", "clean", "{texts}", "{out}", _ONE),
    "tokenizer": _made_by("command", "train-tokenizer", "{corpus}", "{out}", "--vocab_size=340", _ONE),
    "tokens": _made_by(
        *("command", "tokenize", "{corpus}", "{out}", "--tokenizer={tokenizer}", "--held_out=0.1"),
        *("--shard_tokens=20000", _ONE),
    ),
    "pretrained": _trained("train_pretrain.py", "--data.path={tokens}", *PRETRAIN),
    "tuned": _trained("train_sft.py", *_TUNED),
    "packed": _trained("train_sft.py", *_TUNED, "--data.pack"),
    "adapted": _trained("train_sft.py", *_TUNED, *LORA),
    "exported": _made_by("command", "merge-lora", "{adapted}", "{out}"),
}
