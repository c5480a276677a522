"""Prompts and answers of limited length, and a number of conversations that is held out."""

import json
from pathlib import Path
from typing import Any

import pytest

from babyllm.chat.formats import FormatConfig
from babyllm.chat.limits import MessageLimits, limited
from babyllm.chat.load import ChatTemplate, Supervise, load_template
from babyllm.chat.messages import Conversation, Message, Unusable
from babyllm.pipeline.partitions import WorkConfig
from babyllm.prepare.conversations import prepare_conversations
from babyllm.store.conversations import ConversationStore
from babyllm.tokenizer import Tokenizer

LONG = "今天天气很好，我们去公园看书。" * 4


@pytest.fixture(scope="module")
def template(tokenizer: Tokenizer) -> ChatTemplate:
    return load_template("chatml", tokenizer)


def within(tokenizer: Tokenizer, message: Message, **limits: Any) -> Message:
    return limited(Conversation((message,)), MessageLimits(**limits), tokenizer).conversation.messages[0]


def prepare(path: Path, out: Path, template: ChatTemplate, **options: Any) -> tuple[dict[str, Any], ConversationStore]:
    settings: dict[str, Any] = {"seq_len": 400, "supervise": Supervise(), "held_out": 0, "work": WorkConfig(workers=1)}
    report = prepare_conversations([path], out, template, FormatConfig(), **settings | options)
    assert report
    return dict(report.facts), ConversationStore.open(out)


@pytest.mark.parametrize("n", [1, 2, 5, 17])
def test_a_long_message_is_cut_to_its_tokens(tokenizer: Tokenizer, n: int) -> None:
    """A prompt keeps its end and an answer its beginning, or as asked the other side, in at most so many tokens."""
    text = f"é😀{LONG}😀é"
    for role, kind, side in (("user", "prompt", "left"), ("assistant", "answer", "right")):
        cut = within(tokenizer, Message("user", text), max_prompt=n, max_answer=n).content if role == "user" else ""
        cut = cut or (within(tokenizer, Message(role, text + LONG[:0]), **{f"max_{kind}": max(n, 8)}).content)
        kept = within(tokenizer, Message(role, text), **{f"max_{kind}": max(n, 8), f"cut_{kind}": "right"}).content
        assert text.startswith(kept) and 0 < len(tokenizer.encode(kept)) <= max(n, 8)
        assert (text.endswith(cut) if side == "left" else text.startswith(cut)) and len(cut) < len(text)
    assert within(tokenizer, Message("user", "短"), max_prompt=10) == Message("user", "短")


def test_what_is_left_of_an_input(tokenizer: Tokenizer) -> None:
    """The input of an instruction stays the end of its content wherever that is cut."""
    asked = Message("user", "看书").with_input(LONG)
    right = within(tokenizer, asked, max_prompt=20, cut_prompt="right")
    assert right.instruction == "看书" and right.input and LONG.startswith(right.input)
    left = within(tokenizer, asked, max_prompt=20)
    assert left.input == "" and LONG.endswith(left.content)


def test_an_answer_that_was_cut_is_not_taught_to_end(template: ChatTemplate) -> None:
    """Its end token is there and not trained on; that of a whole answer is."""
    tokenizer = template.tokenizer
    cut = within(tokenizer, Message("assistant", LONG), max_answer=5)
    ids, turns = template.render([Message("user", "q"), cut, Message("user", "q"), Message("assistant", "a")])
    end = tokenizer.special["<|im_end|>"]
    assert [int(turn) for i, turn in zip(ids, turns, strict=True) if i == end] == [0, 0, 0, 2]
    assert (turns == 1).sum() == len(tokenizer.encode(cut.content))


def test_reasoning_counts_to_an_answer(tokenizer: Tokenizer) -> None:
    """What an answer is thought out with is not cut; an answer that it leaves no room for is left out."""
    thought = Message("assistant", LONG, reasoning="想")
    before = len(tokenizer.encode("<think>\n想\n</think>\n\n"))
    cut = within(tokenizer, thought, max_answer=before + 12)
    assert cut.reasoning == "想" and 0 < len(tokenizer.encode(cut.content)) <= 12
    with pytest.raises(Unusable, match="leaves no room"):
        within(tokenizer, thought, max_answer=before)


def test_limits_are_counted_and_part_of_the_store(tmp_path: Path, template: ChatTemplate) -> None:
    """The report counts what was cut and what was left out; other limits make another store."""
    records = [{"prompt": LONG, "completion": "a"}, {"prompt": "q", "completion": LONG}, {"prompt": "q", "output": "b"}]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    facts, store = prepare(path, tmp_path / "s", template, limits=MessageLimits(12, 10))
    assert facts["prompt cut to max_prompt 12"] == facts["answer cut to max_answer 10"] == 1
    longest = store.manifest.groups[0].longest
    facts, store = prepare(path, tmp_path / "s", template, limits=MessageLimits(12, 10, "skip", "skip"))
    assert facts["skipped: a prompt longer than max_prompt 12"] == 1
    assert facts["skipped: an answer longer than max_answer 10"] == 1
    assert len(store.span("train")) == 1 and store.manifest.groups[0].longest < longest


@pytest.mark.parametrize("workers", [1, 2])
def test_a_number_of_conversations_is_held_out(tmp_path: Path, template: ChatTemplate, workers: int) -> None:
    """Exactly so many, the same for any pieces, with equal conversations on one side; 0.5 and a larger number agree."""
    records = [{"prompt": f"{i}", "completion": "a"} for i in range(60)]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    work = WorkConfig(workers, 700)
    _, store = prepare(path, tmp_path / "s", template, held_out=7, work=work)
    assert (len(store.span("val")), len(store.span("train"))) == (7, 53)
    _, other = prepare(path, tmp_path / "o", template, held_out=7)
    assert other.fingerprint == store.fingerprint
    path.write_text("".join(json.dumps(record) + "\n" for record in [*records[:20], *records[:20]]), encoding="utf-8")
    _, twice = prepare(path, tmp_path / "t", template, held_out=7, work=work)
    val = [twice.conversation(n)[0].tolist() for n in twice.span("val")]
    train = [twice.conversation(n)[0].tolist() for n in twice.span("train")]
    assert len(val) == 8 and all(val.count(ids) == 2 and ids not in train for ids in val)
