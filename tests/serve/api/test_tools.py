"""Functions that clients offer, and calls of them, in chats."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import openai
import pydantic
import pytest
from model_fixtures import Tiny, chain
from serve_fixtures import CHAT, NAME, Server, asking, load_of, saved_events, serving, talkative

from babyllm.chat.load import load_template
from babyllm.documents import Document
from babyllm.tokenizer import Tokenizer

HEAD, MIDDLE, TAIL = '<tool_call>{"name":"f","arguments":{', '"x":1', "}}</tool_call>"
SCHEMA = {
    "type": "object",
    "properties": {"城市": {"type": "string", "maxLength": 8}, "n": {"type": "integer", "minimum": 0, "maximum": 9}},
    "required": ["城市", "n"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "f", "description": "天气", "parameters": SCHEMA}}
OTHER = {"type": "function", "function": {"name": "g"}}
ALLOWED = {"tools": [{"type": "function", "function": {"name": "h"}}]}
CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}


@pytest.fixture(scope="session")
def calling_tokenizer(corpus: Sequence[Document]) -> Tokenizer:
    """A vocabulary with a call in three tokens."""
    texts = (d.text for d in corpus)
    return Tokenizer.train(texts, 430, model_type="byte_bpe", n_threads=1, symbols=[HEAD, MIDDLE, TAIL, "wait"])


@pytest.fixture(scope="session")
def caller(tiny: Tiny, calling_tokenizer: Tokenizer) -> Iterator[Server]:
    """A model that always says "wait" and calls f."""
    tokenizer = calling_tokenizer
    ids = [*tokenizer.encode("wait"), *tokenizer.encode(HEAD + MIDDLE + TAIL), tokenizer.special["<|im_end|>"]]
    assert len(ids) == 5
    model = chain(tiny(max_seq_len=1024, vocab_size=430, tie_embeddings=False), ids)
    with serving(load_of(model, tokenizer, load_template("chatml", tokenizer))) as server:
        yield server


@pytest.fixture(scope="session")
def babbler(tiny: Tiny, calling_tokenizer: Tokenizer) -> Iterator[Server]:
    """A random model, which knows nothing of calls."""
    template = load_template("chatml", calling_tokenizer)
    model = talkative(tiny(max_seq_len=1024, vocab_size=430))
    with serving(load_of(model, calling_tokenizer, template)) as server:
        yield server


def calling(**more: Any) -> dict[str, Any]:
    """A request with room for calls."""
    return asking("x", **{"max_tokens": 400} | more)


def message_of(server: Server, body: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """The message of an answer and its finish reason."""
    response = server.post(CHAT, body)
    assert response.status_code == 200, response.text
    (choice,) = response.json()["choices"]
    return choice["message"], choice["finish_reason"]


def refusal(server: Server, body: dict[str, Any]) -> tuple[str, str]:
    """The field that a refused request's error names, and its message."""
    response = server.post(CHAT, body)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    return error["param"], error["message"]


def test_calls_are_apart_from_the_content(caller: Server) -> None:
    """A call has an id, a name and arguments as text; without tools it is content."""
    message, finish = message_of(caller, calling(tools=[TOOL]))
    (call,) = message["tool_calls"]
    assert call["id"].startswith("call_") and call["type"] == "function"
    assert call["function"] == {"name": "f", "arguments": '{"x":1}'}
    assert (message["content"], finish) == ("wait", "tool_calls")
    for more in ({}, {"tools": []}, {"tools": [TOOL], "tool_choice": "none"}):
        message, finish = message_of(caller, calling(**more))
        assert (message["content"], finish) == (f"wait{HEAD}{MIDDLE}{TAIL}", "stop")
        assert "tool_calls" not in message


