"""Records as the published sets have them, fields that a user names, and what is said where nothing fits."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from babyllm.chat.formats import FormatConfig, to_conversation
from babyllm.chat.messages import Conversation, Unusable
from babyllm.chat.reading import read_conversations
from babyllm.errors import UserError
from babyllm.text.readers import Rejected

PAIR = [("user", "q"), ("assistant", "a")]
TWO = [("user", "你好"), ("assistant", "你好，有什么可以帮你？"), ("user", "几点了"), ("assistant", "三点。")]
(Q1, A1, Q2, A2) = [text for _, text in TWO]


def conversation(record: dict[str, Any], **settings: Any) -> Conversation:
    return to_conversation(record, FormatConfig(**settings), task="file", id="a:0")


def said(record: dict[str, Any], **settings: Any) -> list[tuple[str, str]]:
    return [(m.role, m.content) for m in conversation(record, **settings).messages]


def why_not(record: dict[str, Any], **settings: Any) -> str:
    with pytest.raises(Unusable) as caught:
        conversation(record, **settings)
    return str(caught.value)


def put(path: Path, *records: Any) -> Path:
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    return path


def reason(path: Path, section: str = "data.format", **settings: Any) -> str:
    """Why the only record of a file is not used."""
    (found,) = read_conversations(path, FormatConfig(**settings), section)
    assert isinstance(found, Rejected)
    return found.reason


# ---- published sets


def moss_turn(question: str, answer: str, **more: str) -> dict[str, str]:
    marked = {
        "Human": f"<|Human|>: {question}<eoh>\n",
        "Inner Thoughts": f"<|Inner Thoughts|>: {more.get('thoughts', 'None')}<eot>\n",
        "Commands": f"<|Commands|>: {more.get('commands', 'None')}<eoc>\n",
        "Tool Responses": f"<|Results|>: {more.get('results', 'None')}<eor>\n",
    }
    return {**marked, "MOSS": f"<|MOSS|>: {answer}<eom>\n"}


MOSS = {"turn_1": moss_turn(Q1, A1), "turn_2": moss_turn(Q2, A2)}
CHATML = f"<|im_start|>user\n{Q1}<|im_end|>\n<|im_start|>assistant\n{A1}<|im_end|>\n<|im_start|>user\n{Q2}<|im_end|>\n"
LINES = f"Human: {Q1}\n\nAssistant: {A1}\n\nHuman: {Q2}\n\nAssistant: "
ALPACA = (
    "Below is an instruction that describes a task{}. Write a response that appropriately completes the request.\n\n"
)

PUBLISHED: dict[str, tuple[dict[str, Any], list[tuple[str, str]], str]] = {
    "firefly": ({"kind": "NLI", "input": "q", "target": "a"}, PAIR, "NLI"),
    "firefly multi-turn": (
        {"conversation_id": 1, "category": "c", "conversation": [{"human": Q1, "assistant": A1}] * 2},
        TWO[:2] * 2,
        "c",
    ),
    "moss": (
        {"conversation_id": 1, "meta_instruction": "m", "num_turns": 2, "chat": MOSS, "category": "Brainstorming"},
        [("system", "m"), *TWO],
        "Brainstorming",
    ),
    "moss-002": ({"plain_text": f"[Human]: {Q1}<eoh> [MOSS]: {A1}<eoa> [Human]: {Q2}<eoh> [MOSS]: {A2}<eoa>"}, TWO, ""),
    "ultrachat": ({"id": "0", "data": [Q1, A1, Q2, A2]}, TWO, ""),
    "lima": ({"conversations": [Q1, A1, Q2, A2], "source": "x"}, TWO, ""),
    "capybara": ({"conversation": [{"input": Q1, "output": A1}, {"input": Q2, "output": A2}]}, TWO, ""),
    "xtuner": (
        {"conversation": [{"system": "s", "input": Q1, "output": A1}, {"input": Q2, "output": A2, "system": ""}]},
        [("system", "s"), *TWO],
        "",
    ),
    "belle": ({"instruction": LINES, "input": "", "output": A2}, TWO, ""),
    "belle, narrow": ({"instruction": f"Human:{Q1}\nAssistant:{A1}\nHuman:{Q2}\nAssistant:", "output": A2}, TWO, ""),
    "belle, one turn": ({"instruction": f"Human: {Q1}\nAssistant:", "input": "", "output": A1}, TWO[:2], ""),
    "webtext": (
        {"qid": 1, "title": "t", "desc": "d", "topic": "x", "star": 3, "content": "a", "answerer_tags": ""},
        [("user", "t\nd"), ("assistant", "a")],
        "",
    ),
    "baike_qa": (
        {"qid": "q", "category": "教育", "title": "q", "desc": "", "answer": "a"},
        PAIR,
        "教育",
    ),
    "medical": (
        {"department": "心血管科", "title": "t", "ask": "q", "answer": "a"},
        [("user", "t\nq"), ("assistant", "a")],
        "心血管科",
    ),
    "medical, title repeated": (
        {"title": "头疼", "ask": "头疼三天", "answer": "a"},
        [("user", "头疼三天"), PAIR[1]],
        "",
    ),
    "zhihu-kol": ({"INSTRUCTION": "q", "RESPONSE": "a", "SOURCE": "Zhihu", "METADATA": "{}"}, PAIR, ""),
    "cnewsum": ({"article": ["一句。", "二句。"], "summary": "a"}, [("user", "一句。\n二句。"), PAIR[1]], ""),
    "lcsts": ({"text": "q", "summary": "a"}, PAIR, ""),
    "samsum": ({"dialogue": "Amy: hi\nBob: ho", "summary": "a"}, [("user", "Amy: hi\nBob: ho"), PAIR[1]], ""),
    "adgen": ({"content": "类型#裤", "summary": "a"}, [("user", "类型#裤"), PAIR[1]], ""),
    "refgpt": (
        {"dialogue": f"<user 1>: {Q1}\n<assistant 1>: {A1}\n<user 2>: {Q2}\n<assistant 2>: {A2}", "reference": "r"},
        [("system", "r"), *TWO],
        "",
    ),
    "redgpt": (
        {
            "reference": "r",
            "dialogue": f"<s>Human: {Q1}</s><s>Assistant: {A1}</s><s>Human: {Q2}</s><s>Assistant: {A2}</s>",
        },
        [("system", "r"), *TWO],
        "",
    ),
    "openorca": ({"id": "1", "system_prompt": "s", "question": "q", "response": "a"}, [("system", "s"), *PAIR], ""),
    "dolly": (
        {"instruction": "q", "context": "c", "response": "a", "category": "closed_qa"},
        [("user", "q\nc"), PAIR[1]],
        "closed_qa",
    ),
    "squad-like": ({"question": "q", "context": "c", "answer": "a"}, [("user", "q\nc"), PAIR[1]], ""),
    "prompt with an input": ({"prompt": "q", "input": "c", "output": "a"}, [("user", "q\nc"), PAIR[1]], ""),
    "alpaca with history": (
        {"instruction": Q2, "input": "", "output": A2, "history": [[Q1, A1]], "system": "s"},
        [("system", "s"), *TWO],
        "",
    ),
    "chatglm": ({"prompt": Q2, "response": A2, "history": [{"role": r, "content": c} for r, c in TWO[:2]]}, TWO, ""),
    "chatglm3": ({"conversations": [{"role": role, "content": text} for role, text in TWO]}, TWO, ""),
    "numina": ({"source": "x", "problem": "q", "solution": "a"}, PAIR, ""),
    "speakers": ({"dialog": [{"speaker": role, "text": text} for role, text in TWO]}, TWO, ""),
    "capitals": ({"Messages": [{"Role": role, "Content": text} for role, text in TWO]}, TWO, ""),
    "guanaco": ({"text": f"### Human: {Q1}### Assistant: {A1}".replace("###", "\n###")}, TWO[:2], ""),
    "chatml": ({"text": f"{CHATML}<|im_start|>assistant\n{A2}<|im_end|>\n"}, TWO, ""),
    "chatml, a system": (
        {"text": f"<|im_start|>system\ns<|im_end|>\n{CHATML}<|im_start|>assistant\n{A2}"},
        [("system", "s"), *TWO],
        "",
    ),
    "chatml prompt": ({"prompt": f"{CHATML}<|im_start|>assistant\n", "completion": A2}, TWO, ""),
    "llama-2": (
        {"text": f"<s>[INST] <<SYS>>\ns\n<</SYS>>\n\n{Q1} [/INST] {A1} </s><s>[INST] {Q2} [/INST] {A2} </s>"},
        [("system", "s"), *TWO],
        "",
    ),
    "llama-3": (
        {
            "text": "<|begin_of_text|>"
            + "".join(f"<|start_header_id|>{role}<|end_header_id|>\n\n{text}<|eot_id|>" for role, text in TWO)
        },
        TWO,
        "",
    ),
    "gemma": (
        {"text": "".join(f"<start_of_turn>{r.replace('assistant', 'model')}\n{c}<end_of_turn>\n" for r, c in TWO)},
        TWO,
        "",
    ),
    "zephyr": ({"text": "".join(f"<|{role}|>\n{text}</s>\n" for role, text in TWO)}, TWO, ""),
    "alpaca text": (
        {"text": ALPACA.format("") + "### Instruction:\nq\n\n### Response:\na"},
        PAIR,
        "",
    ),
    "alpaca text with input": (
        {
            "text": ALPACA.format(", paired with an input that provides further context")
            + "### Instruction:\nq\n\n### Input:\nc\n\n### Response:\na"
        },
        [("user", "q\nc"), PAIR[1]],
        "",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sets_are_read(name: str) -> None:
    """A record of each published set is the conversation that it stands for, with its task."""
    record, expected, task = PUBLISHED[name]
    found = conversation(record)
    assert [(m.role, m.content) for m in found.messages] == expected
    assert found.task == (task or "file")


def test_what_moss_looks_up() -> None:
    """Inner thoughts are reasoning, commands are the assistant's, and what they gave is a tool's."""
    looked = moss_turn(Q1, A1, thoughts="查一查", commands='Search("钟")', results="Search => 三点")
    messages = conversation({"chat": {"turn_2": moss_turn(Q2, A2, thoughts="想"), "turn_1": looked}}).messages
    assert [(m.role, m.content, m.reasoning) for m in messages] == [
        ("user", Q1, ""),
        ("assistant", 'Search("钟")', "查一查"),
        ("tool", "Search => 三点", ""),
        ("assistant", A1, ""),
        ("user", Q2, ""),
        ("assistant", A2, "想"),
    ]


def test_tables_of_published_sets(tmp_path: Path) -> None:
    """A CSV in GBK, a Parquet file with upper-case names and one with MOSS's turns are read like JSON."""
    out = io.StringIO()
    rows = [
        ["department", "title", "ask", "answer"],
        ["心血管科", "高血压能吃党参吗", "我有高血压，\n能吃吗？", "可以。"],
    ]
    csv.writer(out).writerows(rows)
    (tmp_path / "a.csv").write_bytes(out.getvalue().encode("gbk"))
    (found,) = read_conversations(tmp_path / "a.csv", FormatConfig())
    assert isinstance(found, Conversation) and found.task == "心血管科"
    assert [m.content for m in found.messages] == ["高血压能吃党参吗\n我有高血压，\n能吃吗？", "可以。"]
    tables = {
        "b": {"INSTRUCTION": "q", "RESPONSE": "a", "SOURCE": "Zhihu"},
        "c": {"chat": MOSS | {"turn_3": None}, "num_turns": 2},
        "d": {"text": f"{CHATML}<|im_start|>assistant\n{A2}"},
    }
    for name, row in tables.items():
        pq.write_table(pa.Table.from_pylist([row]), tmp_path / f"{name}.parquet")
        (found,) = read_conversations(tmp_path / f"{name}.parquet", FormatConfig())
        assert isinstance(found, Conversation), found
        assert [(m.role, m.content) for m in found.messages] == (PAIR if name == "b" else TWO)
    assert found.left_out == ()


