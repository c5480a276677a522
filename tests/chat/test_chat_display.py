"""Conversations shown to people: what is trained on is marked, counts are right, nothing is obeyed by a terminal."""

import json
import re
from pathlib import Path

import pytest

from babyllm.chat.formats import FormatConfig
from babyllm.chat.load import load_template
from babyllm.chat.messages import Message
from babyllm.chat.supervise import Supervise
from babyllm.commands.corpus.inspect import Flags, run
from babyllm.errors import UserError
from babyllm.inspection.conversations import coloured
from babyllm.pipeline.partitions import WorkConfig
from babyllm.prepare.conversations import prepare_conversations
from babyllm.tokenizer import Tokenizer

MESSAGES = [
    Message("user", "hi [[x]]"),
    Message("assistant", "今天\n好 <s>"),
    Message("user", "?"),
    Message("assistant", ""),
]


@pytest.fixture
def files(tmp_path: Path, tokenizer: Tokenizer) -> Path:
    """20 conversations in one file of two tasks, two unusable records, and a tokenizer."""
    records: list[object] = [
        {"prompt": f"question {i}", "response": "x" * (i + 1), "task": f"task {i % 2}"} for i in range(20)
    ]
    records += [{"prompt": 1}, [1, 2]]
    (tmp_path / "qa.jsonl").write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    tokenizer.save(tmp_path / "tokenizer")
    return tmp_path


def test_what_is_trained_on_is_marked(tokenizer: Tokenizer) -> None:
    """Of stored ids the text is shown, special tokens by name, with each supervised turn green or in brackets."""
    ids, turns = load_template("chatml", tokenizer).render(MESSAGES)
    text = "<|im_start|>user\nhi [[x]]<|im_end|>\n<|im_start|>assistant\n({今天\n好 <s><|im_end|>})\n"
    text += "<|im_start|>user\n?<|im_end|>\n<|im_start|>assistant\n({<|im_end|>})\n"
    green = text.replace("({", "\x1b[32m").replace("})", "\x1b[0m")
    assert coloured(ids, turns, tokenizer) == green
    assert coloured(ids.tolist(), turns.tolist(), tokenizer, is_terminal=False) == text.replace("({", "[[").replace(
        "})", "]]"
    )


def test_a_terminal_obeys_nothing_that_is_said(tokenizer: Tokenizer) -> None:
    """Control characters of the messages are spelled out, so none can colour, move or erase."""
    ids, turns = load_template("plain", tokenizer).render([Message("user", "\x1b[32m\x9b2J\r\ta\x7f\nb")])
    assert coloured(ids, turns, tokenizer) == "\\x1b[32m\\x9b2J\\x0d\ta\\x7f\nb"


def test_ids_that_were_cut_can_be_shown(tokenizer: Tokenizer) -> None:
    """The half of a character is shown as a replacement character."""
    ids = tokenizer.encode("😎")
    assert len(ids) == 4 and coloured(ids[:3], [0] * 3, tokenizer) == "\ufffd"


def test_inspect_shows_conversations(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Asked for, conversations at random that the seed decides are shown as they are trained on, under the counts."""

    def shown(**flags: object) -> str:
        run(Flags(conversations=3, tokenizer=str(files / "tokenizer"), **flags), str(files / "qa.jsonl"))  # type: ignore[arg-type]
        return capsys.readouterr().out

    out = shown()
    rows = [line.split() for line in out.splitlines()]
    assert ["rejected", "records", "2"] in rows
    assert ["task", "1", "10"] in [row[:3] for row in rows] and ["all", "20"] in [row[:2] for row in rows]
    pattern = r"question (\d+)<\|im_end\|>\n<\|im_start\|>assistant\n\[\[(x*)<\|im_end\|>\]\]\n"
    found = re.findall(pattern, out)
    assert len(found) == 3 and all(int(number) + 1 == len(answer) for number, answer in found)
    assert out == shown() and len({tuple(re.findall(pattern, shown(seed=seed))) for seed in range(5)}) == 5
    numbers = {number for seed in range(60) for number, _ in re.findall(pattern, shown(seed=seed))}
    assert len(numbers) == 20
    alpaca = shown(template="alpaca", supervise=Supervise(prompts=True))
    assert len(re.findall(r"### Instruction:\n\[\[question \d+\]\]\n\n### Response:\[\[x*</s>\]\]\n", alpaca)) == 3


def test_inspect_counts_what_a_template_refuses(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Conversations that the template refuses are counted by the reason."""
    records = [{"messages": [{"role": "assistant", "content": "a"}, {"role": "user", "content": "b"}]}] * 2
    (files / "bad.jsonl").write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    flags = Flags(conversations=1, tokenizer=str(files / "tokenizer" / "tokenizer.model"), template="llama2")
    run(flags, str(files / "bad.jsonl"))
    out = capsys.readouterr().out
    assert re.search(r"rejected: the template refuses it: user and assistant must take turns.* 2\n", out)
    assert "trained on" not in out


def test_inspect_takes_the_stored_template(
    files: Path, tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a name the template that is stored with the tokenizer is used."""
    tokenizer.save(files / "tokenizer", chat_template=load_template("plain", tokenizer).source)
    run(Flags(conversations=1, tokenizer=str(files / "tokenizer")), str(files / "qa.jsonl"))
    assert re.search(r"\nquestion \d+<s>\[\[x*</s>\]\]\n", capsys.readouterr().out)


def test_inspect_needs_a_tokenizer_for_conversations(files: Path) -> None:
    """Conversations cannot be shown as they are trained on without a tokenizer."""
    with pytest.raises(UserError, match="--conversations needs a --tokenizer"):
        run(Flags(conversations=1), str(files / "qa.jsonl"))


def test_the_prepared_conversations_of_a_run(
    files: Path, tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    """The store of a run shows its report and, of each task and split, conversations as they are trained on."""
    prepare_conversations(
        [files / "qa.jsonl"],
        files / "store",
        load_template("chatml", tokenizer),
        FormatConfig(),
        seq_len=64,
        supervise=Supervise(),
        held_out=0.3,
        work=WorkConfig(workers=1),
    )
    run(Flags(examples=1), str(files / "store"))
    out = capsys.readouterr().out
    assert re.search(r"rejected: .* +1\n", out) and "what became of the conversations" in out
    for task in ("task 0", "task 1"):
        for split in ("train", "val"):
            assert re.search(rf"{split} \| {task} \| \d+ tokens, \d+ trained on\n<\|im_start\|>user\nquestion \d+", out)
    assert len(re.findall(r"\[\[x+<\|im_end\|>\]\]", out)) == 4