def test_calls_are_streamed(caller: Server) -> None:
    """The name comes first with the id, then the arguments in pieces, then the finish reason."""
    response = caller.post(CHAT, calling(tools=[TOOL], stream=True))
    choices = [json.loads(event)["choices"][0] for event in saved_events(response)[:-1]]
    deltas = [choice["delta"] for choice in choices]
    assert deltas[0]["content"] is None and "".join(delta.get("content") or "" for delta in deltas) == "wait"
    calls = [call for delta in deltas for call in delta.get("tool_calls", [])]
    assert calls[0]["function"]["name"] == "f" and calls[0]["id"].startswith("call_")
    assert all("id" not in call and "name" not in call["function"] for call in calls[1:])
    assert "".join(call["function"]["arguments"] for call in calls) == '{"x":1}'
    assert len(calls) > 2
    assert choices[-1]["finish_reason"] == "tool_calls"


def test_a_call_that_is_cut_off_says_so(caller: Server) -> None:
    """A limit of tokens ends a call with the arguments so far."""
    message, finish = message_of(caller, calling(tools=[TOOL], max_tokens=3))
    assert message["tool_calls"][0]["function"]["arguments"] == '{"x":1'
    assert finish == "length"


def test_calls_and_results_are_read(caller: Server) -> None:
    """Messages with calls and results reach the template, as do the functions."""
    messages = [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "call_1", "content": "晴"},
    ]
    body = {"messages": messages, "tools": [TOOL]}
    text = caller.post("/tokenize", body | {"return_token_strs": True}).json()["token_strs"]
    prompt = "".join(text)
    block = '<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call>'
    assert f"<|im_start|>assistant\n{block}<|im_end|>\n<|im_start|>tool\n<tool_response>\n" in prompt
    assert '"name": "f"' in prompt.partition("</tools>\n\n")[0]
    message, _ = message_of(caller, {"model": NAME, **body})
    assert message["tool_calls"]


@pytest.mark.parametrize("temperature", [0, 1.5])
def test_a_required_call_is_valid(babbler: Server, temperature: float) -> None:
    """A model that knows no calls makes valid ones where they are required, in streams too, whatever it would say."""
    for seed in range(10):
        sampling = {"temperature": temperature, "seed": seed, "parallel_tool_calls": False}
        message, finish = message_of(babbler, calling(tools=[TOOL, OTHER], tool_choice="required", **sampling))
        (call,) = message["tool_calls"]
        arguments = json.loads(call["function"]["arguments"])
        if call["function"]["name"] == "f":
            assert set(arguments) == {"城市", "n"} and len(arguments["城市"]) <= 8 and 0 <= arguments["n"] <= 9
        else:
            assert (call["function"]["name"], arguments) == ("g", {})
        assert (message["content"], finish) == (None, "tool_calls")
        named = {"type": "function", "function": {"name": "f"}}
        message, _ = message_of(babbler, calling(tools=[OTHER, TOOL], tool_choice=named, **sampling))
        assert [call["function"]["name"] for call in message["tool_calls"]] == ["f"]


def test_several_calls_may_be_required(babbler: Server) -> None:
    """Calls in parallel are numbered, and each is valid."""
    message, _ = message_of(babbler, calling(tools=[OTHER], tool_choice="required", temperature=1.5, seed=1))
    calls = message["tool_calls"]
    assert {call["function"]["name"] for call in calls} == {"g"} and len({call["id"] for call in calls}) == len(calls)


