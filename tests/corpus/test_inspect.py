"""`babyllm inspect`: its output for corpora, raw files, token data, bare files, runs and anything else."""

import json
from pathlib import Path

import numpy as np
import pytest

from babyllm.commands.corpus.inspect import Flags, run
from babyllm.documents import Document
from babyllm.errors import UserError
from babyllm.store.shard_writer import ShardWriter
from babyllm.store.shards import open_tokens
from babyllm.tokenizer import Tokenizer
from tests.support.disk_fixtures import store_corpus


@pytest.fixture
def corpus_dir(tmp_path: Path, corpus: list[Document]) -> Path:
    """The corpus in two files, with one very long document."""
    named = [Document(d.text, d.domain, f"a.jsonl:{i}") for i, d in enumerate(corpus)]
    named[300] = Document("长" * 5000, "news", "a.jsonl:300")
    return store_corpus(tmp_path / "clean", [named[:250], named[250:]])


def shown(capsys: pytest.CaptureFixture[str], path: Path, **flags: object) -> str:
    run(Flags(**flags), str(path))  # type: ignore[arg-type]
    return capsys.readouterr().out


def rows(out: str) -> list[list[str]]:
    return [line.split() for line in out.splitlines()]


def test_a_corpus(corpus_dir: Path, corpus: list[Document], capsys: pytest.CaptureFixture[str]) -> None:
    """Counts by domain, the longest documents with their place, and random documents by seed are shown."""
    out = shown(capsys, corpus_dir)
    changed = [d for i, d in enumerate(corpus) if i != 300] + [Document("长" * 5000, "news")]
    for domain in ("news", "reviews", "all"):
        texts = [d.text for d in changed if domain in (d.domain, "all")]
        counts = [len(texts), sum(map(len, texts)), sum(len(text.encode()) for text in texts)]
        assert [domain, *(f"{count:,}" for count in counts)] in [row[:4] for row in rows(out)]
    assert "news | 5,000 characters | a.jsonl:300\n" in out
    second, third = sorted((len(d.text) for d in corpus), reverse=True)[:2]
    longest = out[out.index("longest documents") : out.index("documents at random")]
    assert f" | {second:,} characters" in longest and f" | {third:,} characters" in longest
    assert out == shown(capsys, corpus_dir)
    others = {shown(capsys, corpus_dir, seed=seed).partition("documents at random")[2] for seed in range(5)}
    assert len(others) == 5


