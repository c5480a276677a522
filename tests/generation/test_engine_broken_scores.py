"""Scores that are NaN end the answer they belong to and reach no other."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from engine_fixtures import GREEDY, Answers, model_of, plain

from babyllm.errors import UserError
from babyllm.generation import Engine, generate_ids
from babyllm.model.config import ModelConfig

Tiny = Callable[..., ModelConfig]
BAD = 399


@pytest.mark.parametrize("when", ["beside", "together", "after"])
def test_scores_that_are_no_numbers_end_one_answer_and_spread_to_nobody(tiny: Tiny, when: str) -> None:
    """A request whose scores are NaN ends so; those read with it, beside and after it get their whole answers."""
    model = model_of(tiny())
    expected = plain(model, [5, 6], 12)
    with torch.no_grad():
        model.embed_tokens.weight[BAD] = float("nan")
    answers = Answers(Engine(model, slots=2))
    good = [answers.submit([5, 6])] if when != "after" else []
    if when == "beside":
        answers.step()
    bad = answers.submit([7, BAD])
    good.append(answers.submit([5, 6]))
    answers.finished()
    assert answers.finish[bad] == "error" and not answers.tokens[bad]
    assert all(answers.ids(number) == expected for number in good)


def test_a_prompt_being_read_leaves_no_broken_numbers_behind(tiny: Tiny) -> None:
    """A long prompt whose scores are NaN ends at once; its row, and the rows that it moves through, are clean."""
    model = model_of(tiny())
    expected = plain(model, [5, 6], 12)
    with torch.no_grad():
        model.embed_tokens.weight[BAD] = float("nan")
    answers = Answers(Engine(model, slots=3, prefill_chunk=4))
    first = answers.submit([5, 6], replace(GREEDY, max_new_tokens=3))
    answers.step()
    bad = answers.submit([7] * 6 + [BAD] * 30)
    for _ in range(4):
        answers.step()
    assert answers.finish[bad] == "error"
    later = [answers.submit([5, 6]) for _ in range(3)]
    answers.finished()
    assert [answers.ids(number) for number in later] == [expected] * 3 and answers.ids(first) == expected[:3]


@pytest.mark.parametrize("is_all_cancelled", [True, False])
def test_a_part_being_read_leaves_no_broken_numbers_behind(tiny: Tiny, is_all_cancelled: bool) -> None:
    """A part whose scores would be NaN is given up at any step, or begun again in another row: all rows are clean."""
    model = model_of(tiny(max_seq_len=256))
    expected = plain(model, [5, 6], 12)
    with torch.no_grad():
        model.embed_tokens.weight[BAD] = float("nan")
    for n_steps in range(8):
        answers = Answers(Engine(model, slots=2, prefill_chunk=64))
        good, bad = answers.submit([7] * 200), answers.submit([BAD] * 100)
        for _ in range(n_steps):
            answers.step()
        for number in (bad, good) if is_all_cancelled else (good,):
            answers.engine.cancel(number)
        answers.finished()
        for order in (0, 1):  # columns of a row are looked at as far as the longest row beside it goes
            numbers = []
            for prompt in ([5, 6], [5] * 50)[:: 1 - 2 * order]:
                numbers.append(answers.submit(prompt))
                answers.step()
            assert answers.finished().ids(numbers[order]) == expected


def test_broken_scores_are_told_in_words(tiny: Tiny) -> None:
    """Reading for a single caller raises an error in words."""
    model = model_of(tiny())
    with torch.no_grad():
        model.norm.weight.fill_(float("nan"))
    with pytest.raises(UserError, match="not numbers"):
        list(generate_ids(model, [5, 6], GREEDY))
    with pytest.raises(UserError, match="not numbers"):
        list(Engine(model, slots=1).scores([5, 6, 7], 1))
