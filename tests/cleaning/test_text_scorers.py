"""Scorers of one's own, `module:function`, in clean and in select."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from babyllm.documents import Document
from babyllm.errors import UserError
from babyllm.pipeline.partitions import WorkConfig
from babyllm.selection.select_config import SelectConfig
from babyllm.selection.select_documents import select_documents
from babyllm.store.corpus import about_corpus, open_corpus
from babyllm.text.clean.filters import CleanConfig
from babyllm.text.clean.filters.models import Quality
from babyllm.text.clean.stage import clean
from babyllm.text.text_scorers import load_text_scorer
from tests.support.disk_fixtures import corpus_of

HAN = """
VERSION = "{version}"

def share(texts):
    assert isinstance(texts, list)
    return [sum("一" <= c <= "龥" for c in text) / len(text) for text in texts]
"""
WriteModule = Callable[[str, str], None]
ONE = WorkConfig(workers=1)


@pytest.fixture
def write_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WriteModule:
    """Writes a module into the present folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def write(name: str, source: str) -> None:
        Path(f"{name}.py").write_text(source, encoding="utf-8")

    return write


def by(function: str, least: float = 0.5) -> CleanConfig:
    return CleanConfig(filters=["quality"], quality=Quality(function=function, min=least))


def texts(out: Path) -> list[str]:
    return [document.text for document in open_corpus(out).documents()]


def test_a_function_decides_in_worker_processes(tmp_path: Path, write_module: WriteModule) -> None:
    """Workers call the function by name, and what it made is kept apart from what another version makes."""
    write_module("han_share", HAN.format(version="1"))
    raw = corpus_of(tmp_path / "raw", [Document(text * 9, "d", str(i)) for i, text in enumerate("天a地b")])
    wide = by("han_share:share")
    clean(
        [raw, corpus_of(tmp_path / "more", ["人" * 9], 1)],
        tmp_path / "two",
        wide,
        work=WorkConfig(2, partition_bytes=1),
    )
    assert sorted(text[0] for text in texts(tmp_path / "two")) == ["人", "地", "天"]
    clean([raw], tmp_path / "out", wide, work=ONE)
    assert (about_corpus(tmp_path / "out") or {})["files"]["quality.function"].startswith("han_share:share ")
    assert clean([raw], tmp_path / "out", wide, work=ONE) is None
    write_module("han_share", HAN.format(version="2"))
    del sys.modules["han_share"]  # as in a new process
    load_text_scorer.cache_clear()
    with pytest.raises(UserError, match="other files"):
        clean([raw], tmp_path / "out", wide, work=ONE)


def test_documents_are_ranked_by_a_function(tmp_path: Path, write_module: WriteModule) -> None:
    """A score of one's own ranks documents, and a result knows the function that made it."""
    write_module("han_rank", HAN.format(version="1"))
    corpus = corpus_of(tmp_path / "c", [Document("天" * n + "a" * (9 - n), "d", str(n)) for n in range(9)])
    config = SelectConfig(scores=["han_rank:share"], keep=3, work=ONE)
    select_documents([corpus], tmp_path / "best", config)
    assert [text.count("天") for text in texts(tmp_path / "best")] == [6, 7, 8]
    assert select_documents([corpus], tmp_path / "best", config) is None
    with pytest.raises(UserError, match="other settings, functions"):
        select_documents([corpus], tmp_path / "best", replace(config, scores=[], by="share"))
    with pytest.raises(UserError, match="for conversations"):
        select_documents([corpus], tmp_path / "other", SelectConfig(scores=["field:x"], work=ONE))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return [1.0] * (len(texts) + 1)", r"returned an array of shape \(2,\); return a list of 1 finite numbers"),
        ("return [float('nan') for _ in texts]", "returned nan for 'text'"),
        ("return ['good' for _ in texts]", "returned list that is not of numbers"),
        ("raise ValueError('no\\nmodel')", "raised ValueError: no"),
    ],
)
def test_what_a_function_returns_is_checked(tmp_path: Path, write_module: WriteModule, body: str, message: str) -> None:
    """A wrong number of scores, one that is not finite or no number, and an exception are one line with the name."""
    module = f"wrong_{abs(hash(body))}"
    write_module(module, f"def score(texts):\n    {body}\n")
    raw = corpus_of(tmp_path / "raw", ["天地玄黄"], 1)
    with pytest.raises(UserError, match=f"--quality.function={module}:score: {message}") as error:
        clean([raw], tmp_path / "out", by(f"{module}:score"), work=ONE)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("score", "write module:function"),
        ("no_such:score", "cannot be imported"),
        ("json:__doc__", "is not a function"),
    ],
)
def test_a_function_that_is_not_found(tmp_path: Path, write_module: WriteModule, name: str, message: str) -> None:
    """A name of another form, a missing module and something else than a function are reported before the work."""
    raw = corpus_of(tmp_path / "raw", ["天地玄黄"], 1)
    with pytest.raises(UserError, match=f"--quality.function={name}: {message}"):
        clean([raw], tmp_path / "out", by(name), work=ONE)
    with pytest.raises(UserError, match="takes the place"):
        both = replace(by("json:dumps").quality, model="x")
        clean([raw], tmp_path / "out", CleanConfig(filters=["quality"], quality=both), work=ONE)
