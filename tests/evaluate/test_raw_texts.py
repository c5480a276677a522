"""Raw texts: `babyllm eval MODEL... --texts`, against losses computed by hand and on any batches and ranks."""

import gzip
import json
import math
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from model_fixtures import Tiny, model_of
from training_fixtures import Worker
from transformers import AutoModelForCausalLM

from babyllm.commands.use.eval import Flags, run
from babyllm.documents import Document
from babyllm.errors import UserError
from babyllm.evaluate.language.chosen_texts import chosen_texts
from babyllm.evaluate.language.texts import bits_per_byte, text_nats
from babyllm.interop.huggingface import save_model
from babyllm.loading import load
from babyllm.run_directory import write_resume
from babyllm.runtime import Runtime, RuntimeConfig
from babyllm.text.readers import ReadConfig
from babyllm.tokenizer import Tokenizer

CPU = RuntimeConfig(device="cpu", dtype="float32", threads=1)
CONTEXT = 24


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, tiny: Tiny, tokenizer: Tokenizer) -> tuple[str, str]:
    """Two models with a context of 24 tokens and tokenizers of their own; not to be changed."""
    folder = tmp_path_factory.mktemp("models")
    other = Tokenizer.train(["今天气很好我们去公园看书 the model reads"] * 9, 310, n_threads=1)
    for name, mine in (("first", tokenizer), ("second", other)):
        (folder / name).mkdir()
        save_model(folder / name, model_of(tiny(vocab_size=mine.vocab_size, max_seq_len=CONTEXT)), mine)
        mine.save(folder / name)
    return str(folder / "first"), str(folder / "second")


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory, corpus: list[Document]) -> Path:
    """A folder with the texts of three domains in files of three formats; one text of each is long."""
    folder = tmp_path_factory.mktemp("raw") / "texts"
    folder.mkdir()
    lines = [json.dumps({"text": d.text}, ensure_ascii=False) for d in [*corpus[:30], Document(corpus[3].text * 20)]]
    (folder / "news.jsonl").write_text("\n".join([*lines, '{"nothing": 1}']) + "\n", encoding="utf-8")
    with gzip.open(folder / "chat.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write("\n".join(json.dumps({"content": d.text}) for d in corpus[30:50]))
    (folder / "book.txt").write_text("今天我们去公园看书。" * 12, encoding="utf-8")
    return folder


def evaluated(tmp_path: Path, texts: Path, *models: str, **flags: Any) -> dict[str, Any]:
    out = tmp_path / "out.json"
    run(Flags(texts=str(texts), json=str(out), runtime=CPU, **flags), *models)
    report: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return report


def by_hand(directory: str, text: str, stride: int) -> float:
    """The nats of a text by the loss of transformers, window by window."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(directory), Tokenizer.load(directory)
    ids = torch.tensor([[tokenizer.begin_id, *tokenizer.encode(text), tokenizer.eos_id]])
    nats, n_scored = 0.0, 0
    for start in range(0, ids.shape[1] - 1, stride):
        window = ids[:, start : start + CONTEXT + 1]
        labels = window.clone()
        labels[:, : n_scored + 1 - start] = -100  # as transformers shifts labels, the first never counts
        n_new = window.shape[1] - 1 - (n_scored - start)
        with torch.no_grad():
            nats += float(model(window, labels=labels).loss) * n_new
        n_scored += n_new
        if n_scored == ids.shape[1] - 1:
            break
    return nats


@pytest.mark.parametrize("stride", [1, 7, 12, CONTEXT])
def test_a_document_costs_what_transformers_says(
    models: tuple[str, str], texts: Path, tmp_path: Path, stride: int
) -> None:
    """The windows of a long text overlap by the context less the stride, and each token is scored once."""
    text = (texts / "book.txt").read_text(encoding="utf-8")
    found = evaluated(tmp_path, texts / "book.txt", models[0], stride=stride)["values"]["models"][models[0]]
    nats, book = by_hand(models[0], text, stride), found["book"]
    n_tokens = len(Tokenizer.load(models[0]).encode(text)) + 1
    assert n_tokens > 2 * CONTEXT
    assert (book["tokens"], book["documents"]) == (n_tokens, 1)
    assert (book["characters"], book["bytes"]) == (120, 360), "a Chinese character has three bytes"
    assert book["loss"]["value"] == pytest.approx(nats / n_tokens, rel=1e-5)
    assert book["perplexity"]["value"] == pytest.approx(math.exp(nats / n_tokens), rel=1e-4)
    assert book["bits_per_byte"]["value"] == pytest.approx(nats / math.log(2) / 360, rel=1e-5)
    assert book["bits_per_character"]["value"] == pytest.approx(nats / math.log(2) / 120, rel=1e-5)
    assert book["bits_per_byte"]["error"] is None, "one document has no standard error"


def test_stride_one_is_the_full_context(tiny: Tiny, tokenizer: Tokenizer, corpus: list[Document]) -> None:
    """Each token is scored after all that fit before it; without a stride, after half a row at least."""
    model, text = model_of(tiny(max_seq_len=8)), corpus[5].text * 3
    ids = [tokenizer.begin_id, *tokenizer.encode(text), tokenizer.eos_id]
    nats = 0.0
    for target in range(1, len(ids)):
        before = torch.tensor([ids[max(0, target - 8) : target]])
        nats -= float(model.logits(before)[0, -1].double().log_softmax(-1)[ids[target]])
    assert text_nats(model, tokenizer, [text], stride=1).nats[0] == pytest.approx(nats, rel=1e-6)
    half = text_nats(model, tokenizer, [text]).nats[0]
    assert half == text_nats(model, tokenizer, [text], stride=4).nats[0] != pytest.approx(nats, rel=1e-6)


def test_two_models_on_the_same_documents(
    models: tuple[str, str], texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each model has a row in each domain, with errors over documents, and differs from the first by an estimate."""
    report = evaluated(tmp_path, texts, *models)
    values, shown = report["values"], capsys.readouterr().out
    assert "perplexity per token" in shown and "at 5 %" in shown and "±" in shown
    assert sum(n for name, n in report["facts"] if name.startswith("rejected: ")) == 1
    first, second = (values["models"][model] for model in models)
    for domain, mine in first.items():
        assert [mine[k] for k in ("documents", "bytes", "characters")] == [
            second[domain][k] for k in ("documents", "bytes", "characters")
        ]
        assert mine["tokens"] != second[domain]["tokens"]
    assert first["all"]["documents"] == 52 and set(first) == {"texts", "chat", "news", "all"}
    gap = values["differences"][models[1]]["all"]
    assert gap["value"] == pytest.approx(
        second["all"]["bits_per_byte"]["value"] - first["all"]["bits_per_byte"]["value"]
    )
    assert 0 <= gap["p_value"] <= 1 and gap["error"] > 0
    assert len(report["tables"][0]["rows"]) == 2 * len(first) and len(report["tables"][1]["rows"]) == len(first)


def test_all_steps_of_a_run(models: tuple[str, str], texts: Path, tmp_path: Path) -> None:
    """With --all_steps the steps of a run stand side by side, named by their numbers."""
    for step in (2, 10):
        place = shutil.copytree(models[0], tmp_path / "run" / f"step_{step:08d}")
        write_resume(place, {"step": step, "sha256": {}})
    report = evaluated(tmp_path, texts / "book.txt", str(tmp_path / "run"), all_steps=True)
    assert list(report["values"]["models"]) == ["step 2", "step 10"]
    assert [row[1] for row in report["tables"][0]["rows"][:2]] == ["step 2", "step 10"]


def test_a_model_does_not_differ_from_its_copy(models: tuple[str, str], texts: Path, tmp_path: Path) -> None:
    """The same weights elsewhere have the same numbers, a difference of 0 and a p-value of 1."""
    copy = shutil.copytree(models[0], tmp_path / "copy")
    values = evaluated(tmp_path, texts, models[0], str(copy))["values"]
    assert values["models"][models[0]] == values["models"][str(copy)]
    assert values["differences"][str(copy)]["all"] == {"value": 0.0, "error": 0.0, "p_value": 1.0}


def test_errors_are_those_of_a_ratio_over_documents(models: tuple[str, str], texts: Path, tmp_path: Path) -> None:
    """They agree with the spread of the ratio when documents are drawn again and again."""
    file = texts / "news.jsonl"
    report = evaluated(tmp_path, file, models[0])["values"]["models"][models[0]]["all"]
    model, tokenizer = load(models[0])
    rows = [json.loads(line).get("text", "") for line in file.read_text(encoding="utf-8").splitlines()]
    rows = [text for text in rows if text]
    sizes = np.array([len(text.encode()) for text in rows])
    bits = np.array(bits_per_byte(model, tokenizer, rows)) * sizes
    assert report["bits_per_byte"]["value"] == pytest.approx(bits.sum() / sizes.sum(), rel=1e-6)
    draws = np.random.default_rng(0).integers(0, len(rows), (4000, len(rows)))
    spread = float((bits[draws].sum(1) / sizes[draws].sum(1)).std())
    assert report["bits_per_byte"]["error"] == pytest.approx(spread, rel=0.2)


def test_batches_change_nothing(models: tuple[str, str], texts: Path, tmp_path: Path) -> None:
    """The same numbers, to the last digit, for any batch size."""
    found = [evaluated(tmp_path, texts, models[0], batch_tokens=size)["values"] for size in (1, 7, 64)]
    assert found[0] == found[1] == found[2]


def test_ranks_change_nothing(models: tuple[str, str], texts: Path, tmp_path: Path, worker: Worker) -> None:
    """The same numbers, to the last digit, on one rank and on two that share the work."""
    found = []
    for ranks in (1, 2):
        out = tmp_path / f"{ranks}.json"
        flags = [f"--texts={texts}", f"--json={out}", "--runtime.device=cpu", "--runtime.dtype=float32"]
        worker.run("command", ranks=ranks, arguments=["eval", *models, *flags, "--runtime.threads=1"])
        found.append(json.loads(out.read_text(encoding="utf-8"))["values"])
    assert found[0] == found[1] == evaluated(tmp_path, texts, *models)["values"]


def test_a_stop_signal_ends_it(models: tuple[str, str], runtime: Runtime) -> None:
    """No numbers are made of texts that were read in part."""
    model, tokenizer = load(models[0])
    signal.raise_signal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        text_nats(model, tokenizer, ["今天"] * 9, runtime)


def test_characters_that_a_tokenizer_loses_are_counted(tiny: Tiny, texts: Path, tmp_path: Path) -> None:
    """A tokenizer without bytes cannot encode all characters, which makes its model look too good."""
    tokenizer = Tokenizer.train(
        ["天气 the model reads one token"] * 9, 60, model_type="wordpiece", hard_vocab_limit=False
    )
    (tmp_path / "lossy").mkdir()
    save_model(tmp_path / "lossy", model_of(tiny(vocab_size=tokenizer.vocab_size, max_seq_len=CONTEXT)), tokenizer)
    tokenizer.save(tmp_path / "lossy")
    facts = dict(evaluated(tmp_path, texts / "book.txt", str(tmp_path / "lossy"))["facts"])
    assert [n for name, n in facts.items() if "unknown" in name] == [9 * 12]


def test_documents_are_chosen_by_their_texts(corpus: list[Document]) -> None:
    """The choice depends on texts and seed alone, keeps the order, and grows with the limits."""
    few, many = list(chosen_texts(corpus, n=10)), list(chosen_texts(corpus, n=50))
    assert (len(few), len(many)) == (10, 50)
    places = [corpus.index(document) for document in many]
    assert places == sorted(places) and {d.text for d in few} < {d.text for d in many}
    backwards = list(chosen_texts(corpus[::-1], n=10))
    assert backwards == few[::-1]
    assert {d.text for d in chosen_texts(corpus, n=10, seed=1)} != {d.text for d in few}
    for limit in (1, 200, 2000):
        sizes = [len(d.text.encode()) for d in chosen_texts(corpus, max_bytes=limit)]
        assert sum(sizes) >= limit > sum(sizes) - max(sizes)
    assert list(chosen_texts(corpus, n=3, max_bytes=10**6)) == list(chosen_texts(corpus, n=3))
    assert chosen_texts(corpus) is corpus


def test_a_choice_is_the_same_for_every_tokenizer(models: tuple[str, str], texts: Path, tmp_path: Path) -> None:
    """With a limit, both models read the chosen documents; the readers' settings are those of `clean`."""
    read = ReadConfig(domain="web")
    values = evaluated(tmp_path, texts, *models, limit=9, seed=3, read=read)["values"]["models"]
    sizes = [[values[model][domain]["bytes"] for domain in ("web", "all")] for model in models]
    assert sizes[0] == sizes[1] and values[models[0]]["all"]["documents"] == 9


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"stride": CONTEXT + 1}, r"--stride=25: .* reads rows of 24 tokens"),
        ({"data": "x"}, r"--texts: cannot be combined"),
        ({"read": ReadConfig(domain="all")}, "a domain named 'all'"),
        ({"read": ReadConfig(text="missing")}, "missing"),
    ],
)
def test_what_cannot_be_is_refused(
    models: tuple[str, str], texts: Path, tmp_path: Path, flags: dict[str, Any], message: str
) -> None:
    """Flags that do not fit are named, before a model is read where possible."""
    with pytest.raises(UserError, match=message):
        evaluated(tmp_path, texts / "news.jsonl", models[0], **flags)


def test_bad_files_and_models_are_named(models: tuple[str, str], texts: Path, tmp_path: Path) -> None:
    """A missing or empty file, one that is not text, a model that is missing or given twice."""
    (tmp_path / "empty.jsonl").write_text("\n\n")
    (tmp_path / "bad.jsonl").write_text("not json\n" * 3)
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b'{"text": "abc"}\n' * 999)[:40])
    for name in ("missing.txt", "empty.jsonl", "bad.jsonl", "cut.jsonl.gz"):
        with pytest.raises(UserError, match=name.replace(".", r"\.")):
            evaluated(tmp_path, tmp_path / name, models[0])
    with pytest.raises(UserError, match="nowhere: does not exist"):
        evaluated(tmp_path, texts, models[0], str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="is given twice"):
        evaluated(tmp_path, texts, models[0], models[0])
    with pytest.raises(UserError, match="--texts"):
        run(Flags(runtime=CPU), *models)