# ---- what could be two things, or something else


@pytest.mark.parametrize(
    ("record", "told"),
    [
        ({"question": "q", "answer": "a", "response": "b"}, "both response and answer could be the answer"),
        ({"Question": "q", "prompt": "p", "answer": "a"}, "both prompt and Question could be the question"),
        ({"question": "q", "answers": ["a", "b"]}, "no conversation: it has the fields question, answers"),
        ({"title": "t", "desc": "d", "content": "an article"}, "no conversation: it has the fields title, desc"),
        ({"title": "t", "content": "an article"}, "no conversation: it has the fields title, content"),
        ({"instruction": "Human: a\nHuman: b\nAssistant:", "output": "c"}, "the speakers in the text of the field"),
        ({"instruction": "Human: a\nAssistant: b", "output": "c"}, "the text of the field instruction ends with"),
        ({"text": "[INST] q [/INST] a </s> more"}, "the text of the field text has words that nobody says"),
        ({"message_tree_id": "1", "prompt": {"text": "q", "replies": []}}, "a tree of messages"),
        ({"message_id": "1", "parent_id": None, "message_tree_id": "1", "text": "q", "role": "prompter"}, "a tree of"),
        ({"question": "q", "response_chosen": "a", "response_rejected": "b"}, "made for preferences"),
        ({"prompt": "q", "chosen_response": "a", "rejected_response": "b"}, "made for preferences"),
        ({"data": [1, 2], "x": "y"}, "no conversation: it has the fields data, x"),
    ],
)  # fmt: skip
def test_nothing_is_taken_for_what_it_may_not_be(record: dict[str, Any], told: str) -> None:
    """A record that could be read in two ways, or is made for something else, is refused and says why."""
    assert why_not(record).startswith(told)


