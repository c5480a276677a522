"""`babyllm tokenize`: corpora and files into shards, the same for any number of workers and after any interruption."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from babyllm.commands.corpus.tokenize import Flags, run
from babyllm.documents import Document, is_held_out
from babyllm.errors import UserError
from babyllm.pipeline.partitions import WorkConfig
from babyllm.prepare.encode import batches, encode, write_tokens
from babyllm.prepare.tokens import tokenize
from babyllm.store.shard_writer import ShardWriter
from babyllm.store.shards import MANIFEST, open_tokens
from babyllm.tokenizer import Tokenizer
from tests.support.disk_fixtures import store_corpus

ROOT = Path(__file__).resolve().parents[2]
HELD_OUT = 0.2
HARD = [
    "今天天气很好，我们去公园。\n明年再来！",
    "The model reads one token after another.\r\n\tIndented, with  two spaces  ",
    "👨‍👩‍👧‍👦 🏳️‍🌈 e\u0301 ﬁ \u3000全角\u200b",
    "nul\0 inside \0\0",
    "\n\n \t",
    "typed </s> and <|im_start|> stay text",
]


def many_documents(n: int, seed: int = 0) -> list[Document]:
    rng = random.Random(seed)
    words = ["今天", "北京", "token", " the", " model", "好", "。", "\n", "小说", "1998"]
    return [
        Document("".join(rng.choices(words, k=rng.randint(1, 60))), rng.choice(["web", "news/zh"]), f"{seed}:{i}")
        for i in range(n)
    ]


def data_files(directory: Path) -> dict[str, bytes]:
    """The shards and their manifest."""
    return {path.name: path.read_bytes() for path in [*directory.glob("*.bin"), directory / MANIFEST]}


def decoded(directory: Path, split: str, domain: str) -> list[str]:
    data, tokenizer = open_tokens(directory, verify=True, to_train=False), Tokenizer.load(directory)
    ids = data.stream(split, domain).read(0, 1 << 30)  # type: ignore[arg-type]
    parts = np.split(ids, np.flatnonzero(ids == tokenizer.eos_id) + 1)
    return [tokenizer.decode(part[:-1]) for part in parts[:-1]]


@pytest.fixture(scope="module")
def parts() -> list[list[Document]]:
    return [many_documents(150, seed) for seed in range(6)]


@pytest.fixture(scope="module")
def corpus_dir(tmp_path_factory: pytest.TempPathFactory, parts: list[list[Document]]) -> Path:
    return store_corpus(tmp_path_factory.mktemp("corpus") / "clean", parts)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, corpus_dir: Path, tokenizer: Tokenizer) -> Path:
    """The corpus tokenised by one worker without interruption."""
    directory = tmp_path_factory.mktemp("whole")
    tokenize([corpus_dir], tokenizer, directory, held_out=HELD_OUT, shard_tokens=5000, work=WorkConfig(workers=1))
    return directory


@pytest.mark.filterwarnings("ignore:tokenizer.json may split some texts")  # what `save` says of unigram models
@pytest.mark.parametrize(("kind", "vocab_size"), [("bpe", 420), ("unigram", 341), ("byte_bpe", 420)])
def test_what_is_decoded_is_the_text(tmp_path: Path, kind: str, vocab_size: int) -> None:
    """Chinese, English, emoji, NUL and blanks come back from the shards character for character, in order."""
    documents = [Document(text, "hard", str(i)) for i, text in enumerate(HARD * 20)]
    tokenizer = Tokenizer.train([d.text for d in documents], vocab_size, model_type=kind)  # type: ignore[arg-type]
    store_corpus(tmp_path / "in", [documents])
    tokenize([tmp_path / "in"], tokenizer, tmp_path / "out", held_out=0.0, work=WorkConfig(workers=1))
    assert decoded(tmp_path / "out", "train", "hard") == [d.text for d in documents]


def test_real_texts_come_back(tmp_path: Path) -> None:
    """Chinese poems come back from the shards, through a tokenizer with a vocabulary of its own."""
    if not os.environ.get("BABYLLM_DATA"):
        pytest.skip("BABYLLM_DATA names no folder of real data")
    import pyarrow.parquet as pq

    data = Path(os.environ["BABYLLM_DATA"])
    with pq.ParquetFile(data / "corpora" / "chinese-poetry.parquet") as file:
        texts: list[str] = next(file.iter_batches(2000, columns=["text"])).column(0).to_pylist()
    store_corpus(tmp_path / "in", [[Document(text, "poems", str(i)) for i, text in enumerate(texts)]])
    tokenizer = Tokenizer.train(texts[:500], 4096, character_coverage=0.99)
    tokenize([tmp_path / "in"], tokenizer, tmp_path / "out", work=WorkConfig(workers=1))
    for split in ("train", "val"):
        expected = [text for text in texts if is_held_out(text, 0.02) == (split == "val")]
        assert decoded(tmp_path / "out", split, "poems") == expected


@pytest.mark.parametrize("workers", [2, 4])
def test_the_number_of_workers_changes_nothing(
    tmp_path: Path, workers: int, corpus_dir: Path, whole: Path, tokenizer: Tokenizer
) -> None:
    """Shards and manifest are bit for bit the same for one, two and four workers, and nothing else is left behind."""
    tokenize([corpus_dir], tokenizer, tmp_path, held_out=HELD_OUT, shard_tokens=5000, work=WorkConfig(workers=workers))
    assert data_files(tmp_path) == data_files(whole) and len(data_files(whole)) > 6
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(p.name for p in whole.iterdir())


def test_both_ways_write_the_same(
    tmp_path: Path, parts: list[list[Document]], whole: Path, tokenizer: Tokenizer
) -> None:
    """`write_tokens` of the same documents makes the same shards and manifest."""
    write_tokens((d for part in parts for d in part), tokenizer, tmp_path, held_out=HELD_OUT, shard_tokens=5000)
    assert data_files(tmp_path) == data_files(whole)


def test_the_size_of_pieces_changes_nothing(
    tmp_path: Path, parts: list[list[Document]], whole: Path, tokenizer: Tokenizer
) -> None:
    """Raw files in many partitions have the same shards as a corpus of the same documents."""
    file = tmp_path / "all.jsonl"
    lines = [json.dumps({"text": d.text, "domain": d.domain}, ensure_ascii=False) for part in parts for d in part]
    file.write_text("\n".join(lines), encoding="utf-8")
    flags = [f"--work.partition_bytes={len(file.read_bytes()) // 7}", "--work.workers=1", "--read.domain=field:domain"]
    start(tmp_path, file, tokenizer, tmp_path / "out", *flags).wait()
    assert data_files(tmp_path / "out") == data_files(whole)


def start(
    folder: Path, source: Path, tokenizer: Tokenizer, out: Path, *flags: str, **options: object
) -> "subprocess.Popen[bytes]":
    tokenizer.save(folder / "tokenizer")
    code = (
        "import sys; from babyllm.config import parse; from babyllm.commands.corpus.tokenize import Flags, run\n"
        "if __name__ == '__main__': run(parse(Flags, sys.argv[3:], prog=''), *sys.argv[1:3])\n"
    )
    (folder / "start.py").write_text(code)
    settings = [f"--tokenizer={folder / 'tokenizer'}", f"--held_out={HELD_OUT}", "--shard_tokens=5000", *flags]
    return subprocess.Popen(
        [sys.executable, str(folder / "start.py"), str(source), str(out), *settings],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def test_killed_and_started_again(tmp_path: Path, corpus_dir: Path, whole: Path, tokenizer: Tokenizer) -> None:
    """After kill -9 at different moments, the same command ends with the same shards bit for bit."""
    out = tmp_path / "out"
    n_killed = 0
    for n_done in (1, 4):
        process = start(tmp_path, corpus_dir, tokenizer, out, "--work.workers=2")
        while process.poll() is None and len(list(out.glob(".work/[0-9]*/done.json"))) < n_done:
            time.sleep(0.001)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            n_killed += 1
        process.wait()
    assert n_killed and list(out.glob(".work/[0-9]*/done.json")) and not (out / MANIFEST).exists()
    assert start(tmp_path, corpus_dir, tokenizer, out, "--work.workers=2").wait() == 0
    assert data_files(out) == data_files(whole)
    assert not (out / ".work").exists()


def test_finished_pieces_are_kept(
    tmp_path: Path, corpus_dir: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Partitions that were finished before the disk was full are not processed again."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    work = WorkConfig(workers=1)
    with monkeypatch.context() as patch, pytest.raises(UserError, match="cannot be written") as error:
        patch.setattr(ShardWriter, "finish", full)
        tokenize([corpus_dir], tokenizer, tmp_path, held_out=0.0, work=work)
    assert "\n" not in str(error.value) and [path.name for path in tmp_path.iterdir()] == [".work"]
    for done in (tmp_path / ".work").glob("*/done.json"):
        content, at = bytearray(done.with_name("tokens.bin").read_bytes()), 0
        for group in json.loads(done.read_text())["result"]["groups"]:
            ids = np.full(group["tokens"], 7, "<u2").tobytes()
            at += 16 * group["documents"]
            content[at : at + len(ids)] = ids
            at += len(ids)
        done.with_name("tokens.bin").write_bytes(content)
    tokenize([corpus_dir], tokenizer, tmp_path, held_out=0.0, work=work)
    assert set(np.fromfile(tmp_path / "web-train-00000.bin", "<u2")) == {7}


def test_called_again(
    tmp_path: Path, corpus_dir: Path, tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    """A complete directory is left unchanged; other settings, another input or another tokenizer are refused."""
    tokenizer.save(tmp_path / "tokenizer")
    out = tmp_path / "out"
    flags = Flags(tokenizer=str(tmp_path / "tokenizer"), work=WorkConfig(workers=1))
    run(flags, str(corpus_dir), str(out))
    assert "bytes/token" in capsys.readouterr().out
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    run(Flags(tokenizer=str(out), work=WorkConfig(workers=2)), str(corpus_dir), str(out))
    assert capsys.readouterr().out == f"{out}: complete already, with these settings and inputs; nothing to do\n"
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before
    with pytest.raises(UserError, match="was made with other held_out; choose another OUT"):
        tokenize([corpus_dir], tokenizer, out, held_out=0.5)
    with pytest.raises(UserError, match="was made with other inputs"):
        tokenize([store_corpus(tmp_path / "other", [many_documents(9)])], tokenizer, out)
    write_tokens(many_documents(9), tokenizer, tmp_path / "by hand")
    with pytest.raises(UserError, match=r"by hand: holds .* which this command did not make"):
        tokenize([corpus_dir], tokenizer, tmp_path / "by hand")


def test_the_report_counts_what_is_there(
    tmp_path: Path, parts: list[list[Document]], whole: Path, tokenizer: Tokenizer
) -> None:
    """The report counts documents, tokens, bytes and compression of each domain and split."""
    table = json.loads((whole / "report.json").read_text(encoding="utf-8"))["tables"][0]
    rows = {tuple(row[:2]): dict(zip(table["columns"], row, strict=True)) for row in table["rows"]}
    assert set(rows) == {(split, domain) for split in ("train", "val") for domain in ("web", "news/zh")}
    for (split, domain), row in rows.items():
        texts = [
            d.text
            for part in parts
            for d in part
            if d.domain == domain and is_held_out(d.text, HELD_OUT) == (split == "val")
        ]
        tokens = sum(len(ids) + 1 for ids in tokenizer.encode_batch(texts))
        n_bytes = sum(len(text.encode()) for text in texts)
        assert (row["documents"], row["tokens"], row["bytes"]) == (len(texts), tokens, n_bytes)
        assert row["tokens/character"] == round(tokens / sum(map(len, texts)), 4)
        assert row["bytes/token"] == round(n_bytes / tokens, 4)
    assert sum(row["share"] for row in rows.values()) == pytest.approx(1)


def test_shards_end_between_documents(whole: Path) -> None:
    """A shard ends with the document that fills it; every shard but the last of a domain and split is full."""
    manifest = open_tokens(whole, verify=True).manifest
    web = [s for s in manifest.shards if (s.domain, s.split) == ("web", "train")]
    assert len(web) > 2 and all(5000 <= s.tokens < 5200 for s in web[:-1])
    for shard in web:
        ids = np.fromfile(whole / shard.file, "<u2")
        assert ids[-1] == manifest.eos_id and np.count_nonzero(ids == manifest.eos_id) == shard.documents


def test_rejected_records_are_kept_with_their_reason(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """A rejected record is counted in the report and kept in rejected.jsonl; the others are tokenised."""
    file = tmp_path / "web.jsonl"
    file.write_text('{"text": "今天"}\n{"text": \n{"text": "北京"}\n', encoding="utf-8")
    out = tmp_path / "out"
    report = tokenize([file], tokenizer, out, held_out=0.0, work=WorkConfig(workers=1))
    assert decoded(out, "train", "web") == ["今天", "北京"]
    (record,) = [json.loads(line) for line in (out / "rejected.jsonl").read_text(encoding="utf-8").splitlines()]
    assert report is not None and (f"rejected: {record['reason']}", 1) in report.facts


def test_corpora_and_files_together(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """Several inputs of different kinds become one directory, corpora first."""
    corpus = store_corpus(tmp_path / "corpus", [[Document("北京", "web", "0")], [Document("小说", "web", "1")]])
    (tmp_path / "web.jsonl").write_text('{"text": "今天"}\n', encoding="utf-8")
    tokenize([tmp_path / "web.jsonl", corpus], tokenizer, tmp_path / "out", held_out=0.0, work=WorkConfig(workers=1))
    assert decoded(tmp_path / "out", "train", "web") == ["北京", "小说", "今天"]


def test_domains_that_differ_in_case_have_files_of_their_own(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """Domains share no file, even on disks that ignore case or the composition of accents."""
    names = ["wiki", "Wiki", "WIKI", "caf\u00e9", "cafe\u0301", "ß", "ss", "网页" * 100, "网页" * 101]
    store_corpus(tmp_path / "in", [[Document(f"今天{i}", name, str(i)) for i, name in enumerate(names)]])
    tokenize([tmp_path / "in"], tokenizer, tmp_path / "out", held_out=0.0, work=WorkConfig(workers=1))
    shards = open_tokens(tmp_path / "out", verify=True).manifest.shards
    assert {shard.domain for shard in shards} == set(names)
    assert len({shard.file.upper() for shard in shards}) == len(names)
    assert all(len(shard.file.encode()) < 255 for shard in shards)
    assert {shard.file for shard in shards} >= {"wiki-train-00000.bin", "ss-train-00000.bin"}


@pytest.mark.parametrize("way", ["corpus", "memory"])
def test_a_domain_named_all_is_refused(tmp_path: Path, tokenizer: Tokenizer, way: str) -> None:
    """The name under which evaluation reports the total is refused as a domain."""
    documents = [Document("今天", "web", "0"), Document("北京", "all", "1")]
    with pytest.raises(UserError, match="domain named 'all' would be taken for the total") as error:
        if way == "corpus":
            store_corpus(tmp_path / "in", [documents])
            tokenize([tmp_path / "in"], tokenizer, tmp_path / "out", work=WorkConfig(workers=1))
        else:
            write_tokens(documents, tokenizer, tmp_path / "out")
    assert "\n" not in str(error.value)


def test_nothing_to_tokenize(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """A corpus of empty texts, an input that does not exist and an output that is a file are errors of one line."""
    empty = store_corpus(tmp_path / "in", [[Document("", "web", "0")]])
    with pytest.raises(UserError, match="no document is left: 1 record: the text is empty"):
        tokenize([empty], tokenizer, tmp_path / "out", work=WorkConfig(workers=1))
    with pytest.raises(UserError, match="nowhere"):
        tokenize([tmp_path / "nowhere"], tokenizer, tmp_path / "out")
    with pytest.raises(UserError, match=r"--held_out=1\.5: must be a share from 0 to 1"):
        tokenize([empty], tokenizer, tmp_path / "out", held_out=1.5)
    with pytest.raises(UserError, match="--shard_tokens=0: must be at least 1"):
        tokenize([empty], tokenizer, tmp_path / "out", shard_tokens=0)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file: cannot be made"):
        tokenize([empty], tokenizer, tmp_path / "file", work=WorkConfig(workers=1))


def test_a_lone_surrogate_in_memory_is_an_error(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """The error for a text that is not valid Unicode names the document's id."""
    with pytest.raises(UserError, match="document 'a:7' holds a lone surrogate"):
        write_tokens([Document("a\ud83d", "web", "a:7")], tokenizer, tmp_path)


def test_batches_are_bounded(tokenizer: Tokenizer) -> None:
    """A batch ends with the document that fills it, and batches hold every document in order."""
    sizes = [3, 5_000_000, 2, 1, 3_000_000, 3_000_000, 7]
    documents = [Document("a" * size, "web") for size in sizes]
    found = [[len(text) for text in texts] for texts, _ in batches(documents)]
    assert found == [[3, 5_000_000], [2, 1, 3_000_000, 3_000_000], [7]]
    assert [len(texts) for texts, _ in batches([Document("a")] * 5000)] == [2048, 2048, 904]
    (group,) = encode(([b"a", b"", b"b"], ["web"] * 3), tokenizer, 0.0, 1)
    assert group.sizes.tolist() == [[len(tokenizer.encode("a")) + 1, 1], [len(tokenizer.encode("b")) + 1, 1]]


@given(text=st.text(st.characters(exclude_categories=["Cs"])), fraction=st.sampled_from([0, 1e-9, 0.02, 0.3, 0.5, 1]))
def test_the_split_of_bytes_is_that_of_text(text: str, fraction: float) -> None:
    """The UTF-8 of a document is held out if and only if its text is."""
    assert is_held_out(text.encode(), fraction) == is_held_out(text, fraction)
