"""Tools, their calls and their results in templates: equality with transformers, losses, text that stays text."""

import json
from typing import Any

import pytest
from chat_template_fixtures import assistant, spelled, system, user
from tool_templates import TEMPLATES

from babyllm.chat.built_in import EARLIER, TEXTS, BuiltIn, built_in_of
from babyllm.chat.load import ChatTemplate, load_template
from babyllm.chat.messages import Message, ToolCall, Unusable
from babyllm.tokenizer import Tokenizer

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": 'the weather of a "city" 城市 <|im_end|>',
        "parameters": {"type": "object", "properties": {"city": {"type": "string", "enum": ["北京", "<|eot_id|>"]}}},
    },
}
ARGUMENTS = {"city": '北京 "<|im_end|>"\n', "days": 2, "more": {"<|eot_id|>": [None, 1.5, True, "é"]}}
RESULT = '{"sky": "clear\\n", "t": 3}'
CALL = ToolCall("weather", json.dumps(ARGUMENTS), "call_1")
TOOLS = json.dumps([WEATHER], ensure_ascii=False)


def theirs_of(message: Message) -> dict[str, Any]:
    """A message as apply_chat_template takes it."""
    found: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.tool_calls:
        found["content"] = message.beside_calls
        found["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.values}}
            for call in message.tool_calls
        ]
    if message.reasoning:
        found["reasoning_content"] = message.reasoning
    return found | ({"tool_call_id": message.call_id} if message.call_id else {})


def conversations(n_calls: int) -> list[list[Message]]:
    called = assistant("").with_calls([CALL] * n_calls)
    result = Message("tool", RESULT, call_id="call_1")
    words = [user("how is it?"), called, *[result] * n_calls]
    spoken = [user("how?"), assistant("let me see").with_calls([CALL] * n_calls), result, assistant("clear"), user("?")]
    return [words, [*words, assistant("it is clear")], [system("be brief"), *spoken]]


@pytest.mark.parametrize("form", TEMPLATES)
def test_tools_are_rendered_as_in_transformers(form: str, vocabulary: Tokenizer, theirs: Any) -> None:
    """Tools, calls and results are rendered character for character, and names of special tokens in them are text."""
    template = ChatTemplate(TEMPLATES[form], vocabulary, form)
    for messages in conversations(1 if form == "llama3" else 2):
        for is_asked in (False, True):
            given = [theirs_of(message) for message in messages]
            expected = theirs.apply_chat_template(
                given, tools=[WEATHER], chat_template=TEMPLATES[form], tokenize=False, add_generation_prompt=is_asked
            )
            offered = [Message("system", "", tools=TOOLS), *messages]
            if messages[0].role == "system":
                offered = [Message("system", messages[0].content, tools=TOOLS), *messages[1:]]
            ids = template.prompt(offered) if is_asked else template.transcript(offered)
            assert spelled(ids, vocabulary) == expected
            n_ends = expected.count("<|eot_id|>") - str(given).count("<|eot_id|>") - TOOLS.count("<|eot_id|>")
            assert form == "xml" or ids.count(vocabulary.special["<|eot_id|>"]) == n_ends


@pytest.mark.parametrize("form", ["qwen2.5", "qwen3", "hermes", "llama3"])
def test_conversations_without_tools_are_rendered_as_in_transformers(
    form: str, vocabulary: Tokenizer, theirs: Any
) -> None:
    """A template that knows tools renders conversations without any as transformers does."""
    template = ChatTemplate(TEMPLATES[form], vocabulary, form)
    messages = [user("a"), assistant("b"), user("c")]
    given = [{"role": message.role, "content": message.content} for message in messages]
    expected = theirs.apply_chat_template(
        given, chat_template=TEMPLATES[form], tokenize=False, add_generation_prompt=True
    )
    assert spelled(template.prompt(messages), vocabulary) == expected


def test_what_a_template_refuses_of_calls_is_said(vocabulary: Tokenizer) -> None:
    """A template with one call at a time refuses two, and arguments must be JSON."""
    template = ChatTemplate(TEMPLATES["llama3"], vocabulary)
    with pytest.raises(Unusable, match="Only one call at once"):
        template.prompt([user("a"), assistant("").with_calls([CALL, CALL]), user("b")])
    with pytest.raises(Unusable, match="the arguments of a tool call are not JSON"):
        assistant("").with_calls([ToolCall("f", "{")])
    marked = [Message("system", "", tools=json.dumps(["\U00100000"])), user("a")]
    with pytest.raises(Unusable, match="the tools or their calls hold a private-use character"):
        ChatTemplate(TEMPLATES["qwen3"], vocabulary).prompt(marked)


