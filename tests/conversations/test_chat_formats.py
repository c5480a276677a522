"""Records of every format as conversations, and files of them, whole, cut and broken."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from chat_formats_fixtures import AUTO, FORMATS, TALK, messages, said, sharegpt
from hypothesis import given
from hypothesis import strategies as st

from babyllm.chat.formats import FormatConfig, to_conversation
from babyllm.chat.messages import Message, Unusable


def task(record: dict[str, Any], field: str | None = None) -> str:
    return to_conversation(record, FormatConfig(task_field=field), task="file", id="a:0").task


def why_not(record: dict[str, Any], config: FormatConfig = AUTO) -> str:
    with pytest.raises(Unusable) as caught:
        to_conversation(record, config, task="file", id="a:0")
    return str(caught.value)


@pytest.mark.parametrize(("name", "record", "expected"), FORMATS)
def test_every_format_is_recognised_and_can_be_named(
    name: Any, record: dict[str, Any], expected: list[tuple[str, str]]
) -> None:
    """A record of each format yields its messages character for character, whether or not the format is named."""
    assert said(record) == expected
    assert said(record, FormatConfig(format=name)) == expected


def test_a_named_format_is_the_only_one_tried() -> None:
    """Where a record would do in two formats the named one is read, and one that does not fit it is unusable."""
    record = {"instruction": "i", "input": "q", "output": "a", "target": "b"}
    assert said(record) == [("user", "i\nq"), ("assistant", "a")]
    assert said(record, FormatConfig(format="firefly")) == [("user", "q"), ("assistant", "b")]
    assert why_not(messages(*TALK), FormatConfig(format="alpaca")) == (
        "no conversation: it has the fields messages; expected instruction + output or instruction + response"
    )
    assert why_not(messages(*TALK), FormatConfig(format="sharegpt")).startswith("a message has no role and content")


def test_roles() -> None:
    """The roles that others use are known, one's own stay as they are, and the settings decide over both."""
    names = ["system", "human", "GPT", "observation", "chatgpt", "narrator", "background", "bing", "旁白"]
    record = {"conversations": [{"from": name, "value": "x"} for name in names]}
    roles = ["system", "user", "assistant", "tool", "assistant", "narrator", "background", "assistant", "旁白"]
    assert [role for role, _ in said(record)] == roles
    config = FormatConfig(roles={"narrator": "system", "bing": "bing", "GPT": "critic"})
    mapped = ["system", "user", "critic", "tool", "assistant", "system", "background", "bing", "旁白"]
    with pytest.raises(Unusable, match="before any message of the assistant"):  # a critic is not one
        said(record, config)
    record["conversations"].insert(0, {"from": "gpt", "value": "x"})
    assert [role for role, _ in said(record, config)] == ["assistant", *mapped]


def test_contents_in_parts_and_tool_calls() -> None:
    """Parts of type text are joined, calls of tools become lines of JSON, the name of a speaker is nobody's."""
    call = {"id": "1", "type": "function", "function": {"name": "天气", "arguments": '{"城市": "北京"}'}}
    record = {
        "messages": [
            {
                "role": "user",
                "name": "Li",
                "content": [{"type": "text", "text": "北京"}, {"type": "text", "text": "?"}],
            },
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "content": "晴", "tool_call_id": "1"},
            {"role": "assistant", "content": "看看", "function_call": {"name": "f", "arguments": None}},
        ]
    }
    assert said(record) == [
        ("user", "北京?"),
        ("assistant", '{"name": "天气", "arguments": {"城市": "北京"}}'),
        ("tool", "晴"),
        ("assistant", '看看\n{"name": "f", "arguments": {}}'),
    ]


def test_weights() -> None:
    """A message's weight or train says whether it is trained on; without either its role does."""
    items = [{"weight": 0}, {"weight": 1.0}, {"train": False}, {"train": True}, {"weight": None}, {}]
    record = {"messages": [{"role": "assistant", "content": "x", **item} for item in items]}
    found = to_conversation(record, AUTO, task="", id="").messages
    assert [message.weight for message in found] == [0, 1, 0, 1, None, None]
    only = {"messages": [{"role": "narrator", "content": "x", "weight": 1}]}
    assert to_conversation(only, AUTO, task="", id="").messages == (Message("narrator", "x", 1),)


def test_tasks() -> None:
    """The task is the named field, else the first short text among the usual ones, else the name of the file."""
    pair = {"prompt": "q", "completion": "a"}
    assert task(pair) == "file"
    assert task({"kind": "NLI", "input": "q", "target": "a"}) == "NLI"
    assert task({**pair, "type": "t", "category": "c"}) == "c"
    assert task({**pair, "task": {"from": "x"}, "task_type": " ", "category": "x" * 65, "kind": "a\nb"}) == "file"
    assert task({**pair, "task": "t", "topic": 7}, "topic") == "7"
    assert task({**pair, "task": "t"}, "topic") == "file"