def test_only_allowed_functions_are_called(caller: Server, babbler: Server) -> None:
    """Of functions that are offered, only allowed ones are called, in chats and in responses, required or not."""
    allowed = {"mode": "required", "tools": [{"type": "function", "function": {"name": "g"}}]}
    for seed in range(5):
        choice = {"type": "allowed_tools", "allowed_tools": allowed}
        body = calling(tools=[TOOL, OTHER], tool_choice=choice, parallel_tool_calls=False, temperature=1.5, seed=seed)
        message, finish = message_of(babbler, body)
        assert ([call["function"]["name"] for call in message["tool_calls"]], finish) == (["g"], "tool_calls")
    choice = {"type": "allowed_tools", "allowed_tools": allowed | {"mode": "auto"}}
    message, _ = message_of(caller, calling(tools=[TOOL, OTHER], tool_choice=choice, temperature=0))
    assert all(call["function"]["name"] == "g" for call in message.get("tool_calls") or [])
    flat = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "g"}]}
    tools = [FLAT, {"type": "function", "name": "g"}]
    body = {"input": "x", "tools": tools, "tool_choice": flat, "parallel_tool_calls": False}
    response = babbler.post("/v1/responses", {"model": NAME, **body})
    assert response.status_code == 200, response.text
    assert [item["name"] for item in response.json()["output"]] == ["g"] and response.json()["tool_choice"] == flat


@pytest.fixture(scope="session")
def marking_tokenizer(corpus: Sequence[Document]) -> Tokenizer:
    """A vocabulary whose marks of calls are special tokens."""
    marks = ("<tool_call>", "</tool_call>")
    return Tokenizer.train((d.text for d in corpus), 430, model_type="byte_bpe", n_threads=1, special_tokens=marks)


def test_marks_may_be_special_tokens(tiny: Tiny, marking_tokenizer: Tokenizer) -> None:
    """Calls between marks that are special tokens are found although answers do not show the marks."""
    tokenizer = marking_tokenizer
    model = talkative(tiny(max_seq_len=1024, vocab_size=430))
    with serving(load_of(model, tokenizer, load_template("chatml", tokenizer))) as server:
        for choice in ("required", "auto"):
            tools = [{"type": "function", "function": {**TOOL["function"], "strict": True}}]
            body = calling(tools=tools, tool_choice=choice, temperature=1, parallel_tool_calls=choice == "auto")
            bias = {str(tokenizer.special["<tool_call>"]): 100}
            message, _ = message_of(server, body | ({"logit_bias": bias} if choice == "auto" else {"seed": 1}))
            assert set(json.loads(message["tool_calls"][0]["function"]["arguments"])) == {"城市", "n"}
            assert not message["content"]


class Weather(pydantic.BaseModel):
    """The weather of a city."""

    model_config = pydantic.ConfigDict(extra="forbid")

    city: str = pydantic.Field(max_length=8)
    n: int = pydantic.Field(ge=0, le=9)


def test_the_official_client_parses_calls(babbler: Server, caller: Server) -> None:
    """`parse` returns checked arguments, and a loop over calls as runTools makes it ends with the results read."""
    tool = openai.pydantic_function_tool(Weather)
    with babbler.openai() as client:
        completion = client.chat.completions.parse(
            model=NAME,
            messages=[{"role": "user", "content": "x"}],
            tools=[tool],
            tool_choice="required",
            parallel_tool_calls=False,
            seed=1,
        )
        (call,) = completion.choices[0].message.tool_calls or []
        assert isinstance(call.function.parsed_arguments, Weather)
    with caller.openai() as client:
        messages: list[Any] = [{"role": "user", "content": "x"}]
        for _ in range(2):
            greedy: dict[str, Any] = {"model": NAME, "tools": [TOOL], "temperature": 0}
            with client.chat.completions.stream(messages=messages, **greedy) as stream:
                message = stream.get_final_completion().choices[0].message
            assert message.tool_calls and message.content == "wait"
            assert all(isinstance(json.loads(call.function.arguments), dict) for call in message.tool_calls)
            messages.append(message.model_dump(exclude_none=True, exclude={"parsed"}))
            messages += [{"role": "tool", "tool_call_id": call.id, "content": "3"} for call in message.tool_calls]


