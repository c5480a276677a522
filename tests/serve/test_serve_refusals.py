"""What the server refuses: fields, sizes, addresses and bytes that make no sense, each in the API's form."""

import json
import socket
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serve_fixtures import CHAT, COMPLETE, NAME, PATIENCE_S, Server, asking

from babyllm.serve.api.neutral import HARMLESS, NEUTRAL


def refusal(response: httpx.Response) -> dict[str, Any]:
    """The error of a refused request, which has the API's form."""
    assert 400 <= response.status_code < 500, response.text
    (error,) = response.json().values()
    assert error.keys() == {"message", "type", "param", "code"} and error["message"]
    assert error["type"] == "invalid_request_error"
    return error  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("path", "change", "param"),
    [
        *[(CHAT, {"messages": value}, "messages") for value in ([], "x", {}, 1)],
        *[(CHAT, {"messages": [value]}, "messages[0]") for value in ("x", 1, [])],
        (CHAT, {"messages": [{"role": "user", "content": "x"}] * 257}, "messages"),
        (CHAT, {"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role"),
        (CHAT, {"messages": [{"role": "user"}]}, "messages[0].content"),
        (CHAT, {"messages": [{"role": "user", "content": "\ud800"}]}, "messages[0].content"),
        (CHAT, {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0].type"),
        (
            CHAT,
            {"messages": [{"role": "assistant", "content": "x", "tool_calls": [{}]}]},
            "messages[0].tool_calls[0].function",
        ),
        (CHAT, {"n": 5}, "n"),
        (CHAT, {"n": True}, "n"),
        (CHAT, {"temperature": -0.1}, "temperature"),
        (CHAT, {"temperature": 10**400}, "temperature"),
        (CHAT, {"temperature": "1"}, "temperature"),
        (CHAT, {"top_p": -0.5}, "top_p"),
        (CHAT, {"max_tokens": 2.5}, "max_tokens"),
        (CHAT, {"max_tokens": 0}, "max_tokens"),
        (CHAT, {"seed": 1 << 63}, "seed"),
        (CHAT, {"stop": ["a"] * 65}, "stop"),
        (CHAT, {"stop": "\udc00"}, "stop"),
        (CHAT, {"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        (CHAT, {"top_logprobs": 2}, "top_logprobs"),
        (CHAT, {"logprobs": 2}, "logprobs"),
        (CHAT, {"stream_options": {"include_usage": True}}, "stream_options"),
        (CHAT, {"best_of": 2}, "best_of"),
        (CHAT, {"continue_final_message": True}, "messages"),
        (CHAT, {"chat_template_kwargs": {"messages": []}}, "messages"),
        (CHAT, {"messages": [{"role": "user", "content": "x", "reasoning": "y"}]}, "messages[0]"),
        (CHAT, {"repetition_penalty": 0}, "repetition_penalty"),
        *[(CHAT, {name: 1}, name) for name in ("logit_bias", "tools", "response_format", "tempo")],
        (CHAT, {"frequency_penalty": 3}, "frequency_penalty"),
        *[(COMPLETE, {"prompt": value}, "prompt") for value in (1, [], [[]], ["a", 1], [1.5], [True], [400], [-1])],
        (COMPLETE, {"prompt": "x", "suffix": "y"}, "suffix"),
        (COMPLETE, {"prompt": "x", "best_of": 2}, "best_of"),
        (COMPLETE, {"prompt": "\ud800"}, "prompt"),
        (COMPLETE, {"prompt": "x", "logprobs": True}, "logprobs"),
    ],
)
def test_mistakes_are_named(server: Server, path: str, change: dict[str, Any], param: str) -> None:
    """A field that is wrong, or unknown and of consequence, is refused by its name."""
    body = change if path == COMPLETE else asking("x") | change
    response = server.post(path, content=json.dumps(body), headers={"content-type": "application/json"})
    assert refusal(response)["param"] == param
    assert response.status_code == 400


CHANGES_NOTHING: dict[str, tuple[Any, ...]] = {
    **{name: (None, *values) for name, values in NEUTRAL.items()},
    **{name: (None, "x", {}) for name in HARMLESS},
    "max_tokens": (4.0,),
    "max_completion_tokens": (None, 4.0),
    "n": (None, 1.0),
    "best_of": (1,),
    "seed": (None, 7),
    "stop": (None, "", [], [""]),
    "stream": (None, False),
    "stream_options": (None, {}, {"include_usage": False}),
    "top_p": (None, 0, 1),
    "top_k": (None, -1, 0, 50.0),
    "min_p": (None, 0),
    "repetition_penalty": (None, 1),
    "logprobs": (None, False),
    "top_logprobs": (None, 0),
    "reasoning_effort": (None, "none", "low", "xhigh"),
    "chat_template_kwargs": (None, {}, {"enable_thinking": False}),
}


def test_fields_that_change_nothing_are_passed_over(server: Server) -> None:
    """Null, neutral values and fields for bookkeeping are accepted, and the answer is the one without them."""
    asked = asking("今天", max_tokens=4)
    expected = server.post(CHAT, asked).json()["choices"]
    for name, values in CHANGES_NOTHING.items():
        for value in values:
            answer = server.post(CHAT, asked | {name: value})
            assert answer.status_code == 200, (name, value, answer.text)
            assert answer.json()["choices"] == expected, (name, value)


def test_completions_pass_over_what_changes_nothing(server: Server) -> None:
    """They have the same neutral fields, and some of their own."""
    asked = {"prompt": "今天", "temperature": 0, "max_tokens": 4}
    expected = server.post(COMPLETE, asked).json()["choices"]
    for more in ({"logprobs": False}, {"suffix": ""}, {"echo": False}, {"best_of": 1}, {"max_tokens": 4.0}):
        assert server.post(COMPLETE, asked | more).json()["choices"] == expected, more
    many = server.post(COMPLETE, asked | {"n": 2, "best_of": 2}).json()["choices"]
    assert [choice["text"] for choice in many] == [expected[0]["text"]] * 2


def test_a_limit_of_minus_one_is_none(server: Server) -> None:
    """An answer then goes on to the end of the context."""
    for path, body in ((CHAT, asking("x", max_tokens=-1)), (COMPLETE, {"prompt": "x", "max_tokens": -1})):
        answer = server.post(path, body | {"temperature": 0}).json()
        assert answer["choices"][0]["finish_reason"] == "stop" or answer["usage"]["total_tokens"] == 256


def test_messages_that_come_back_are_read(server: Server) -> None:
    """Names, nulls and empty lists in messages change nothing; an answer without words is an empty one."""
    said = [("developer", "z"), ("user", "x"), ("assistant", ""), ("user", "y")]
    plain = [{"role": role, "content": content} for role, content in said]
    full = [
        {"role": "developer", "content": "z", "name": "boss"},
        {"role": "user", "content": [{"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}]},
        {"role": "assistant", "content": None, "refusal": None, "tool_calls": [], "annotations": [], "audio": None}
        | {"reasoning_content": "", "function_call": None},
        {"role": "user", "content": "y", "name": "me", "reasoning_content": None},
    ]
    asked = {"temperature": 0, "max_tokens": 5}
    answers = [server.post(CHAT, asked | {"messages": messages}).json()["choices"] for messages in (plain, full)]
    assert answers[0] == answers[1]


def test_wrong_addresses_methods_types_and_bodies(server: Server) -> None:
    """Each has its status, in the API's form."""
    kind = {"content-type": "application/json"}
    for response, status in (
        (server.get("/v1/nothing"), 404),
        (server.get("/v1/models/other"), 404),
        (server.get(CHAT), 405),
        (server.post("/v1/models"), 405),
        (server.post(CHAT, asking("x", model="gpt-5")), 404),
        (server.post("/v1/feedback", {}), 404),
        (server.post(CHAT, content=b"{}", headers={"content-type": "text/plain"}), 415),
        (server.post(CHAT, content=b" " * ((1 << 20) + 1), headers=kind), 413),
        (server.post(CHAT, content=iter([b" " * (1 << 19)] * 3), headers=kind), 413),
        *(
            (server.post(CHAT, content=body, headers=kind), 400)
            for body in (b"", b"{", b"\xff", b"[" * 100_000, b'{"n": NaN}', b'{"n": ' + b"9" * 5000 + b"}", b"null")
        ),
    ):
        assert refusal(response) and response.status_code == status, response.text
    assert server.get("/health").json() == {"status": "ok", "model": NAME}


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": "龘" * 100_000},
        {"prompt": " the" * 100_000},
        {"prompt": [5] * 100_000},
        {"prompt": ["x", " the" * 256]},
        asking("今天" * 100_000),
        asking("今天" * 200),
    ],
)
def test_prompts_beyond_the_context(server: Server, body: dict[str, Any]) -> None:
    """A prompt that leaves no room is refused with the code that clients know, however long it is."""
    error = refusal(server.post(COMPLETE if "prompt" in body else CHAT, body))
    assert error["code"] == "context_length_exceeded"
    # litellm, langchain and others look for these words.
    assert "this model's maximum context length is 256 tokens" in error["message"]
    assert "prompt is too long" in error["message"] and "context_length_exceeded" in error["message"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
FIELDS = (
    *("model", "messages", "prompt", "n", "stop", "max_tokens", "temperature", "top_p", "top_k", "min_p", "seed"),
    *("repetition_penalty", "logprobs", "top_logprobs", "stream", "stream_options", "echo", "user", "suffix"),
)
SOME = st.sampled_from([0, 1, 2, 4, 1.5, 1e-300, True, "x", "", ["x"], [1, 2], {}, {"include_usage": True}, NAME])
MESSAGES = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "system", "assistant"]), "content": st.text() | JSON})
)


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    path=st.sampled_from([CHAT, COMPLETE, "/v1/feedback"]),
    body=st.dictionaries(st.sampled_from(FIELDS), SOME | JSON, max_size=5) | JSON,
    messages=st.none() | MESSAGES,
    prompt=st.none() | st.text(st.characters()) | st.lists(st.integers(0, 399)),
)
def test_nonsense_is_answered(
    server: Server, path: str, body: Any, messages: list[Any] | None, prompt: str | list[int] | None
) -> None:
    """Whatever is sent as JSON, the answer comes, and is not a failure of the server."""
    if isinstance(body, dict):
        body = {"max_tokens": 3} | body
        body |= {} if messages is None else {"messages": messages}
        body |= {} if prompt is None else {"prompt": prompt}
    response = server.post(path, content=json.dumps(body), headers={"content-type": "application/json"})
    if response.status_code != 200:
        refusal(response)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300))
def test_bytes_that_are_no_request(server: Server, content: bytes) -> None:
    """Bytes of any kind on the socket or in a body end in a refusal or a closed connection, never in a failure."""
    kind = {"content-type": "application/json"}
    refusal(server.post(CHAT, content=content, headers=kind))
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S) as client:
        client.sendall(content + b"\r\n\r\n")
        client.shutdown(socket.SHUT_WR)
        answer = client.recv(1000)
    assert not answer or answer.startswith(b"HTTP/1.1 4")