def test_equal_or_blank_fields_contradict_nothing() -> None:
    """Of two possible answers one that is blank, or the same, does not count."""
    assert said({"question": "q", "answer": "a", "response": " "}) == PAIR
    assert said({"question": "q", "answer": "a", "response": "a"}) == PAIR
    assert said({"instruction": "q", "output": "", "response": "a"}) == PAIR


def test_words_like_marks_stay_text() -> None:
    """A text in which marks stand without turns, or elsewhere than at its beginning, is one question."""
    for text in ("Human: hello", "Humans: all\nAssistant: x", "Go on:\nHuman: a\nAssistant:", "Q: 1+1?\nA:"):
        assert said({"instruction": text, "output": "a"}) == [("user", text), ("assistant", "a")]


# ---- fields that are named


@pytest.mark.parametrize(
    ("record", "settings", "expected"),
    [
        ({"ask": "q", "say": "a"}, {"answer": "say"}, PAIR),
        ({"who": "q", "say": "a"}, {"prompt": "WHO", "answer": "Say"}, PAIR),
        ({"title": "t", "ask": "q", "say": "a"}, {"prompt": "title+ask", "answer": "say"}, [("user", "t\nq"), PAIR[1]]),
        ({"t": "", "ask": "q", "say": "a"}, {"prompt": "t+ask+no?", "answer": "say"}, PAIR),
        ({"a+b": "q", "say": "a"}, {"prompt": "a+b", "answer": "say"}, PAIR),
        ({"d": {"Ask": "q", "r": [{"t": "a"}]}}, {"prompt": "d.ask", "answer": "d.r.0.t"}, PAIR),
        ({"instruction": "q", "input": "c", "say": "a"}, {"answer": "say"}, [("user", "q\nc"), PAIR[1]]),
        ({"title": "t", "content": "a"}, {"prompt": "title", "answer": "content"}, [("user", "t"), PAIR[1]]),
        ({"prompt": "q", "chosen": "a", "rejected": "b"}, {"answer": "chosen"}, PAIR),
        ({"question": "q", "answer": "a", "response": "b"}, {"answer": "answer"}, PAIR),
        (
            {"q": Q2, "r": A2, "rules": "s", "past": [[Q1, A1]], "history": [["x", "y"]]},
            {"prompt": "q", "answer": "r", "system": "rules", "history": "past"},
            [("system", "s"), *TWO],
        ),
        (
            {"log": {"lines": [{"WHO": "human", "what": Q1}, {"who": "gpt", "What": A1}]}},
            {"messages": "log.lines", "role": "who", "content": "what"},
            TWO[:2],
        ),
        ({"reference": "r", "dialogue": f"Human: {Q1}\nAssistant: {A1}"}, {"messages": "dialogue"}, TWO[:2]),
        ({"log": f"Human: {Q1}\nAssistant: {A1}"}, {"messages": "log"}, TWO[:2]),
        ({"messages": [{"r": "user", "content": Q1}, {"r": "bot", "content": A1}]}, {"role": "r"}, TWO[:2]),
    ],
)  # fmt: skip
def test_fields_can_be_named(record: dict[str, Any], settings: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    """Named fields are taken in any case, joined, from objects within, for messages, history and system."""
    assert said(record, **settings) == expected


@pytest.mark.parametrize(
    ("record", "settings", "flags"),
    [
        ({"标题": "q", "回复": "a"}, {}, "--data.format.prompt=标题 --data.format.answer=回复"),
        ({"标题": "t", "ask": "q", "回复": "a"}, {}, "--data.format.prompt=ask --data.format.answer=回复"),
        ({"id": "7", "Ask me": "q", "said": "a"}, {}, "--data.format.prompt='Ask me' --data.format.answer=said"),
        ({"question": "q", "say": "a"}, {"prompt": "question"}, "--data.format.answer=say"),
        ({"question": "q", "say": "a"}, {"answer": "sya"}, "--data.format.answer=say"),
        ({"data": {"ask": "q", "re": "a"}}, {}, "--data.format.prompt=data.ask --data.format.answer=data.re"),
        ({"question": "q", "answer": "a", "response": "b"}, {}, "--data.format.answer=response"),
        ({"title": "t", "content": "cc", "tags": "k"}, {}, "--data.format.prompt=title --data.format.answer=content"),
        (
            {"question": "q", "human_answers": ["x"], "chatgpt_answers": ["a", "b"]},
            {},
            "--data.format.prompt=question --data.format.answer=chatgpt_answers.0",
        ),
        ({"question": "q", "answer": ["a", "b"]}, {}, "--data.format.answer=answer.0"),
        (
            {"log": [{"who": "human", "what": "Hello"}, {"who": "gpt", "what": "Hi"}]},
            {},
            "--data.format.messages=log --data.format.role=who --data.format.content=what",
        ),
        (
            {"messages": [{"who": "human", "what": "Hello"}, {"who": "gpt", "what": "Hi"}]},
            {},
            "--data.format.messages=messages --data.format.role=who --data.format.content=what",
        ),
        (
            {"messages": [{"role": "甲", "content": "q"}, {"role": "乙", "content": "a"}]},
            {},
            """--data.format.roles='{"甲": "user", "乙": "assistant"}'""",
        ),
    ],
)
def test_the_flags_that_would_help_are_told(
    tmp_path: Path, record: dict[str, Any], settings: dict[str, Any], flags: str
) -> None:
    """Where the fields say nothing the reason ends with the flags to write, with the file's own names."""
    path = put(tmp_path / "a.jsonl", record)
    assert reason(path, **settings).endswith(f"; name them, such as {flags}")
    assert flags.replace("--data.format", "--format") in reason(path, "format", **settings)


def test_a_table_without_a_named_column_is_told_once(tmp_path: Path) -> None:
    """A column that is named and not there refuses the table as a whole, with those that it has."""
    (tmp_path / "a.csv").write_text("ask,say\nq,a\nq,a\n", encoding="utf-8")
    told = reason(tmp_path / "a.csv", answer="reply")
    assert "it has the fields ask, say; there is no reply, which format.answer names" in told
    assert told.endswith("--data.format.answer=say")
    (first, _) = read_conversations(tmp_path / "a.csv", FormatConfig(prompt="ask", answer="say"))
    assert isinstance(first, Conversation) and first.messages[1].content == "a"


def test_settings_that_contradict_each_other() -> None:
    """A list and a pair, or a format and other fields than its own, cannot be named together."""
    with pytest.raises(UserError, match="leave out the others"):
        FormatConfig(messages="m", answer="a")
    with pytest.raises(UserError, match=r"format\.format=alpaca"):
        FormatConfig(format="alpaca", prompt="q")
