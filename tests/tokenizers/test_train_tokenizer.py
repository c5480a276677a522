"""`babyllm train-tokenizer`: the sample by domain weight, the kinds of tokenizers, the table beside others."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from babyllm.commands.corpus.train_tokenizer import Flags, run
from babyllm.documents import Document, is_held_out
from babyllm.errors import UserError
from babyllm.pipeline.partitions import WorkConfig
from babyllm.tokenizer import Tokenizer
from tests.support.disk_fixtures import store_corpus

HELD_OUT = 0.2
ONE = WorkConfig(workers=1)


@pytest.fixture(scope="module")
def documents() -> list[Document]:
    """About 90 kB of Chinese news and 9 kB of English web text, all different."""
    rng = random.Random(3)
    zh = ["".join(rng.choices("今天气很好我们去公园看书这本小说有意思他说明年再来北京", k=30)) for _ in range(1000)]
    en = [" ".join(rng.choices(["the", "model", "reads", "tokens", "zebra", "quick"], k=8)) for _ in range(250)]
    mixed = [Document(text, "news") for text in zh] + [Document(text, "web") for text in dict.fromkeys(en)]
    rng.shuffle(mixed)
    return [Document(d.text, d.domain, str(i)) for i, d in enumerate(mixed)]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, documents: list[Document]) -> Path:
    return store_corpus(tmp_path_factory.mktemp("corpus") / "clean", [documents[:400], documents[400:]])


def learn(source: Path, out: Path, **settings: Any) -> dict[str, Any]:
    """The rows of the report's tables by title, after training."""
    run(Flags(**{"vocab_size": 400, "held_out": HELD_OUT, "work": ONE} | settings), str(source), str(out))
    tables = json.loads((out / "report.json").read_text(encoding="utf-8"))["tables"]
    return {
        table["title"]: {row[0]: dict(zip(table["columns"], row, strict=True)) for row in table["rows"]}
        for table in tables
    }


@pytest.mark.filterwarnings("ignore:tokenizer.json may split some texts")  # what `save` says of unigram models
@pytest.mark.parametrize("kind", ["bpe", "unigram", "byte_bpe"])
def test_every_kind_is_trained_and_loads(tmp_path: Path, source: Path, documents: list[Document], kind: str) -> None:
    """Each kind has the requested size and special tokens, round-trips text, and can be loaded by other libraries."""
    learn(source, tmp_path / "out", type=kind, special_tokens=["<|tool|>"])
    tokenizer = Tokenizer.load(tmp_path / "out")
    assert tokenizer.vocab_size == 400 and tokenizer.special["<|tool|>"] == 16
    assert [tokenizer.decode(tokenizer.encode(d.text)) for d in documents] == [d.text for d in documents]
    assert (tmp_path / "out" / "tokenizer.json").is_file() and not (tmp_path / "out" / ".work").exists()


def test_it_is_the_tokenizer_of_all_documents_that_are_not_held_out(
    tmp_path: Path, source: Path, documents: list[Document]
) -> None:
    """Where all text fits the sample, training uses every document that is not held out, once."""
    table = learn(source, tmp_path / "out")["learned from"]
    for domain, row in table.items():
        kept = [d.text for d in documents if d.domain == domain and not is_held_out(d.text, HELD_OUT)]
        assert (row["documents"], row["bytes"]) == (len(kept), sum(len(text.encode()) for text in kept))
        assert row["repeated"] == 0


def test_neither_order_nor_workers_nor_files_matter(tmp_path: Path, source: Path, documents: list[Document]) -> None:
    """Documents are drawn by their hash, so the tokenizer is the same in whatever order and files they are."""
    backward = store_corpus(tmp_path / "backward", [documents[:-300:-1], documents[-300::-1]])
    lines = [json.dumps({"text": d.text, "domain": d.domain}) for d in documents]
    (tmp_path / "raw.jsonl").write_text("\n".join(lines), encoding="utf-8")
    settings: dict[str, Any] = {"sample_bytes": 40_000, "weights": {"news": 0.8, "web": 0.2}}
    from babyllm.text.readers import ReadConfig

    ways: list[tuple[Path, dict[str, Any]]] = [
        (source, {}),
        (backward, {"work": WorkConfig(workers=2)}),
        (tmp_path / "raw.jsonl", {"read": ReadConfig(domain="field:domain"), "work": WorkConfig(1, 20_000)}),
    ]
    hashes = set()
    for i, (path, more) in enumerate(ways):
        learn(path, tmp_path / f"out{i}", **settings, **more)
        hashes.add(Tokenizer.load(tmp_path / f"out{i}").sha256)
    assert len(hashes) == 1


def test_held_out_documents_are_never_in_the_sample(tmp_path: Path, documents: list[Document]) -> None:
    """A corpus has the same tokenizer with and without its held-out documents."""
    kept = [d for d in documents if not is_held_out(d.text, HELD_OUT)]
    assert len(kept) < 0.9 * len(documents)
    for name, some in (("all", documents), ("kept", kept)):
        learn(store_corpus(tmp_path / f"in {name}", [some]), tmp_path / name)
    assert Tokenizer.load(tmp_path / "all").sha256 == Tokenizer.load(tmp_path / "kept").sha256


