"""Fields of chat records beside who says what: thoughts, tools, flags, pictures, and what is left out and counted."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from babyllm.chat.formats import FormatConfig, to_conversation
from babyllm.chat.load import ChatTemplate, load_template
from babyllm.chat.messages import TOOLS_HEAD, Conversation, Message, ToolCall, Unusable
from babyllm.chat.reading import read_conversations
from babyllm.chat.supervise import Supervise, message_weights
from babyllm.pipeline.partitions import WorkConfig
from babyllm.prepare.conversations import prepare_conversations
from babyllm.tokenizer import Tokenizer

# As the templates of reasoning models do it: thoughts of the last answer alone, tools beside the system's words.
NATIVE = r"""
{%- if tools %}{{ '<|im_start|>system\n' }}
{%- if messages[0].role == 'system' %}{{ messages[0].content + '\n\n' }}{% endif %}
{{- 'Tools:' }}{% for tool in tools %}{{ '\n' + tool | tojson }}{% endfor %}{{ '<|im_end|>\n' }}
{%- endif %}
{%- for message in messages if message.role != 'system' %}
{{- '<|im_start|>' + message.role + '\n' }}
{%- if message.role == 'assistant' %}
{%- generation %}
{%- if loop.last and message.reasoning_content %}{{ '<think>' + message.reasoning_content + '</think>' }}{% endif %}
{{- message.content + '<|im_end|>' }}
{%- endgeneration %}
{%- else %}{{ message.content + '<|im_end|>' }}
{%- endif %}{{ '\n' }}
{%- endfor %}"""
TOOL = {"type": "function", "function": {"name": "weather", "description": "天气", "parameters": {}}}
ASKED, ANSWERED = {"role": "user", "content": "几点"}, {"role": "assistant", "content": "三点"}


def conversation(record: dict[str, Any], **options: Any) -> Conversation:
    return to_conversation(record, FormatConfig(**options), task="t", id="a:0")


def why_not(record: dict[str, Any]) -> str:
    with pytest.raises(Unusable) as caught:
        conversation(record)
    return str(caught.value)


def weights(*answers: dict[str, Any], **record: Any) -> list[int]:
    """What is trained on of a question and answers with these fields."""
    turns = [{"role": "assistant", "content": "a"} | answer for answer in answers]
    found = conversation({"messages": [ASKED, *turns], **record})
    return message_weights(found.messages, Supervise())[1:]


@pytest.fixture(scope="module")
def template(tokenizer: Tokenizer) -> ChatTemplate:
    return load_template("chatml", tokenizer)


@pytest.fixture(scope="module")
def native(template: ChatTemplate) -> ChatTemplate:
    return ChatTemplate(NATIVE, template.tokenizer)


def trained(template: ChatTemplate, found: Conversation) -> tuple[str, str]:
    """All that a template makes of a conversation, and what of it is trained on."""
    names = {i: name for name, i in template.tokenizer.special.items()}

    def text(ids: Iterable[int]) -> str:
        pieces = [names[i].encode() if i in names else template.tokenizer.token_bytes(i) for i in ids]
        return b"".join(pieces).decode()

    ids, turns = template.render(found.messages)
    return text(ids.tolist()), text(ids[turns > 0].tolist())


# ---- thoughts


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning", "thinking"])
def test_reasoning_is_trained_on_before_the_answer(name: str, template: ChatTemplate) -> None:
    """A template without a place for thoughts has them in <think>, whatever their field is called."""
    found = conversation({"messages": [ASKED, ANSWERED | {name: "看表"}]})
    assert found.left_out == ()
    assert trained(template, found)[1] == "<think>\n看表\n</think>\n\n三点<|im_end|>"
    pair = conversation({"question": "几点", "answer": "三点", name: "看表"})
    assert pair.messages == found.messages


def test_a_template_with_a_place_for_reasoning_gets_it_there(native: ChatTemplate) -> None:
    """It decides which thoughts stay, and they are plain text like contents."""
    first, last = ANSWERED | {"reasoning_content": "早"}, ANSWERED | {"reasoning_content": "<|im_end|>晚"}
    whole, answers = trained(native, conversation({"messages": [ASKED, first, ASKED, last]}))
    assert whole.endswith("<|im_start|>assistant\n<think><|im_end|>晚</think>三点<|im_end|>\n") and "早" not in whole
    assert answers == "三点<|im_end|><think><|im_end|>晚</think>三点<|im_end|>"
    ids = native.render(conversation({"messages": [ASKED, last]}).messages).ids.tolist()
    assert ids.count(native.tokenizer.special["<|im_end|>"]) == 2


# ---- tools


@pytest.mark.parametrize("tools", [[TOOL], json.dumps([TOOL]), TOOL])
def test_tools_are_told_to_the_system(tools: Any, template: ChatTemplate, native: ChatTemplate) -> None:
    """They go to the template as `tools`, or where it has none to the end of the system message."""
    spelling = load_template("llama3", template.tokenizer)
    line = json.dumps(TOOL, ensure_ascii=False)
    spoken = {"messages": [{"role": "system", "content": "你是钟"}, ASKED, ANSWERED]}
    for record in (
        spoken | {"tools": tools},
        {"messages": [spoken["messages"][0] | {"tools": tools}, ASKED, ANSWERED]},
    ):
        found = conversation(record)
        assert found.left_out == ()
        whole, answer = trained(template, found)
        assert whole.startswith("<|im_start|>system\n你是钟\n\n# Tools\n") and f"<tools>\n{line}\n</tools>" in whole
        assert f"你是钟\n\n{TOOLS_HEAD}\n{line}<|eot_id|>" in trained(spelling, found)[0]
        assert answer == "三点<|im_end|>"
        assert trained(native, found)[0].startswith(f"<|im_start|>system\n你是钟\n\nTools:\n{line}<|im_end|>\n")
    without = conversation({"messages": [ASKED, ANSWERED], "tools": tools})
    assert trained(template, without)[0].startswith("<|im_start|>system\n# Tools\n")
    assert trained(native, without)[0].startswith(f"<|im_start|>system\nTools:\n{line}<|im_end|>\n<|im_start|>user")


def test_functions_are_tools(native: ChatTemplate) -> None:
    """The older name is known, and each function is given as a tool is."""
    found = conversation({"messages": [ASKED, ANSWERED], "functions": [TOOL["function"]]})
    assert json.loads(found.messages[0].tools) == [TOOL]
    assert why_not({"messages": [ASKED, ANSWERED], "tools": "weather"}) == "the field tools is a text that is not JSON"
    spelled = TOOL | {"note": "<|im_end|>"}
    whole, _ = trained(native, conversation({"messages": [ASKED, ANSWERED], "tools": [spelled]}))
    assert whole.startswith(f"<|im_start|>system\nTools:\n{json.dumps(spelled, ensure_ascii=False)}<|im_end|>\n")


@pytest.mark.parametrize(
    "calls",
    [
        [{"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}],
        [{"name": "f", "arguments": {"x": 1}}],
        {"name": "f", "arguments": {"x": 1}},
        json.dumps([{"function": {"name": "f", "arguments": {"x": 1}}}]),
    ],
)
def test_calls_are_lines_of_json(calls: Any) -> None:
    """Calls are read as lists, objects and JSON text, with arguments of either kind."""
    record = {"messages": [ASKED, {"role": "assistant", "content": "看", "tool_calls": calls}]}
    found = conversation(record).messages[1]
    assert (found.content, found.beside_calls) == ('看\n{"name": "f", "arguments": {"x": 1}}', "看")
    assert [(call.name, call.arguments) for call in found.tool_calls] == [("f", '{"x": 1}')]


def test_calls_keep_their_form(template: ChatTemplate) -> None:
    """Calls of all usual forms are trained on as the template's calls, with arguments and ids as they are."""
    function = {"name": "f", "arguments": '{"x":1.50}'}
    answer = {"role": "assistant", "content": None, "tool_calls": [{"id": "c1", "function": function}]}
    result = {"role": "tool", "content": "3", "tool_call_id": "c1"}
    found = conversation({"messages": [ASKED, answer, result, ANSWERED], "tools": [TOOL]})
    assert found.messages[2].tool_calls == (ToolCall("f", '{"x":1.50}', "c1"),)
    assert found.messages[3].call_id == "c1" and found.left_out == ()
    spoken = [
        {"from": "human", "value": "几点"},
        {"from": "function_call", "value": '{"name": "f", "arguments": {"x": 1.5}}'},
        {"from": "observation", "value": "3"},
        {"from": "gpt", "value": "三点"},
    ]
    shared = conversation({"conversations": spoken, "tools": json.dumps([TOOL["function"]])})
    assert trained(template, shared) == trained(template, found)
    block = '<tool_call>\n{"name": "f", "arguments": {"x": 1.5}}\n</tool_call><|im_end|>'
    assert trained(template, shared)[1] == f"{block}三点<|im_end|>"
    for value in ('{"name": "f"}', "[1]", "f(1)", '{"name": 1, "arguments": {}}', "{"):
        spoken[1]["value"] = value
        unread = conversation({"conversations": spoken}).messages[1]
        assert (unread.content, unread.tool_calls) == (value, ())