UNUSABLE: list[tuple[dict[str, Any], str]] = [
    ({"messages": []}, "an empty conversation"),
    ({"messages": None}, "no conversation: it has the fields (none)"),
    ({"messages": 5}, "the field messages is not a list but a number"),
    ({"conversations": "[{"}, "the field conversations is a text that is not JSON"),
    ({"messages": ["hi"]}, "a message is not an object but a text"),
    ({"messages": [{"role": "assistant"}]}, "the field content is not text but null"),
    ({"messages": [{"role": "assistant", "content": 5}]}, "the field content is not text but a number"),
    ({"messages": [{"role": 5, "content": "x"}]}, "a role is not a name but a number"),
    ({"messages": [{"content": "x"}]}, "a message has no role and content but content"),
    ({"messages": [{}]}, "a message has no role and content but nothing"),
    (messages(("user", "q")), "no message of the assistant"),
    (messages(("user", "q"), ("assistant", " \n")), "an empty answer"),
    (messages(("user", "q"), ("assistant", "a"), ("user", "q"), ("assistant", "")), "an empty answer"),
    (messages(("tool", "q"), ("assistant", "a")), "a tool's result before any message of the assistant"),
    (messages(("user", "\ud800"), ("assistant", "a")), "a lone surrogate"),
    ({**messages(*TALK), "system": 5}, "the field system is not text but a number"),
    ({**messages(*TALK), "task": "\ud800"}, "a lone surrogate"),
    ({"messages": [{"role": "assistant", "content": "a", "weight": 2}]}, "the weight of a message is neither 0 nor 1"),
    ({"messages": [{"role": "assistant", "content": "a", "train": "no"}]}, "the train of a message is neither 0 nor 1"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]},
        "a part of a content is not text but image_url",
    ),
    ({"messages": [{"role": "assistant", "content": "", "tool_calls": [{}]}]}, "a tool call has no name"),
    ({"messages": [{"role": "assistant", "tool_calls": [{"name": "f", "arguments": "{"}]}]}, "the arguments of a tool"),
    (
        {"instruction": "q", "output": None},
        "no conversation: it has the fields instruction; expected messages,",
    ),
    ({"instruction": "q", "output": ""}, "an empty answer"),
    ({"instruction": " ", "input": "", "output": "a"}, "an empty question"),
    ({"instruction": "q", "output": ["a", 5]}, "a part of a content is not text but a number"),
    ({"instruction": "q", "output": "a", "history": [["q"]]}, "the field history is not a list of [question, answer]"),
    ({"question": "q", "answer": 42}, "the field answer is not text but a number"),
    ({"question": b"\xff", "answer": "a"}, "not valid UTF-8"),
    ({"text": "only a text"}, "no conversation: it has the fields text; expected messages, conversations"),
]


@pytest.mark.parametrize(("record", "reason"), UNUSABLE)
def test_unusable_records_say_why(record: dict[str, Any], reason: str) -> None:
    """What cannot be trained on is refused with its reason."""
    assert why_not(record).startswith(reason)


@pytest.mark.parametrize(
    ("record", "found"),
    [
        ({**sharegpt(("user", "q")), "chosen": {"from": "gpt"}, "rejected": {"from": "gpt"}}, "chosen and rejected"),
        ({"prompt": "q", "chosen": "a", "rejected": "b"}, "chosen and rejected"),
        ({"prompt": "q", "completion": "a", "label": False}, "label"),
        ({**messages(*TALK), "kto_tag": "true"}, "kto_tag"),
    ],
)
def test_preferences_are_not_mistaken_for_conversations(record: dict[str, Any], found: str) -> None:
    """Rejected answers are never trained on: a record with verdicts is refused, unless its format is named."""
    assert why_not(record).startswith(f"made for preferences, not for conversations: it has {found} besides")
    if "messages" in record:
        assert said(record, FormatConfig(format="messages")) == TALK


valid = st.text(st.characters(exclude_categories=["Cs"]))


answers = valid.filter(lambda text: bool(text.strip()))


exchanges = st.lists(st.tuples(valid, answers), min_size=1, max_size=4)


@given(exchanges=exchanges, system=st.none() | answers)
def test_formats_agree_on_random_conversations(exchanges: Sequence[tuple[str, str]], system: str | None) -> None:
    """A conversation is the same one spelled in either list format, and read back from JSON, for any characters."""
    talk = [turn for q, a in exchanges for turn in (("user", q), ("assistant", a))]
    talk = [("system", system), *talk] if system is not None else talk
    assert said(sharegpt(*talk)) == said(messages(*talk)) == talk
    assert said(json.loads(json.dumps(sharegpt(*talk)))) == talk
    assert said({"conversations": json.dumps(sharegpt(*talk)["conversations"])}) == talk
