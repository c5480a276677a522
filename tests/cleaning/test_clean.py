"""The stage `clean`: from raw files to a corpus and a report."""

import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from babyllm.commands.corpus import clean as command
from babyllm.config import parse
from babyllm.documents import Document
from babyllm.errors import UserError
from babyllm.evaluate import perplexity
from babyllm.evaluate.language.texts import bits_per_byte, load_scorer
from babyllm.interop.huggingface import save_model
from babyllm.model.config import ModelConfig
from babyllm.model.transformer import Transformer
from babyllm.pipeline.partitions import WorkConfig
from babyllm.prepare.encode import write_tokens
from babyllm.runtime import Runtime
from babyllm.store.corpus import Count, open_corpus
from babyllm.store.shards import open_tokens
from babyllm.text.clean.filters import CleanConfig
from babyllm.text.clean.filters.chain import Tally, apply, build, labels
from babyllm.text.clean.filters.contract import Resources
from babyllm.text.clean.filters.measures import Length
from babyllm.text.clean.filters.models import Perplexity, Quality
from babyllm.text.clean.stage import clean
from babyllm.text.readers import ReadConfig
from babyllm.tokenizer import Tokenizer

ROOT = Path(__file__).resolve().parents[2]
BY_FIELD = ReadConfig(domain="field:domain")
SMALL = WorkConfig(workers=1, partition_bytes=8000)
SENTENCES = (
    "今天天气很好,我们去公园。。。。",
    "酒店不错！！！！",
    "<p>The model reads &amp; writes.</p>",
    "１９９８年1月",
    "见http://a.b/c",
)


def write_jsonl(path: Path, documents: list[Document]) -> Path:
    lines = (json.dumps({"text": d.text, "domain": d.domain}, ensure_ascii=False) for d in documents)
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """400 documents of two domains, some of which every kind of filter changes or rejects, and a broken record."""
    rng = random.Random(4)
    documents = []
    for _ in range(400):
        text = "".join(rng.choices(SENTENCES, k=rng.randint(1, 8))) + "\u3000\u3000" + str(rng.random())
        documents.append(Document(text if rng.random() < 0.9 else "短", rng.choice(["news", "web"])))
    documents += [Document("好评好评好评好评" * 20, "web"), Document("12345678901234567890 1234", "news")]
    path = write_jsonl(tmp_path_factory.mktemp("raw") / "raw.jsonl", documents)
    with path.open("a", encoding="utf-8") as file:
        file.write('{"text": \n')
    return path


def content(out: Path) -> tuple[list[Document], dict[str, Any], str]:
    """The contents of a result that must not depend on how the work was divided."""
    assert not (out / ".work").exists()
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    rejected = out / "rejected.jsonl"
    text = rejected.read_text(encoding="utf-8") if rejected.exists() else ""
    return list(open_corpus(out).documents()), report, text


# ---- the account


PIECE = st.sampled_from(
    ["今天", "天气，", "hello ", "!!!!", "<b>", "&lt;", "http://a.b", "\u200b", "１２", "\n\n\n", "Ã©", "好好好好"]
)


@settings(max_examples=30)
@given(st.lists(st.lists(PIECE, max_size=30).map("".join), max_size=30))
def test_nothing_is_lost_from_the_account(texts: list[str]) -> None:
    """Documents, characters and bytes read equal those kept plus those that the filters removed, exactly."""
    config = CleanConfig()
    steps = [
        (label, build(name, config, Resources()))
        for label, name in zip(labels(config.filters), config.filters, strict=True)
    ]
    tallies = [Tally() for _ in steps]
    rejected: list[str] = []
    documents = [Document(text, "d", f"{i}") for i, text in enumerate(texts)]
    left = apply(steps, tallies, documents, lambda document, label, reason: rejected.append(document.id))

    def size(some: Any) -> Count:
        return sum((Count(1, len(d.text), len(d.text.encode())) for d in some), Count())

    removed = sum((Count(t.removed, t.characters, t.bytes) for t in tallies), Count())
    assert size(documents) == size(left) + removed
    assert sorted(rejected + [d.id for d in left]) == sorted(d.id for d in documents)
    assert all(sum(t.reasons.values()) == t.removed for t in tallies)