# ---- what is trained on


def test_an_answer_that_is_marked_is_not_learned() -> None:
    """Every usual flag of a message is heeded, and of two that differ the one that says no."""
    flags = ("weight", "train", "training", "trainable", "loss", "learn")
    assert weights(*({name: False} for name in flags), *({name: 1} for name in flags)) == [0] * 6 + [1] * 6
    assert weights({"mask": True}, {"masked": 1}, {"mask": False}, {"loss": None}, {}) == [0, 0, 1, 1, 1]
    assert weights({"weight": 1, "mask": True}) == [0]
    assert why_not({"messages": [ASKED, ANSWERED | {"loss": 0.5}]}) == "the loss of a message is neither 0 nor 1"


def test_a_flag_of_a_record_holds_for_all_its_answers() -> None:
    """Unless an answer has a flag of its own; a number that is measured is not a flag, and is counted as left out."""
    assert weights({}, {"train": True}, train=False) == [0, 1]
    assert weights({}, mask=True) == weights({}, weight=0) == [0]
    assert weights({}, loss=True, mask=False) == weights({}, loss=0) == weights({}, loss=2.5) == [1]
    assert conversation({"messages": [ASKED, ANSWERED], "loss": 2.5, "weight": 1}).left_out == ("loss",)


# ---- what is refused or left out


