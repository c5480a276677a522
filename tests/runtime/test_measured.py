"""Choices that are measured once on a machine."""

from pathlib import Path

import pytest

from babyllm.runtime.measured import remembered


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "babyllm" / "measured.json"


def test_a_choice_is_measured_once(cache: Path) -> None:
    """The second question is answered from the file; another key is measured for itself."""
    answers = iter(["blocks", "fused"])
    assert remembered("a", lambda: next(answers)) == "blocks"
    assert remembered("a", lambda: next(answers)) == "blocks"
    assert remembered("b", lambda: next(answers)) == "fused"
    assert cache.is_file()


@pytest.mark.parametrize("content", ["", "[1]", '{"a": 1}', "no JSON"])
def test_a_damaged_cache_is_made_again(content: str, cache: Path) -> None:
    """Whatever the file holds, the choice is measured and stored."""
    cache.parent.mkdir()
    cache.write_text(content, encoding="utf-8")
    assert remembered("a", lambda: "fused") == "fused"
    assert remembered("a", lambda: "blocks") == "fused"


def test_without_a_cache_each_call_measures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A place that cannot be written costs a measurement and no run."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert [remembered("a", lambda choice=choice: choice) for choice in ("fused", "blocks")] == ["fused", "blocks"]