def test_the_report_adds_up(raw: Path, tmp_path: Path) -> None:
    """The report's figures agree with each other, with the corpus and with `rejected.jsonl`."""
    report = clean([raw], tmp_path / "out", CleanConfig(), read=BY_FIELD, work=SMALL)
    assert report is not None
    documents, stored, rejected = content(tmp_path / "out")
    assert stored == json.loads(json.dumps(report.to_json()))
    figures, rows = dict(stored["facts"]), stored["tables"][0]["rows"]
    assert figures["documents read"] == 402 and figures["documents kept"] == len(documents)
    for column, name in ((1, "documents"), (3, "characters"), (4, "bytes")):
        assert figures[f"{name} read"] - figures[f"{name} kept"] == sum(row[column] for row in rows)
    assert figures["records that could not be read"] == 1
    lines = [json.loads(line) for line in rejected.splitlines()]
    assert len(lines) == 1 + 402 - len(documents)
    by_filter = {row[0]: row[1] for row in rows}
    assert by_filter["length"] > 0 and by_filter["repetition"] > 0 and by_filter["shares"] > 0
    for label, n in by_filter.items():
        assert sum(line["filter"] == label for line in lines) == n
    for histogram in stored["histograms"]:
        domain = histogram["title"].rpartition(" ")[2]
        row = next(row for row in stored["tables"][2]["rows"] if row[0] == domain)
        assert [sum(n for *_, n in bins) for bins in histogram["series"].values()] == row[1:3]
    shown = {group["title"] for group in stored["examples"]}
    assert {"Examples: punctuation", "Examples: length"} <= shown
    assert len({document.id for document in documents}) == len(documents)


@pytest.mark.slow
def test_the_result_does_not_depend_on_the_workers(raw: Path, tmp_path: Path) -> None:
    """Documents, report and rejected records are the same for 1, 2 and 4 workers and for other partitions."""
    config = replace(CleanConfig(), filters=[*CleanConfig().filters, "outliers"])
    works = [SMALL, replace(SMALL, workers=2), replace(SMALL, workers=4), WorkConfig(workers=1)]
    for number, work in enumerate(works):
        clean([raw], tmp_path / str(number), config, read=BY_FIELD, work=work)
    first, *others = [content(tmp_path / str(number)) for number in range(len(works))]
    assert others[:2] == [first, first]
    assert len(open_corpus(tmp_path / "0").parts) > 3
    assert others[2][:2] == first[:2] and sorted(others[2][2]) == sorted(first[2])


