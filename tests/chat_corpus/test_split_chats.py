"""Chat files through `babyllm split` and, as documents, through `babyllm tokenize`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from babyllm.__main__ import run
from babyllm.chat.formats import FormatConfig
from babyllm.chat.load import load_template
from babyllm.chat.messages import ASSISTANT, USER, Conversation, Message
from babyllm.chat_corpus.split_chats import part_of, split_chats
from babyllm.errors import UserError
from babyllm.pipeline.partitions import WorkConfig
from babyllm.store.chat_folders import earlier_uses
from babyllm.store.shards import open_tokens
from babyllm.tokenizer import Tokenizer

ONE = WorkConfig(workers=1)
PARTS = {"sft": 0.75, "preference": 0.25}


def prompts_of(folder: Path) -> set[str]:
    """The prompts of all records below a folder."""
    found = set()
    for file in folder.rglob("*.jsonl"):
        for record in map(json.loads, file.read_text(encoding="utf-8").splitlines()):
            found.add(record["prompt"])
    return found


def test_parts_share_no_prompt_and_hold_every_record(tmp_path: Path) -> None:
    """Conversations, preferences and bare prompts with one question go to one part, close to the wanted shares."""
    chats = [{"prompt": f"问题 {n % 600}", "response": f"答 {n}"} for n in range(1200)]
    pairs = [{"prompt": f"问题 {n}", "chosen": "好", "rejected": "坏"} for n in range(600)]
    asked = [{"prompt": f"问题  {n} "} for n in range(600)]
    for name, records in (("chats", chats), ("pairs", pairs), ("asked", asked)):
        lines = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records)
        (tmp_path / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    files = [tmp_path / f"{name}.jsonl" for name in ("chats", "pairs", "asked")]
    split_chats(files, tmp_path / "out", PARTS, FormatConfig(), work=ONE)
    sides = [{" ".join(prompt.split()) for prompt in prompts_of(tmp_path / "out" / part)} for part in PARTS]
    assert not sides[0] & sides[1]
    assert len(sides[0] | sides[1]) == 600
    assert abs(len(sides[0]) / 600 - 0.75) < 0.06  # three standard errors
    kept = sum(len(file.read_text().splitlines()) for file in (tmp_path / "out").rglob("*.jsonl"))
    assert kept == 2400


def test_the_part_depends_on_the_question_alone() -> None:
    """Answers, spaces around words and further parts at the end do not move a conversation."""

    def chat(question: str, answer: str) -> Conversation:
        return Conversation((Message(USER, question), Message(ASSISTANT, answer)))

    for n in range(50):
        part = part_of(chat(f"问 题 {n}", "a"), PARTS)
        assert part_of(chat(f" 问  题 {n}\n", "b"), PARTS) == part
        smaller = part_of(chat(f"问 题 {n}", "a"), {"sft": 0.75, "preference": 0.2, "test": 0.05})
        assert (smaller == "sft") == (part == "sft")


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ("{a: 0.5}", "add up to 0.5"),
        ("{a: 0.5, b: 0.6}", "add up to 1.1"),
        ("{a/b: 0.5, c: 0.5}", "cannot be the name of a folder"),
        ("{a: 1.5, b: -0.5}", "must be at most 1"),
        ("{a: 0.9999999, b: 0.0000001}", "no record falls into b"),
    ],
)
def test_mistakes_in_the_parts_are_named(tmp_path: Path, parts: str, message: str) -> None:
    """Shares that cannot be met are refused in one line."""
    (tmp_path / "a.jsonl").write_text(json.dumps({"prompt": "q", "response": "a"}) + "\n", encoding="utf-8")
    with pytest.raises(UserError, match=message):
        run(["split", str(tmp_path / "a.jsonl"), str(tmp_path / "out"), f"--parts={parts}"])


def test_each_use_of_a_test_set_is_written_down(tmp_path: Path) -> None:
    """The part named test knows how often it was used before; other folders do not count."""
    lines = "".join(json.dumps({"prompt": f"q{n}", "response": "a"}) + "\n" for n in range(100))
    (tmp_path / "a.jsonl").write_text(lines, encoding="utf-8")
    split_chats([tmp_path / "a.jsonl"], tmp_path / "out", {"train": 0.5, "test": 0.5}, FormatConfig(), work=ONE)
    test = tmp_path / "out" / "test"
    assert [earlier_uses(test, "m"), earlier_uses(test / "a.jsonl", "m"), earlier_uses(test, "n")] == [0, 1, 2]
    assert earlier_uses(tmp_path / "out" / "train", "m") is None


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """A tokenizer of single characters."""
    return Tokenizer.train(["abcdefgh\n" * 20, "问答 QA 12"], 300, character_coverage=1.0)


def test_conversations_become_documents_of_the_template(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """Each document is the template's ids and one <eos>; its domain is the task, and unusable records are listed."""
    tokenizer.save(tmp_path / "tokenizer")
    records = [{"instruction": f"问 {n}", "output": f"答 {n}", "kind": "QA"[n % 2]} for n in range(6)]
    lines = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in [*records, {"bad": 1}])
    (tmp_path / "a.jsonl").write_text(lines, encoding="utf-8")
    command = ["tokenize", str(tmp_path / "a.jsonl"), str(tmp_path / "out"), "--kind=conversations", "--held_out=0"]
    run([*command, f"--tokenizer={tmp_path / 'tokenizer'}"])
    tokens, template = open_tokens(tmp_path / "out"), load_template("chatml", tokenizer)
    for domain in "QA":
        expected: list[int] = []
        for record in records:
            if record["kind"] == domain:
                messages = (Message(USER, record["instruction"]), Message(ASSISTANT, record["output"]))
                expected += [*template.render(messages).ids.tolist(), tokenizer.eos_id]
        stream = tokens.stream("train", domain)
        assert np.array_equal(stream.read(0, len(stream)), expected)
    assert len((tmp_path / "out" / "rejected.jsonl").read_text(encoding="utf-8").splitlines()) == 1


def test_conversations_become_documents_of_plain_text(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """As text, a document is the contents of the messages, one below the other, in one domain."""
    tokenizer.save(tmp_path / "tokenizer")
    record = {"instruction": "问", "output": "答"}
    (tmp_path / "a.jsonl").write_text(json.dumps(record, ensure_ascii=False) + "\n", encoding="utf-8")
    command = ["tokenize", str(tmp_path / "a.jsonl"), str(tmp_path / "out"), "--kind=conversations", "--held_out=0"]
    run([*command, f"--tokenizer={tmp_path / 'tokenizer'}", "--rendering=text", "--domain=chats"])
    stream = open_tokens(tmp_path / "out").stream("train", "chats")
    assert stream.read(0, len(stream)).tolist() == [*tokenizer.encode("问\n答"), tokenizer.eos_id]