def test_a_long_text_is_cut(corpus_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The requested number of characters of each document is shown, on one line."""
    out = shown(capsys, corpus_dir, longest=1, examples=0, characters=7)
    assert out.endswith(f"    {'长' * 7 + '...'!r}\n") and "at random" not in out


def test_raw_files(tmp_path: Path, corpus: list[Document], capsys: pytest.CaptureFixture[str]) -> None:
    """The documents of raw files are counted as the readers yield them, and rejected records by reason."""
    lines = [json.dumps({"text": d.text}, ensure_ascii=False) for d in corpus] + ['{"text": ', "[1, 2]"]
    (tmp_path / "wiki.jsonl").write_text("\n".join(lines), encoding="utf-8")
    out = shown(capsys, tmp_path / "wiki.jsonl")
    texts = [d.text for d in corpus]
    assert ["wiki", f"{len(texts):,}", f"{sum(map(len, texts)):,}"] in [row[:3] for row in rows(out)]
    assert ["rejected", "records", "2"] in rows(out) and sum(
        line.startswith("  rejected: ") for line in out.splitlines()
    )
    assert f" | {max(map(len, texts)):,} characters | wiki.jsonl:" in out


def test_token_data(
    token_dir: Path, corpus: list[Document], tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    """Counts and compression by domain and split are shown, and whole documents, decoded and chosen by seed."""
    out = shown(capsys, token_dir, verify=True, examples=3, characters=10_000)
    shards = open_tokens(token_dir).manifest.shards
    for split, domain in {(s.split, s.domain) for s in shards}:
        mine = [s for s in shards if (s.split, s.domain) == (split, domain)]
        documents, tokens, n_bytes = (sum(getattr(s, name) for s in mine) for name in ("documents", "tokens", "bytes"))
        (row,) = (row for row in rows(out) if row[:2] == [split, domain] and len(row) > 6)
        assert row[2:4] == [f"{documents:,}", f"{tokens:,}"] and row[6] == f"{n_bytes:,}"
        # If all tokens are read, their characters are exactly those of the text that `decode` returns.
        ids = open_tokens(token_dir).stream(split, domain).read(0, 1 << 30)  # type: ignore[arg-type]
        assert float(row[7]) == pytest.approx(tokens / len(tokenizer.decode(ids)), rel=1e-3)
        assert float(row[8]) == pytest.approx(n_bytes / tokens, rel=1e-3)
    texts = {repr(d.text) for d in corpus}
    examples = [line.strip() for line in out.splitlines() if line.startswith("    '")]
    assert len(examples) > 8 and set(examples) <= texts
    assert f"all {len(shards)} shards are whole" in out
    assert out == shown(capsys, token_dir, verify=True, examples=3, characters=10_000)
    assert out != shown(capsys, token_dir, verify=True, examples=3, characters=10_000, seed=1)


def test_damage_is_reported(token_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A changed bit is found and its file named; with --verify, files found whole before are read again."""
    for file in token_dir.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    victim = next(tmp_path.glob("news-train-*.bin"))
    content = victim.read_bytes()
    victim.write_bytes(content[:-2] + bytes([content[-2] ^ 1, content[-1]]))
    for verify in (False, True):
        with pytest.raises(UserError, match=rf"{victim.name}: its sha256"):
            run(Flags(verify=verify), str(tmp_path))
    victim.write_bytes(content)
    assert "verified" not in shown(capsys, tmp_path) and "are whole" in shown(capsys, tmp_path, verify=True)


def test_token_data_that_cannot_be_decoded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a tokenizer, and with held-out data only, the available counts are shown."""
    writer = ShardWriter(tmp_path, 1000, 2, "abc")
    writer.add([5, 6, 7], "web", "val", 12)
    writer.finish()
    out = shown(capsys, tmp_path)
    assert ["val", "web", "1", "4", "100.0", "%", "12", "3"] in rows(out) and "at random" not in out


def test_large_token_data_is_sampled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Only some of many tokens are read, from the start to the end, and the report says so."""
    tokenizer = Tokenizer.train(["今天 hello"] * 5, 290)
    tokenizer.save(tmp_path)
    document = np.array([*tokenizer.encode("今天 hello今天"), tokenizer.eos_id], "<u2")
    np.tile(document, 2_000_000).tofile(tmp_path / "train.bin")
    out = shown(capsys, tmp_path, vocab_size=290, examples=2)
    row = next(row for row in rows(out) if row[:2] == ["train", "text"])
    assert float(row[7]) == pytest.approx(len(document) / 10, rel=0.01) and row[3] == f"{len(document) * 2_000_000:,}"
    assert "from 4,194,304 tokens" in out and out.count("'今天 hello今天'") == 2


def test_bare_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Bare .bin files need a vocabulary size, by a flag of this command; with a tokenizer they are decoded."""
    tokenizer = Tokenizer.train(["今天 hello"] * 5, 290)
    tokenizer.save(tmp_path / "tokenizer")
    ids = [token for text in ("今天", "hello") * 4 for token in (*tokenizer.encode(text), tokenizer.eos_id)]
    file = tmp_path / "train.bin"
    np.array(ids, "<u4").tofile(file)
    with pytest.raises(UserError, match=r"need --vocab_size and --eos_id"):
        run(Flags(), str(file))
    with pytest.raises(UserError, match="leave --dtype out"):
        run(Flags(vocab_size=290, dtype="uint16"), str(file))
    out = shown(capsys, file, vocab_size=290, tokenizer=str(tmp_path / "tokenizer"))
    assert ["train", "text", "8", f"{len(ids)}", "100.0", "%", "44"] in [row[:7] for row in rows(out)]
    assert "'今天'" in out or "'hello'" in out
    assert "at random" not in shown(capsys, file, vocab_size=290, dtype="uint32")


def test_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run's checkpoints, newest value of every metric and configuration by section are shown."""
    (tmp_path / "config.yaml").write_text("run_dir: runs/x\nmodel:\n  preset: tiny\n  d_ff: null\nplan:\n  steps: 20\n")
    records = [
        {"step": 10, "time": 1.0, "loss": 3.5, "val/news/bpb": 1.25},
        {"step": 20, "time": 2.0, "loss": 3.25},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    for name in ("step_00000010", "step_00000020"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "resume.json").write_text("{}")
    (tmp_path / "step_00000030").mkdir()  # of a save that was never completed
    out = shown(capsys, tmp_path)
    assert ["steps", "with", "a", "checkpoint", "10,", "20"] in rows(out)
    assert ["newest", "checkpoint", "step_00000020"] in rows(out)
    assert ["loss", "3.25", "20"] in rows(out) and ["val/news/bpb", "1.25", "10"] in rows(out)
    assert "preset tiny\n" in out and "d_ff" not in out and "run_dir runs/x" in out and "steps 20" in out


def test_anything_else_is_reported_in_one_line(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """A missing, unfinished, empty, unknown or damaged input is named in one line."""
    for name in ("unfinished/.work", "empty", "broken"):
        (tmp_path / name).mkdir(parents=True)
    tokenizer.save(tmp_path / "tokenizer")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    (tmp_path / "broken" / "corpus.json").write_text("{")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("model: [")
    (tmp_path / "run" / "metrics.jsonl").write_text("")
    messages = {
        "nowhere": "no such file or directory",
        "unfinished": "was never finished; run the command that makes it again",
        "empty": "nothing to read here",
        "tokenizer": "is a model or tokenizer",
        "picture.png": "a file of a kind that is not read",
        "broken": "not a description of a corpus",
        "run": "config.yaml: is not the configuration of a run",
    }
    for name, message in messages.items():
        with pytest.raises(UserError, match=message) as error:
            run(Flags(), str(tmp_path / name))
        assert name in str(error.value) and "\n" not in str(error.value)