SCRIPT = """
import sys
from babyllm.__main__ import run
from babyllm.commands.corpus import clean
from babyllm.config import parse
if __name__ == "__main__":
    clean.run(parse(clean.Flags, sys.argv[3:], prog=""), *sys.argv[1:3])
"""


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_stage_goes_on(tmp_path: Path, workers: int) -> None:
    """A stage that is killed in the middle of its work and started again writes the files of an undisturbed one."""
    rng = random.Random(5)
    texts = ["".join(rng.choices(SENTENCES, k=30)) for _ in range(1500)]
    raw = write_jsonl(tmp_path / "raw.jsonl", [Document(text, "web") for text in texts])
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    flags = [f"--work.workers={workers}", "--work.partition_bytes=30000"]
    start = [sys.executable, str(script), str(raw)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    command.run(
        parse(command.Flags, ["--work.workers=1", "--work.partition_bytes=30000"], prog=""), str(raw), str(straight)
    )
    process = subprocess.Popen(
        [*start, str(killed), *flags], env=environment, stdout=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + 60
    while len(list(killed.glob(".work/pass0/0*"))) < 3:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (killed / "corpus.json").exists()
    assert 0 < len(list(killed.glob(".work/pass0/0*"))) < len(open_corpus(straight).parts)
    subprocess.run([*start, str(killed), *flags], env=environment, check=True, capture_output=True)
    assert content(killed) == content(straight)


def test_a_finished_stage_does_nothing(raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A second call reports that all is complete; with other settings or inputs it asks for another directory."""
    out = tmp_path / "out"
    flags = parse(command.Flags, ["--work.workers=1"], prog="")
    command.run(flags, str(raw), str(out))
    assert "documents read" in capsys.readouterr().out
    before = (out / "corpus.json").stat().st_mtime_ns
    command.run(replace(flags, work=SMALL), str(raw), str(out))
    assert "complete already" in capsys.readouterr().out
    assert (out / "corpus.json").stat().st_mtime_ns == before
    command.run(replace(flags, quality=Quality(min=0.9)), str(raw), str(out))  # not one of the chosen filters
    with pytest.raises(UserError, match="other filters"):
        command.run(replace(flags, length=Length(min=3)), str(raw), str(out))
    with pytest.raises(UserError, match="other inputs"):
        clean([write_jsonl(tmp_path / "b.jsonl", [Document("x" * 30)])], out, CleanConfig())


def test_mistakes_are_reported_before_the_work(raw: Path, tmp_path: Path) -> None:
    """Unknown filters, missing files and models, and an output within the input are user errors."""
    for filters, message in (
        (["lenght"], "did you mean 'length'"),
        (["words"], "--words.file"),
        (["quality"], "--quality.model"),
        (["perplexity"], "--perplexity.model"),
    ):
        with pytest.raises(UserError, match=message):
            clean([raw], tmp_path / "out", replace(CleanConfig(), filters=filters), work=SMALL)
    with pytest.raises(UserError, match="outside"):
        clean([raw.parent], raw.parent / "out", CleanConfig())
    with pytest.raises(UserError, match="too few"):
        poor = replace(CleanConfig(), filters=["quality"], quality=Quality(good=[str(raw)]))
        clean([raw], tmp_path / "out", poor, work=SMALL)


def test_no_filters_change_nothing(tmp_path: Path) -> None:
    """Without filters, the corpus consists of the documents read."""
    documents = [Document(text, "web") for text in ("短", "a  b", "<b>")]
    raw = write_jsonl(tmp_path / "raw.jsonl", documents)
    report = clean([raw], tmp_path / "out", replace(CleanConfig(), filters=[]), work=SMALL)
    assert [d.text for d in content(tmp_path / "out")[0]] == [d.text for d in documents]
    assert report is not None and report.tables[0].rows == []
    assert not (tmp_path / "out" / "rejected.jsonl").exists()


# ---- filters that need more than the text


def test_outliers_see_what_the_filters_before_leave(tmp_path: Path) -> None:
    """Mean and deviation are computed on a domain's documents after the earlier filters and before the later ones."""
    lengths = [*range(20, 60), 500]
    documents = (
        [Document("字" * n, "a") for n in lengths] + [Document("字" * 500, "b")] * 3 + [Document("字" * 2, "a")] * 500
    )
    raw = write_jsonl(tmp_path / "raw.jsonl", documents)
    config = replace(CleanConfig(), filters=["length", "outliers", "length"])
    report = clean([raw], tmp_path / "out", config, read=BY_FIELD, work=replace(SMALL, partition_bytes=2000))
    assert report is not None
    assert [list(row[:2]) for row in report.tables[0].rows] == [["length", 500], ["outliers", 1], ["length (2)", 0]]
    kept = content(tmp_path / "out")[0]
    assert [len(d.text) for d in kept if d.domain == "a"] == lengths[:-1]
    assert sum(d.domain == "b" for d in kept) == 3


def test_quality_is_trained_and_used_again(tmp_path: Path) -> None:
    """A classifier trained on good and bad files is stored with the corpus and can clean another one."""
    rng = random.Random(6)
    good = [Document("".join(rng.choices("天地玄黄宇宙洪荒日月盈昃", k=40)), "g") for _ in range(60)]
    bad = [Document("".join(rng.choices("赌博网站点击领取红包优惠", k=40)), "b") for _ in range(60)]
    paths = [write_jsonl(tmp_path / name, documents[:50]) for name, documents in (("g.jsonl", good), ("b.jsonl", bad))]
    raw = write_jsonl(tmp_path / "raw.jsonl", [*good[50:], *bad[50:]])
    trained = Quality(good=[str(paths[0])], bad=[str(paths[1])])
    clean([raw], tmp_path / "one", CleanConfig(filters=["quality"], quality=trained), read=BY_FIELD, work=SMALL)
    again = CleanConfig(filters=["quality"], quality=Quality(model=str(tmp_path / "one")))
    clean([raw], tmp_path / "two", again, read=BY_FIELD, work=replace(SMALL, workers=2))
    for out in ("one", "two"):
        assert {d.domain for d in content(tmp_path / out)[0]} == {"g"}
        assert len(content(tmp_path / out)[0]) == 10
    assert json.loads((tmp_path / "one" / "quality.json").read_text())["accuracy"] == 1.0
    with pytest.raises(UserError, match="no quality classifier"):
        broken = CleanConfig(filters=["quality"], quality=Quality(model=str(tmp_path)))
        clean([raw], tmp_path / "three", broken, work=SMALL)


@pytest.fixture(scope="module")
def model(tiny: Callable[..., ModelConfig]) -> Transformer:
    torch.manual_seed(0)
    model = Transformer(tiny(max_seq_len=32)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=0.2) if weight.dim() > 1 else weight.uniform_(0.5, 1.5)
    return model


def test_bits_per_byte_of_single_documents(
    model: Transformer, tokenizer: Tokenizer, corpus: list[Document], runtime: Runtime, tmp_path: Path
) -> None:
    """Each document's figure is that of an evaluation of a domain with this document alone, long ones included."""
    texts = [corpus[0].text, corpus[1].text * 20, corpus[2].text]
    documents = [Document(text, f"d{i}") for i, text in enumerate(texts)]
    write_tokens(documents, tokenizer, tmp_path / "tokens", held_out=1.0)
    expected = perplexity(model, open_tokens(tmp_path / "tokens", to_train=False), runtime, seq_len=32)
    found = bits_per_byte(model, tokenizer, [*texts, ""])
    assert found[:3] == pytest.approx([expected[f"d{i}/bpb"] for i in range(3)], rel=1e-5)
    assert math.isinf(found[3])


def test_perplexity_bounds(model: Transformer, tokenizer: Tokenizer, corpus: list[Document], tmp_path: Path) -> None:
    """Documents that a model finds more or less surprising than the bounds allow are rejected."""
    (tmp_path / "model").mkdir()
    save_model(tmp_path / "model", model, tokenizer)
    texts = [document.text for document in corpus[:40]]
    bits = load_scorer(str(tmp_path / "model"))(texts)
    low, high = sorted(bits)[5] - 1e-6, sorted(bits)[-5] - 1e-6
    raw = write_jsonl(tmp_path / "raw.jsonl", [Document(text) for text in texts])
    chosen = Perplexity(model=str(tmp_path / "model"), min=low, max=high)
    flags = replace(parse(command.Flags, [], prog=""), filters=["perplexity"], perplexity=chosen, work=SMALL)
    command.run(flags, str(raw), str(tmp_path / "out"))
    expected = [text for text, b in zip(texts, bits, strict=True) if low <= b <= high]
    assert [d.text for d in content(tmp_path / "out")[0]] == expected
