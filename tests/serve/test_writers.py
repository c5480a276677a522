"""Writers of a base and its adapters, of which few are in memory at a time."""

from typing import Any

import pytest
import torch
from model_fixtures import Tiny
from serve_fixtures import talkative

from babyllm.generation import Engine, Sampling
from babyllm.serve.api.generation.choice import ChoiceDelta
from babyllm.serve.api.generation.generation_request import ChoiceRequest, GenerationRequest
from babyllm.serve.writer import Writer
from babyllm.serve.writers import Writers
from babyllm.tokenizer import Tokenizer


def wanted(n: int = 4) -> GenerationRequest:
    choice = ChoiceRequest([5], Sampling(max_new_tokens=n, temperature=0), frozenset())
    return GenerationRequest([choice], 1, False, False, None)


@pytest.fixture
def made() -> list[str]:
    """Names of the models whose writers were made, in order."""
    return []


@pytest.fixture
def writers(tiny: Tiny, tokenizer: Tokenizer, made: list[str]) -> Writers:
    """Writers of a base and of adapters a to d, two at a time; d cannot be made."""
    torch.set_num_threads(1)
    model = talkative(tiny())

    def make(name: str) -> Writer:
        if name == "d":
            raise RuntimeError("out of memory")
        made.append(name)
        return Writer(lambda: Engine(model, slots=1), tokenizer, 1)

    return Writers({name: lambda name=name: make(name) for name in ("base", *"abcd")}, 2)  # type: ignore[misc]


def finished(writers: Writers) -> dict[Any, ChoiceDelta]:
    """The last delta of each request, in the order in which they end."""
    last: dict[Any, ChoiceDelta] = {}
    while not writers.is_idle:
        for key, delta in writers.advance():
            if delta.is_last:
                last[key] = delta
    return last


def test_writers_are_made_when_they_are_needed(writers: Writers, made: list[str]) -> None:
    """The one that has been unused for longest makes room; the base is always there."""
    for name in "abacaba":
        writers.begin(name, name, wanted())
        assert finished(writers)[name].finish == "length"
    assert made == ["base", "a", "b", "c", "b"]
    writers.begin("base", 1, wanted())
    assert finished(writers)[1].finish == "length" and made.count("base") == 1


def test_requests_for_adapters_begin_in_order(writers: Writers, made: list[str]) -> None:
    """Requests for adapters in use do not overtake one that waits for room, and the base waits for none."""
    writers.begin("a", "a1", wanted(30))
    writers.begin("b", "b1", wanted(5))
    writers.advance()
    writers.begin("c", "c1", wanted(2))
    writers.begin("a", "a2", wanted(1))
    writers.begin("base", "base", wanted(1))
    assert writers.n_running == 2 and writers.n_waiting == 3
    assert list(finished(writers)) == ["base", "b1", "c1", "a1", "a2"]
    assert made == ["base", "a", "b", "c"]


def test_an_adapter_that_cannot_be_made_fails_alone(writers: Writers, caplog: pytest.LogCaptureFixture) -> None:
    """Its requests get a 500, others go on, and a dropped request is forgotten."""
    for name in "adb":
        writers.begin(name, name, wanted())
    writers.begin("c", "gone", wanted())
    writers.drop("c", "gone")
    last = finished(writers)
    assert (problem := last["d"].problem) and problem.status == 500 and "out of memory" in caplog.text
    assert last["a"].finish == last["b"].finish == "length" and "gone" not in last
