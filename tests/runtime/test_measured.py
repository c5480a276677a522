"""Choices that are measured once on a machine."""

import json
from pathlib import Path

import pytest
import torch
from model_fixtures import Tiny, model_of

from babyllm.model.attention import attention_form
from babyllm.parallel.forms import choose_forms
from babyllm.runtime import RuntimeConfig, start
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


@pytest.mark.parametrize("choice", ["bfloat16", "float32"])
def test_training_takes_the_dtype_that_was_measured(choice: str, cache: Path) -> None:
    """The first start on a CPU measures and remembers; a later one takes what is remembered, whatever it is."""
    with start(RuntimeConfig(device="cpu")) as runtime:
        measured = runtime.dtype
    choices = json.loads(cache.read_text(encoding="utf-8"))
    ((key, found),) = choices.items()
    assert key.startswith("dtype") and str(measured) == f"torch.{found}"
    cache.write_text(json.dumps({key: choice}), encoding="utf-8")
    with start(RuntimeConfig(device="cpu")) as runtime:
        assert runtime.dtype is getattr(torch, choice)
        assert runtime.reading_dtype is torch.float32


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler warns of its own inner workings
def test_compiling_is_decided_by_a_measurement_too(cache: Path, tiny: Tiny) -> None:
    """What is left open is measured once for a shape, remembered, and leaves the model as it was."""
    model = model_of(tiny())
    model.layers[0].requires_grad_(False)  # as where only the last layers are trained
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    with start(RuntimeConfig(device="cpu", dtype="float32", compile_backend="eager")) as runtime:
        for _ in range(2):
            runtime.compile = "auto"
            choose_forms(model, runtime, 8)
            ((key, found),) = json.loads(cache.read_text(encoding="utf-8")).items()
            assert key.startswith("compile 8") and runtime.compile is (found == "compiled")
    assert attention_form(model) == "fused"
    assert all(weight.equal(before[name]) and weight.grad is None for name, weight in model.named_parameters())
    assert all(block._compiled_call_impl is None for block in model.layers)