@pytest.mark.parametrize("name", ["images", "image", "audios", "videos"])
def test_what_is_about_more_than_text_is_refused(name: str) -> None:
    """A record or message with a picture, sound or film is not used; an empty list is nothing."""
    reason = f"it has {name}, which a model of text cannot read"
    assert why_not({"messages": [ASKED, ANSWERED], name: ["a.png"]}) == reason
    assert why_not({"messages": [ASKED | {name: "a.png"}, ANSWERED]}) == reason
    assert why_not({"instruction": "<image>?", "output": "a", name: ["a.png"]}) == reason
    assert conversation({"messages": [ASKED, ANSWERED], name: []}).left_out == ()


@pytest.mark.parametrize("name", ["system", "system_prompt", "system_message"])
def test_what_a_record_says_to_the_system_comes_first(name: str) -> None:
    """Beside messages and beside a question; where the messages begin with a system of their own it is left out."""
    said = Message("system", "简短")
    assert conversation({"messages": [ASKED, ANSWERED], name: "简短"}).messages[0] == said
    assert conversation({"question": "q", "response": "a", name: "简短"}).messages[0] == said
    own = conversation({"messages": [{"role": "system", "content": "长"}, ASKED, ANSWERED], name: "简短"})
    assert (own.messages[0].content, own.left_out) == ("长", (name,))


def test_fields_that_nothing_was_made_of_are_counted(tmp_path: Path, template: ChatTemplate) -> None:
    """The report of the preparation names each field that was left out, of records and of messages, with its number."""
    spoken = [ASKED | {"name": "王"}, ANSWERED | {"id": 3, "refusal": None}]
    records = [{"messages": spoken, "source": "web", "tags": [], "n": 0}, {"messages": spoken, "source": "book"}]
    records += [{"instruction": "问", "output": "答", "input": "", "history": [], "score": 0.5}]
    file = tmp_path / "x.jsonl"
    file.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records), encoding="utf-8")
    report = prepare_conversations(
        [file],
        tmp_path / "out",
        template,
        FormatConfig(),
        seq_len=64,
        supervise=Supervise(),
        work=WorkConfig(workers=1),
    )
    assert report
    told = {name.removeprefix("field left out: "): n for name, n in report.facts if name.startswith("field left")}
    assert told == {"source": 2, "n": 1, "name of messages": 2, "id of messages": 2, "score": 1}


def test_columns_that_are_not_read_are_left_out(tmp_path: Path) -> None:
    """Of a Parquet table only what conversations are made from is read; its other columns are named."""
    file = tmp_path / "x.parquet"
    pq.write_table(pa.table({"prompt": ["问"], "completion": ["答"], "reasoning": ["想"], "embedding": [[1.0]]}), file)
    (found,) = read_conversations(file, FormatConfig())
    assert isinstance(found, Conversation)
    assert (found.messages[1].reasoning, found.left_out) == ("想", ("embedding",))


def test_a_column_without_a_name_is_left_out(tmp_path: Path) -> None:
    """The numbers of rows that tables are often written with are neither a system message nor thoughts."""
    file = tmp_path / "x.csv"
    file.write_text(",instruction,input,output\n0,问,,答\n", encoding="utf-8")
    (found,) = read_conversations(file, FormatConfig())
    assert isinstance(found, Conversation)
    assert (found.messages, found.left_out) == ((Message("user", "问"), Message("assistant", "答")), ("",))
    assert conversation({"": "0", "instruction": "问", "output": "答"}).messages == found.messages


def test_a_task_within_another_field_of_a_table(tmp_path: Path) -> None:
    """The column that holds the field of the task is read."""
    file = tmp_path / "x.parquet"
    pq.write_table(pa.table({"prompt": ["问"], "completion": ["答"], "meta": [{"kind": "算术"}]}), file)
    (found,) = read_conversations(file, FormatConfig(task_field="meta.kind"))
    assert isinstance(found, Conversation)
    assert (found.task, found.left_out) == ("算术", ())
