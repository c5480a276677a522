"""Greedy answers, the conversations that are drawn, and what the numbers of both splits mean."""

import pytest
from evaluation_fixtures import talk
from model_fixtures import Tiny, chain

from babyllm.chat.load import ChatTemplate
from babyllm.evaluate.conversations.by_task import TaskResult
from babyllm.evaluate.conversations.carry_over import diagnosis, side_by_side
from babyllm.evaluate.conversations.greedy import GreedyAnswer, greedy_answers
from babyllm.evaluate.conversations.samples import draw_evenly, samples_of
from babyllm.runtime import Runtime
from babyllm.store.conversations import ALL


def test_drawing_is_even_and_repeatable() -> None:
    """As many of each task as can be had, the rest from larger ones; a seed decides which."""
    sizes = {"a": 100, "b": 3, "c": 50}
    chosen = draw_evenly(sizes, 40, 1)
    assert {task: len(indices) for task, indices in chosen.items()} in (
        {"a": 19, "b": 3, "c": 18},
        {"a": 18, "b": 3, "c": 19},
    )
    assert all(len(set(indices)) == len(indices) for indices in chosen.values())
    assert all(max(indices) < sizes[task] for task, indices in chosen.items())
    assert chosen == draw_evenly(dict(reversed(sizes.items())), 40, 1) != draw_evenly(sizes, 40, 2)
    assert draw_evenly(sizes, 1000, 1) == {task: list(range(size)) for task, size in sizes.items()}


def test_greedy_answers(template: ChatTemplate, tiny: Tiny, runtime: Runtime) -> None:
    """The last answer is asked for after all before it; exact is the same text with an end, within the limit."""
    tokenizer = template.tokenizer
    end = tokenizer.special["<|im_end|>"]
    model = chain(tiny(max_seq_len=100, tie_embeddings=False), [*tokenizer.encode("今天好"), end])
    talks = [talk("书", "看", "书书", "今天好"), talk("书", "今天"), talk("书", "今天好 ")]
    samples = samples_of(template, talks, 100)

    def answers(limit: int) -> list[GreedyAnswer]:
        return greedy_answers(model, tokenizer, samples, template.end_ids, runtime, max_new_tokens=limit)

    found = answers(20)
    assert [a.answered for a in found] == ["今天好"] * 3
    assert [a.expected for a in found] == ["今天好", "今天", "今天好 "]
    assert [a.is_exact for a in found] == [True, False, True]
    assert all(a.has_ended for a in found)
    assert found[0].prompt.count("书") == 3 and "看" in found[0].prompt
    found = answers(1)
    assert [a.answered for a in found] == ["今天好", "今天好", "今天好"], (
        "a limit below what is expected is raised to it"
    )
    assert [a.has_ended for a in found] == [True, False, True]
    assert not found[1].is_exact


def side(loss: float, exact: float, accuracy: float | None = None) -> dict[str, TaskResult]:
    """Numbers of one split with one task of two candidates, or an open one."""
    one = TaskResult(20, loss, exact, accuracy, None if accuracy is None else 0.5)
    return {"kind": one, ALL: one}


@pytest.mark.parametrize(
    ("train", "held_out", "expected"),
    [
        (side(3.0, 0.0), side(3.1, 0.0), "has not learned the training set"),
        (side(3.0, 0.0), side(5.0, 0.0), "has learned little, and that only of the training set"),
        (side(0.8, 0.5, 0.6), side(0.8, 0.5, 0.5), "has not learned the training set"),
        (side(0.1, 1.0), side(4.0, 0.1), "fits the training set but not the held-out one"),
        (side(0.3, 1.0, 1.0), side(0.4, 0.6, 0.6), "fits the training set but not the held-out one"),
        (side(0.3, 0.1), side(2.0, 0.1), "fits the training set but not the held-out one"),
        (side(0.3, 0.95, 0.95), side(0.32, 0.9, 0.9), "has learned the training set, and it carries over"),
        (side(0.3, 0.1), side(0.35, 0.1), "has learned the training set, and it carries over"),
    ],
)
def test_what_the_numbers_say(train: dict[str, TaskResult], held_out: dict[str, TaskResult], expected: str) -> None:
    """One line says whether the training set was learned and whether that carries over, from scores and losses."""
    line = diagnosis(train, held_out)
    assert line.startswith(f"{expected} (score ") and "\n" not in line


def test_both_sides_stand_in_one_table() -> None:
    """A task that one side lacks has empty cells there; all tasks together come last."""
    table = side_by_side(side(0.5, 1.0, 0.9), {ALL: TaskResult(3, 0.7)})
    assert [row[0] for row in table.rows] == ["kind", ALL]
    assert table.rows[0] == ["kind", 20, 0.5, 1.0, 0.9, None, *[None] * 5, 0.5]
    assert all(len(row) == len(table.columns) for row in table.rows)