def test_content_may_be_held_to_a_schema_beside_calls(babbler: Server) -> None:
    """With response_format, an answer is JSON of that schema or a call."""
    schema = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"], "additionalProperties": False}
    wanted = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema, "strict": True}}
    for seed in range(5):
        body = calling(tools=[OTHER], response_format=wanted, temperature=1.5, seed=seed)
        message, _ = message_of(babbler, body | {"parallel_tool_calls": False})
        assert message.get("tool_calls") or json.loads(message["content"])["a"] in (1, 2)


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"tools": [{"type": "web"}]}, "tools[0].type"),
        ({"tools": [TOOL, TOOL]}, "tools"),
        ({"tools": [{"type": "function", "function": {"name": ""}}]}, "tools[0].function.name"),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": []}}]},
            "tools[0].function.parameters",
        ),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": "any"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "h"}}}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "allowed_tools", "allowed_tools": ALLOWED}}, "tool_choice"),
        (
            {
                "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "no"}}}],
                "tool_choice": "required",
            },
            "tools",
        ),
    ],
)
def test_wrong_tools_are_refused(babbler: Server, more: dict[str, Any], param: str) -> None:
    """The error names the field."""
    assert refusal(babbler, calling(**more))[0] == param


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "user", "content": "x", "tool_calls": [CALL]}, "messages[0]"),
        (
            {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{"}}]},
            "messages[0].tool_calls[0].function.arguments",
        ),
        ({"role": "assistant", "tool_calls": [{}]}, "messages[0].tool_calls[0].function"),
    ],
)
def test_wrong_calls_are_refused(babbler: Server, message: dict[str, Any], param: str) -> None:
    """Only answers have calls, and a call has a function with an object of arguments."""
    assert refusal(babbler, {"model": NAME, "messages": [message]})[0] == param


# ---- responses


FLAT = {"type": "function", "name": "f", "parameters": SCHEMA, "strict": None}


def test_calls_in_responses(caller: Server) -> None:
    """A call is an item of the output; its result is an item of the input, whether the call is sent or kept."""
    body = {"model": NAME, "input": "x", "tools": [FLAT], "temperature": 0}
    first = caller.post("/v1/responses", body).json()
    message, call = first["output"]
    assert (message["type"], message["content"][0]["text"]) == ("message", "wait")
    assert (call["type"], call["name"], call["arguments"], call["status"]) == (
        "function_call",
        "f",
        '{"x":1}',
        "completed",
    )
    result = {"type": "function_call_output", "call_id": call["call_id"], "output": "3"}
    kept = caller.post("/v1/responses", body | {"input": [result], "previous_response_id": first["id"]}).json()
    asked = {"role": "user", "content": "x"}
    sent = caller.post("/v1/responses", body | {"input": [asked, message, call, result]}).json()
    assert kept["usage"]["input_tokens"] == sent["usage"]["input_tokens"] > first["usage"]["input_tokens"]
    assert [item["type"] for item in kept["output"]] == ["message", "function_call"]


def test_the_official_client_reads_calls_of_responses(caller: Server, babbler: Server) -> None:
    """Its stream assembles the call, and `parse` checks the arguments of a required one."""
    greedy: dict[str, Any] = {"model": NAME, "tools": [FLAT], "temperature": 0}
    with caller.openai() as client, client.responses.stream(input="x", **greedy) as stream:
        events = list(stream)
    kinds = [event.type for event in events]
    assert kinds.index("response.output_text.done") < kinds.index("response.function_call_arguments.delta")
    assert kinds[-3:] == ["response.function_call_arguments.done", "response.output_item.done", "response.completed"]
    assert events[-1].response.output[1].arguments == '{"x":1}'  # type: ignore[union-attr]
    with babbler.openai() as client:
        response = client.responses.parse(
            model=NAME,
            input="x",
            tools=[openai.pydantic_function_tool(Weather)["function"] | {"type": "function"}],  # type: ignore[list-item]
            tool_choice={"type": "function", "name": "Weather"},
        )
        (item,) = response.output
        assert item.type == "function_call" and Weather.model_validate_json(item.arguments)