def test_chatml_renders_calls(vocabulary: Tokenizer) -> None:
    """Tools are in the system message, calls are JSON in tags after the content, results are in tags."""
    template = load_template("chatml", vocabulary)
    call = ToolCall("f", '{"x": "é"}')
    messages = [
        Message("system", "be brief", tools='[{"name": "f", "parameters": {}}]'),
        user("a"),
        assistant("wait").with_calls([call, call]),
        Message("tool", "1"),
        assistant("b"),
    ]
    text = spelled(template.transcript(messages), vocabulary)
    block = '<tool_call>\n{"name": "f", "arguments": {"x": "é"}}\n</tool_call>'
    signature = '{"type": "function", "function": {"name": "f", "parameters": {}}}'
    assert text.startswith("<|im_start|>system\nbe brief\n\n# Tools\n") and f"<tools>\n{signature}\n</tools>" in text
    assert text.endswith(
        f"<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nwait\n{block}\n{block}<|im_end|>\n"
        "<|im_start|>tool\n<tool_response>\n1\n</tool_response><|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n"
    )
    assert template.end_ids == [vocabulary.special["<|im_end|>"], vocabulary.eos_id]


@pytest.mark.parametrize("said", ["", "wait"])
def test_calls_are_trained_on(said: str, vocabulary: Tokenizer) -> None:
    """The losses are over the answers with their calls and end tokens, and over nothing else."""
    template = load_template("chatml", vocabulary)
    answer = assistant(said).with_calls([ToolCall("f", '{"x": "<|im_end|>"}')])
    messages = [Message("system", "", tools=TOOLS), user("a"), answer, Message("tool", "1"), assistant("b")]
    rendered = template.render(messages)
    block = '<tool_call>\n{"name": "f", "arguments": {"x": "<|im_end|>"}}\n</tool_call>'
    turns = [spelled(rendered.ids[rendered.turns == turn].tolist(), vocabulary) for turn in (1, 2)]
    assert turns == [f"{said}{said and chr(10)}{block}<|im_end|>", "b<|im_end|>"]
    assert rendered.turns.max() == 2
    assert rendered.ids[rendered.turns == 1].tolist().count(vocabulary.special["<|im_end|>"]) == 1


@pytest.mark.parametrize("efficient_eos", [False, True])
def test_chatml_of_earlier_runs(efficient_eos: bool, vocabulary: Tokenizer) -> None:
    """It is recognised, stays what it was, spells calls out, and agrees with today's where there are no tools."""
    for system_text in ("", "be brief"):
        earlier = BuiltIn("chatml", efficient_eos, system_text, is_earlier=True)
        assert built_in_of(earlier.text()) == earlier
        now = earlier._replace(is_earlier=False)
        assert built_in_of(now.text()) == now
        templates = [ChatTemplate(one.text(), vocabulary) for one in (earlier, now)]
        for messages in (
            [system("s"), user("a"), assistant("b"), Message("tool", "c"), assistant("d"), Message("narrator", "e")],
            [user("<|im_end|>"), assistant(" b "), user("")],
        ):
            old, new = (template.render(messages) for template in templates)
            assert old.ids.tolist() == new.ids.tolist() and old.turns.tolist() == new.turns.tolist()
            assert templates[0].prompt(messages) == templates[1].prompt(messages)
    assert set(EARLIER) < set(TEXTS)
    called = assistant("wait").with_calls([ToolCall("f", '{"x":1}')])
    text = spelled(templates[0].transcript([user("a"), called]), vocabulary)
    assert '<|im_start|>assistant\nwait\n{"name": "f", "arguments": {"x": 1}}<|im_end|>' in text


def test_templates_without_calls_spell_them_out(vocabulary: Tokenizer) -> None:
    """A template that knows no calls gets them as lines of JSON at the end of the content."""
    template = load_template("alpaca", vocabulary)
    messages = [user("a"), assistant("b").with_calls([CALL])]
    text = spelled(template.transcript(messages), vocabulary)
    assert f"### Response:b\n{CALL.line()}" in text
