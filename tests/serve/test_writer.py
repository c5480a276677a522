"""Answers of many requests by one engine: a failure ends no more than it must."""

import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from model_fixtures import Tiny
from serve_fixtures import (
    talkative,
)

from babyllm.generation import Engine, Sampling
from babyllm.serve.api.generation.choice import ChoiceDelta
from babyllm.serve.api.generation.generation_request import ChoiceRequest, GenerationRequest
from babyllm.serve.writer import Writer
from babyllm.tokenizer import Tokenizer


def wanted(prompt: list[int], n: int = 4, **more: Any) -> GenerationRequest:
    sampling = Sampling(max_new_tokens=n, temperature=0, **more)
    return GenerationRequest([ChoiceRequest(prompt, sampling, frozenset())], len(prompt), False, False, None)


def written(writer: Writer) -> dict[Any, list[ChoiceDelta]]:
    """All deltas that a writer returns until it is idle, by request."""
    pieces: dict[Any, list[ChoiceDelta]] = {}
    while not writer.is_idle:
        for key, piece in writer.advance():
            pieces.setdefault(key, []).append(piece)
    return pieces


class Failing(Engine):
    """An engine that fails in the step after it has been asked to."""

    fails = False

    def step(self) -> Any:
        if self.fails:
            raise RuntimeError("out of memory")
        return super().step()


def test_an_engine_that_fails_takes_only_what_it_was_writing_with_it(
    tiny: Tiny, tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    """Answers in slots get a 500, those that waited are written by a new engine."""
    model = talkative(tiny())
    engines: list[Failing] = []

    def make() -> Engine:
        engines.append(Failing(model, slots=2))
        return engines[-1]

    writer = Writer(make, tokenizer, 2)
    for key in "abcd":
        writer.begin(key, wanted([ord(key)]))
    begun = [key for key, piece in writer.advance() if piece.n_tokens]
    assert sorted(begun) == ["a", "b"]
    engines[0].fails = True
    pieces = written(writer)
    for key in "ab":
        assert (problem := pieces[key][-1].problem) and problem.status == 500
    for key in "cd":
        assert pieces[key][-1].finish == "length" and sum(piece.n_tokens for piece in pieces[key]) == 4
    assert len(engines) == 2 and "out of memory" in caplog.text


def test_scores_that_are_no_numbers_end_one_request(tiny: Tiny, tokenizer: Tokenizer) -> None:
    """A prompt that the model cannot read gets a 500, those written beside it their answers, and no engine is lost."""
    model = talkative(tiny(tie_embeddings=False))
    with torch.no_grad():
        model.embed_tokens.weight[399] = float("nan")
    engines: list[Engine] = []

    def make() -> Engine:
        engines.append(Engine(model, slots=2))
        return engines[-1]

    writer = Writer(make, tokenizer, 2)
    writer.begin("bad", wanted([5, 399]))
    writer.begin("good", wanted([5, 6]))
    writer.begin(
        "unscored",
        GenerationRequest([ChoiceRequest([5, 399], Sampling(logprobs=1), frozenset(), echo="x")], 1, False, False, 1),
    )
    pieces = written(writer)
    for key in ("bad", "unscored"):
        assert (problem := pieces[key][-1].problem) and problem.status == 500
    assert pieces["good"][-1].finish == "length" and sum(piece.n_tokens for piece in pieces["good"]) == 4
    assert len(engines) == 1


def test_an_engine_that_failed_is_gone_before_the_next_is_made(tiny: Tiny, tokenizer: Tokenizer) -> None:
    """Its weights and rows are not held twice, and what is asked of the writer meanwhile is answered."""
    model = talkative(tiny())
    decoders: list[weakref.ref[Any]] = []
    were_alive: list[bool] = []

    def make() -> Engine:
        were_alive.extend(decoder() is not None for decoder in decoders)
        if decoders:
            assert writer.n_running == 0 and writer.n_waiting == 1
        engine = Failing(model, slots=1)
        decoders.append(weakref.ref(engine._decoder))
        return engine

    writer = Writer(make, tokenizer, 1)
    writer.begin("a", wanted([5]))
    writer.advance()
    writer.begin(
        "scored",
        GenerationRequest([ChoiceRequest([5, 6], Sampling(logprobs=1), frozenset(), echo="x")], 2, False, False, 1),
    )
    writer._engine.fails = True  # type: ignore[attr-defined]
    pieces = written(writer)
    assert were_alive == [False]
    assert pieces["a"][-1].problem and pieces["scored"][-1].finish


def test_one_bad_request_hurts_no_other(tiny: Tiny, tokenizer: Tokenizer, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever cannot be written for one request ends that one, wherever it fails: its scores, its prompt, its text."""
    model = talkative(tiny())

    class Scoreless(Engine):
        def scores(self, prompt: Any, k: int) -> Iterator[Any]:
            raise RuntimeError("no scores")
            yield

    writer = Writer(lambda: Scoreless(model, slots=2), tokenizer, 2)
    writer.begin(
        "bad scores",
        GenerationRequest([ChoiceRequest([5], Sampling(logprobs=1), frozenset(), echo="x")], 1, False, False, 1),
    )
    writer.begin("bad prompt", wanted([5000]))
    writer.begin("bad stop", wanted([5], stop=(5,)))
    writer.begin("good", wanted([5]))
    pieces = written(writer)
    assert pieces["good"][-1].finish == "length"
    for key in ("bad scores", "bad prompt", "bad stop"):
        assert (problem := pieces[key][-1].problem) and problem.status == 500, key
    assert "no scores" in caplog.text
