"""Short sums and differences of numbers below 100, as conversations and as prompts with their answers.

    a, b, a + b <= 99 -> a family: a + b, b + a, (a + b) - a, (a + b) - b -> one wording each, by a hash
                      -> by a hash of the family: train, prompts or held out

No family is on two sides, so a held-out problem is not the reverse of one that was learned. Numbers are written in
digits or in Chinese, and the answer in the same way.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, Literal

from babyllm.recipes.recipe_files import draw, make_files

Side = Literal["train", "prompts", "heldout"]
DIRECTORY = "data/arithmetic"
LARGEST = 99
HELD_OUT_PERCENT, PROMPT_PERCENT = 10, 40
DIGITS = "零一二三四五六七八九"
# Each with the first number, the second, and the sign or word between them.
IN_DIGITS = ("{0}{1}{2}=", "{0} {1} {2} = ?", "计算：{0}{1}{2}", "{0}{1}{2}等于几？", "{0}{1}{2}是多少？")
IN_WORDS = ("{0}{1}{2}等于几？", "{0}{1}{2}等于多少？", "算一算：{0}{1}{2}是多少？", "请问{0}{1}{2}得几？")
SIGNS = {"add": ("+", "加"), "subtract": ("-", "减")}
KINDS = 3  # digits and a sign, digits and a word, Chinese numerals


def problems(side: Side) -> Iterator[dict[str, str]]:
    """Yield {"task", "prompt", "reference"} of one side, shuffled, always in the same order.

    Args:
        side: train, about a half; prompts, 40 per cent of the families; heldout, a tenth.
    """
    found = [
        problem
        for small in range(LARGEST + 1)
        for large in range(small, LARGEST + 1 - small)
        if _side(small, large) == side
        for problem in _family(small, large)
    ]
    yield from sorted(found, key=lambda problem: draw(problem["prompt"], "order"))


def conversations(side: Side) -> Iterator[dict[str, Any]]:
    """Yield the problems of one side as {"task", "messages"}, each with the answer.

    Args:
        side: as for `problems`.
    """
    for problem in problems(side):
        turns = (("user", problem["prompt"]), ("assistant", problem["reference"]))
        messages = [{"role": role, "content": content} for role, content in turns]
        yield {"task": problem["task"], "messages": messages}


def numeral(number: int) -> str:
    """A number from 0 to 99 in Chinese."""
    tens, ones = divmod(number, 10)
    if not tens:
        return DIGITS[ones]
    return f"{DIGITS[tens] if tens > 1 else ''}十{DIGITS[ones] if ones else ''}"


def _family(small: int, large: int) -> Iterator[dict[str, str]]:
    """The problems of two numbers and their sum, none twice."""
    total = small + large
    seen = set()
    for task, first, second, result in (
        ("add", small, large, total),
        ("add", large, small, total),
        ("subtract", total, small, large),
        ("subtract", total, large, small),
    ):
        if (task, first, second) not in seen:
            seen.add((task, first, second))
            yield _problem(task, first, second, result)


def _problem(task: str, first: int, second: int, result: int) -> dict[str, str]:
    key = f"{task} {first} {second}"
    sign, word = SIGNS[task]
    kind = draw(key, "kind", KINDS)
    wordings = IN_WORDS if kind else IN_DIGITS
    write = numeral if kind == KINDS - 1 else str
    asked = wordings[draw(key, "wording", len(wordings))].format(write(first), word if kind else sign, write(second))
    return {"task": task, "prompt": asked, "reference": write(result)}


def _side(small: int, large: int) -> Side:
    percent = draw(f"{small} {large}", "side", 100)
    if percent < HELD_OUT_PERCENT:
        return "heldout"
    return "prompts" if percent < HELD_OUT_PERCENT + PROMPT_PERCENT else "train"


def prepare_arithmetic(data_path: str | list[str] = DIRECTORY) -> None:
    """Make `data/arithmetic` unless it is there already, if that folder or a file of it is to be read.

    Raises:
        UserError: the folder cannot be written.
    """
    files = {
        "heldout_prompts.jsonl": partial(problems, "heldout"),
        "prompts.jsonl": partial(problems, "prompts"),
        "heldout.jsonl": partial(conversations, "heldout"),
        "train.jsonl": partial(conversations, "train"),
    }
    make_files(DIRECTORY, data_path, files, "arithmetic problems")
