"""What the tests of engines share: raw files, and the stages over them."""

import json
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from babyllm.pipeline.partitions import WorkConfig
from babyllm.prepare.tokens import tokenize
from babyllm.text.clean.filters import CleanConfig
from babyllm.text.clean.stage import clean
from babyllm.text.dedup.dedup_config import DedupConfig
from babyllm.text.dedup.stage import dedup
from babyllm.tokenizer import Tokenizer

PARTITION_BYTES = 20_000


def write_raw(folder: Path) -> None:
    """Three files of Chinese texts, a fifth of which repeat another."""
    rng, folder = random.Random(1), folder / "raw"
    folder.mkdir(parents=True)
    texts: list[str] = []
    for number in range(3):
        for _ in range(60):
            is_repeat = bool(texts) and rng.random() < 0.2
            texts.append(rng.choice(texts) if is_repeat else "".join(map(chr, rng.choices(range(20000, 21000), k=200))))
        lines = [json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts[60 * number :]]
        (folder / f"{number}.jsonl").write_text("".join(lines), encoding="utf-8")


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    """Work in a folder: reports name relative paths, so those of two folders are equal."""
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def run_stages(folder: Path, tokenizer: Tokenizer, engine: str, workers: int) -> None:
    """Clean, deduplicate and tokenize the raw files of a folder, as the command line does."""
    work = WorkConfig(workers, PARTITION_BYTES, engine)  # type: ignore[arg-type]
    with inside(folder):
        assert clean([Path("raw")], Path("out/clean"), CleanConfig(), work=work)
        assert dedup([Path("out/clean")], Path("out/dedup"), DedupConfig(work=work))
        assert tokenize([Path("out/dedup")], tokenizer, Path("out/tokens"), work=work)


def made(folder: Path) -> dict[str, bytes]:
    """The contents of all files of the stages' outputs, without hidden ones."""
    files = [path for path in sorted((folder / "out").rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files if not path.name.startswith(".")}
