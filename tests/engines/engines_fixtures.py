"""What the tests of engines share: raw files, the stages over them, and jobs for partitions."""

import json
import os
import random
import time
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


def squared(item: int, folder: Path, *, log: Path, sleep_s: float = 0.0) -> int:
    """Work that logs the process that started its own, and its item."""
    time.sleep(sleep_s)
    with log.open("a", encoding="utf-8") as file:
        print(os.getppid(), item, file=file, flush=True)
    (folder / "out.txt").write_text(str(item * item), encoding="utf-8")
    return item * item


def full(item: int, folder: Path, *, mark: Path) -> int:
    """Work that finds the disk full at item 3, until there is a file `mark`."""
    if item == 3 and not mark.exists():
        raise OSError(28, "No space left on device", str(folder / "out.txt"))
    return item


def dies(item: int, folder: Path, *, marks: Path, times: int) -> int:
    """Work whose process dies at item 1, so many times."""
    del folder
    if item == 1 and len(list(marks.glob("*"))) < times:
        (marks / f"{time.monotonic_ns()}").touch()
        os._exit(9)
    return item
