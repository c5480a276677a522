"""Tokens guessed from earlier ones: answers stay those without guesses, and take fewer steps of the model."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from engine_fixtures import GREEDY, Answers, model_of, plain, random_prompt
from model_fixtures import chain

from babyllm.generation import Engine, Sampling
from babyllm.generation.decoder import Decoder
from babyllm.generation.scheduling.look_up import LookUp
from babyllm.model.config import ModelConfig
from babyllm.model.transformer import Transformer

Tiny = Callable[..., ModelConfig]


def answer(model: Transformer, prompt: list[int], sampling: Sampling, look_up: bool) -> tuple[list[object], str]:
    answers = Answers(Engine(model, slots=2, look_up=look_up))
    number = answers.submit(prompt, sampling)
    answers.finished()
    return [(token.id, *(name for name, _ in token.top)) for token in answers.tokens[number]], answers.finish[number]


SETTINGS = [
    {"temperature": 0},
    {"temperature": 0, "repetition_penalty": 1.3},
    {"temperature": 0.4, "top_p": 0.9},
    {"temperature": 1.0, "min_p": 0.05, "logprobs": 2},
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_guesses_change_no_token(tiny: Tiny, monkeypatch: pytest.MonkeyPatch, settings: dict[str, float]) -> None:
    """With the same seed the same tokens are drawn as without guesses, so their distribution is the same as well."""
    model, n_right, n_wrong = model_of(tiny(vocab_size=8, max_seq_len=96)), [], []
    judge = LookUp.judge
    monkeypatch.setattr(LookUp, "judge", lambda self, n: ((n_right if n else n_wrong).append(n), judge(self, n))[1])
    for seed in range(9):
        prompt = [i % 8 for i in random_prompt(3 + 2 * seed, seed)] * 2
        sampling = Sampling(**{"max_new_tokens": 30, "seed": seed, **settings})  # type: ignore[arg-type]
        assert answer(model, prompt, sampling, True) == answer(model, prompt, sampling, False)
    assert n_right and n_wrong, "some guesses are right and some are not"


def test_what_is_repeated_takes_few_steps(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """A text that repeats itself is read several tokens at a time; its tokens still come one a step."""
    model = chain(tiny(max_seq_len=128), range(20, 30))
    n_reads, hidden = [], Decoder._hidden
    monkeypatch.setattr(Decoder, "_hidden", lambda *args: (n_reads.append(1), hidden(*args))[1])
    answers = Answers(Engine(model, slots=1))
    number = answers.submit([20], replace(GREEDY, max_new_tokens=90))
    assert answers.finished().ids(number) == [20 + (i + 1) % 10 for i in range(90)]
    assert len(n_reads) < 14 + 80 / 8 + 4


def test_who_comes_meanwhile_and_who_leaves(tiny: Tiny) -> None:
    """Requests that join while tokens are drawn ahead, or leave then, get and leave the others their whole answers."""
    model = chain(tiny(max_seq_len=128), range(20, 30))
    for n_steps in range(14, 24):
        answers = Answers(Engine(model, slots=2))
        first = answers.submit([20], replace(GREEDY, max_new_tokens=60))
        for _ in range(n_steps):
            answers.step()
        second = answers.submit([25], replace(GREEDY, max_new_tokens=40))
        answers.step()
        if n_steps % 2:
            answers.engine.cancel(first)
        answers.finished()
        assert answers.ids(second) == [20 + (i + 6) % 10 for i in range(40)]
        assert n_steps % 2 or answers.ids(first) == [20 + (i + 1) % 10 for i in range(60)]


def test_an_end_token_and_the_context_end_a_guessed_answer(tiny: Tiny) -> None:
    """Nothing comes after an end token within a guess, and a guess never leaves the context."""
    model = chain(tiny(max_seq_len=64), range(20, 30))
    answers = Answers(Engine(model, slots=1))
    prompt = [*range(20, 30)] * 2
    ended, full = answers.submit(prompt, ends={24}), answers.submit(prompt, replace(GREEDY, max_new_tokens=100))
    answers.finished()
    assert answers.ids(ended) == [20, 21, 22, 23] and answers.finish[ended] == "stop"
    assert len(answers.ids(full)) == 64 - 20 and answers.finish[full] == "length"
    assert answers.ids(full) == plain(model, prompt, 100)


def test_wrong_guesses_become_rare() -> None:
    """After each wrong guess the next one waits twice as long; a right one ends that."""
    look_up, ids, n_guesses = LookUp(), [1, 2, 3] * 100, 0
    for end in range(10, 300):
        if look_up.guess(ids[:end], 7):
            n_guesses += 1
            look_up.judge(0)
    assert n_guesses < 12
    while not (guess := look_up.guess(ids, 5)):
        pass
    assert guess == [1, 2, 3, 1, 2][: len(guess)]
    look_up.judge(5)
    assert look_up.guess([*ids, 1], 1) == [2]
    assert look_up.guess([1, 2], 7) == look_up.guess([], 7) == []


def test_scores_that_are_no_numbers_after_a_guess(tiny: Tiny) -> None:
    """NaNs in what was guessed wrongly reach nobody."""
    model = model_of(tiny(max_seq_len=96))
    answers = Answers(Engine(model, slots=1))
    expected = plain(model, [5, 6], 12)
    engine = answers.engine
    number = answers.submit([5, 6])
    answers.step()
    request = engine._running[0]
    with torch.no_grad():
        model.embed_tokens.weight[399] = float("nan")
    request.guess = lambda: [399, 7, 8]  # type: ignore[method-assign]
    answers.step()
    del request.guess
    assert answers.finished().ids(number) == expected