@pytest.mark.parametrize(
    ("weights", "sample_bytes", "shares"),
    [
        ({"news": 0.5, "web": 0.5}, 60_000, {"news": 0.5, "web": 0.5}),
        ({"news": 3, "web": 1}, 10_000, {"news": 0.75, "web": 0.25}),
        ({"web": 1}, 1 << 30, {"web": 1.0}),
        (None, 20_000, None),
    ],
)
def test_weights_are_shares_of_the_sample(
    tmp_path: Path,
    source: Path,
    documents: list[Document],
    weights: dict[str, float] | None,
    sample_bytes: int,
    shares: dict[str, float] | None,
) -> None:
    """The sample has the shares of the weights, or of the sizes without weights, and at most the allowed bytes."""
    table = learn(source, tmp_path / "out", vocab_size=340, weights=weights, sample_bytes=sample_bytes)["learned from"]
    if shares is None:
        sizes = {n: sum(len(d.text.encode()) for d in documents if d.domain == n) for n in ("news", "web")}
        shares = {domain: size / sum(sizes.values()) for domain, size in sizes.items()}
    assert {domain: row["share"] for domain, row in table.items()} == pytest.approx(shares, abs=0.01)
    total = sum(row["bytes"] for row in table.values())
    assert total <= sample_bytes and (total > 0.97 * sample_bytes or weights == {"web": 1})
    # About 7 kB of the web are not held out, so half of 60 kB repeats them four times.
    assert (table["web"]["repeated"] > 0) == (sample_bytes == 60_000)
    pieces = {Tokenizer.load(tmp_path / "out").token_bytes(i) for i in range(340)}
    assert ("今".encode() in pieces) == ("news" in table)


def test_the_table_shows_compression_of_held_out_documents(
    tmp_path: Path, source: Path, documents: list[Document], capsys: pytest.CaptureFixture[str]
) -> None:
    """The table shows characters and bytes per token of held-out documents, by domain, beside other tokenizers."""
    other = Tokenizer.train((d.text for d in documents), 320, n_threads=1)
    other.save(tmp_path / "other")
    tables = learn(source, tmp_path / "mine", compare=[str(tmp_path / "other")])
    mine = Tokenizer.load(tmp_path / "mine")
    out = capsys.readouterr().out
    assert "mine (400)" in out and "other (320)" in out
    for unit in ("characters", "bytes"):
        table = tables[f"{unit} per token, held-out documents"]
        assert list(table) == ["news", "web", "all"]
        for domain, row in table.items():
            texts = [d.text for d in documents if domain in (d.domain, "all") and is_held_out(d.text, HELD_OUT)]
            size = sum(len(text if unit == "characters" else text.encode()) for text in texts)
            assert row[unit] == size
            for name, tokenizer in (("mine (400)", mine), ("other (320)", other)):
                assert row[name] == round(size / sum(map(len, tokenizer.encode_batch(texts))), 3)


def test_without_held_out_documents_nothing_is_measured(tmp_path: Path, source: Path) -> None:
    """Without held-out documents the report has no table of compression and says why."""
    assert list(learn(source, tmp_path / "out", held_out=0.0)) == ["learned from"]
    facts = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))["facts"]
    assert ["not measured", "no document is held out"] in facts


def test_called_again(tmp_path: Path, source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A finished tokenizer is left unchanged; other settings and a tokenizer from elsewhere are refused."""
    out = tmp_path / "out"
    learn(source, out)
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    capsys.readouterr()
    learn(source, out, work=WorkConfig(workers=2))
    assert capsys.readouterr().out == f"{out}: complete already, with these settings and inputs; nothing to do\n"
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before
    made = json.loads((out / "training.json").read_text(encoding="utf-8"))
    older = {name: value for name, value in made.items() if name not in ("special", "pre_split")}
    (out / "training.json").write_text(json.dumps(older), encoding="utf-8")  # as before these settings existed
    learn(source, out)
    assert capsys.readouterr().out == f"{out}: complete already, with these settings and inputs; nothing to do\n"
    with pytest.raises(UserError, match="was made with other vocab_size; choose another OUT"):
        learn(source, out, vocab_size=401)
    Tokenizer.load(out).save(tmp_path / "foreign")
    with pytest.raises(UserError, match=r"foreign: holds tokenizer\.json and 2 more, which this command did not make"):
        learn(source, tmp_path / "foreign")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weights": {"wiki": 1.0}}, "weights names 'wiki', but the domains are news, web"),
        ({"weights": {"news": -1.0, "web": 2.0}}, "--weights=-1.0: must be at least 0"),
        ({"weights": {"news": 0.0}}, "one must be above 0"),
        ({"vocab_size": 100}, "vocab_size 100 is too small: this text needs at least"),
        ({"held_out": -0.1}, "--held_out=-0.1: must be at least 0"),
        ({"sample_bytes": 0}, "--sample_bytes=0: must be at least 1"),
        ({"held_out": 1.0}, "no text to train a tokenizer on"),
        ({"compare": ["/nowhere"]}, "no tokenizer at /nowhere"),
        ({"character_coverage": 0.97}, "character_coverage 0.97: bpe takes 0.98 to 1; .*, or byte_bpe"),
    ],
)
def test_a_wrong_setting_is_an_error_of_one_line(
    tmp_path: Path, source: Path, settings: dict[str, Any], message: str
) -> None:
    """A wrong setting is a UserError of one line, and no tokenizer is left behind."""
    with pytest.raises(UserError, match=message) as error:
        learn(source, tmp_path / "out", **settings)
    assert "\n" not in str(error.value) and not (tmp_path / "out" / "tokenizer.json").exists()
