"""A source that is added to token data later: cleaned, compared with what was kept, encoded, and trained on with it."""

import json
import random
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from training_fixtures import tiny_config

from babyllm.__main__ import run
from babyllm.data.token_config import DataConfig
from babyllm.data.token_data import open_pretraining_data
from babyllm.documents import Document
from babyllm.errors import UserError
from babyllm.objectives.lm import language_model
from babyllm.pipeline.partitions import WorkConfig
from babyllm.prepare.tokens import tokenize
from babyllm.runtime import Runtime
from babyllm.store.corpus import open_corpus
from babyllm.store.shards import MANIFEST, open_tokens
from babyllm.text.takedowns import take_down
from babyllm.tokenizer import Tokenizer
from babyllm.training.loop import train
from babyllm.training.stages.pretraining import new_state
from tests.support.disk_fixtures import corpus_of

WORKER = "--work.workers=1"
encoded = partial(tokenize, held_out=0.1, work=WorkConfig(workers=1))


def texts(seed: int, n: int = 40) -> list[str]:
    rng = random.Random(seed)
    return ["".join(rng.choices("今天北京的模型读小说，一个字接着", k=60)) for _ in range(n)]


def files_of(directory: Path) -> dict[str, bytes]:
    """The files, without the hidden record of when they were verified."""
    return {path.name: path.read_bytes() for path in directory.glob("[!.]*") if path.is_file()}


def kept(raw: list[str], domain: str, root: Path) -> Path:
    """A source after `clean`, and after `dedup` against the index of all sources before it."""
    root.mkdir()
    lines = (json.dumps({"text": text, "domain": domain}, ensure_ascii=False) + "\n" for text in raw)
    (root / "raw.jsonl").write_text("".join(lines), encoding="utf-8")
    run(["clean", str(root / "raw.jsonl"), str(root / "clean"), WORKER])
    index = f"--index={root.parent / 'index'}"
    run(["dedup", str(root / "clean"), str(root / "kept"), index, "--keep=first", "--clusters=direct", WORKER])
    return root / "kept"


def test_the_whole_path(tmp_path: Path, tokenizer: Tokenizer, runtime: Runtime) -> None:
    """A later source is compared and encoded alone; the old files keep their bytes, and a run mixes both sources."""
    tokenizer.save(tmp_path / "tokenizer")
    named = f"--tokenizer={tmp_path / 'tokenizer'}"
    first = kept(texts(1), "news", tmp_path / "first")
    run(["tokenize", str(first), str(tmp_path / "data1"), named, "--held_out=0.1", WORKER])
    before = files_of(first) | files_of(tmp_path / "data1")
    second = kept([*texts(1)[:10], *texts(2)], "books", tmp_path / "second")
    of_first, of_second = ({d.text for d in open_corpus(place).documents()} for place in (first, second))
    assert len(of_first) == len(of_second) == 40 and not of_first & of_second
    data1, data2 = str(tmp_path / "data1"), tmp_path / "data2"
    run(["tokenize", data1, str(second), str(data2), named, "--held_out=0.1", WORKER])

    assert files_of(first) | files_of(tmp_path / "data1") == before
    encoded([second], tokenizer, tmp_path / "alone")
    expected = {n: b for d in (Path(data1), tmp_path / "alone") for n, b in files_of(d).items() if n.endswith(".bin")}
    assert {name: content for name, content in files_of(data2).items() if name.endswith(".bin")} == expected
    table = json.loads((data2 / "report.json").read_text(encoding="utf-8"))["tables"][0]["rows"]
    assert {(row[1], row[0]) for row in table} == {(d, s) for d in ("news", "books") for s in ("train", "val")}
    assert sum(row[3] for row in table) == sum(
        shard.tokens for shard in open_tokens(data2, verify=True).manifest.shards
    )

    config = tiny_config(data2, steps=3)
    section = DataConfig(path=str(data2), seq_len=16, global_batch=8, mix={"news": 0.5, "books": 0.5})
    state, plan = new_state(replace(config, data=section), open_pretraining_data(section), runtime)
    train(state, language_model, plan)
    assert all(value > 0 for name, value in state.stream.metrics().items() if name.startswith("epoch/"))


def test_more_of_a_domain(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """New documents of a domain come after the old ones; directories of tokens alone are joined, in their order."""
    parts = [corpus_of(tmp_path / f"c{i}", [Document(t, "news", f"{i}:{t}") for t in texts(i)]) for i in range(2)]
    for i, part in enumerate(parts):
        encoded([part], tokenizer, tmp_path / f"t{i}")
    encoded([tmp_path / "t0", parts[1]], tokenizer, tmp_path / "more")
    encoded([tmp_path / "t0", tmp_path / "t1"], tokenizer, tmp_path / "joined")
    for out in ("more", "joined"):
        manifest = open_tokens(tmp_path / out, verify=True).manifest
        assert [shard.file for shard in manifest.shards if shard.split == "train"] == [
            "news-train-00000.bin",
            "news-train-00001.bin",
        ]
    assert (tmp_path / "more" / MANIFEST).read_bytes() == (tmp_path / "joined" / MANIFEST).read_bytes()
    assert encoded([tmp_path / "t0", parts[1]], tokenizer, tmp_path / "more") is None


def test_what_cannot_be_taken_over(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """Tokens of another tokenizer, made before a takedown, or named twice are refused by name."""
    corpus = corpus_of(tmp_path / "corpus", texts(1))
    encoded([corpus], tokenizer, tmp_path / "t")
    other = Tokenizer.train(texts(3), 300, n_threads=1)
    with pytest.raises(UserError, match="t: its tokens were made by another tokenizer"):
        encoded([tmp_path / "t", corpus], other, tmp_path / "out")
    with pytest.raises(UserError, match="the same token data are named twice"):
        encoded([tmp_path / "t", tmp_path / "t"], tokenizer, tmp_path / "twice")
    take_down(corpus, [{"text": texts(1)[0]}])
    with pytest.raises(UserError, match="t: was made with other takedowns"):
        encoded([tmp_path / "t", corpus], tokenizer, tmp_path / "out2")
