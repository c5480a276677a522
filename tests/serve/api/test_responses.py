"""The endpoint /v1/responses, as the official client uses it."""

from typing import Any

import openai
import pytest
from serve_fixtures import CHAT, NAME, Server, asking

from babyllm.chat.messages import ASSISTANT, USER, Message
from babyllm.serve.api.problem import Problem
from babyllm.serve.api.responses.response_store import ResponseStore, StoredResponse

RESPOND = "/v1/responses"
ASKED: dict[str, Any] = {"model": NAME, "temperature": 0, "max_output_tokens": 12}


def chatted(server: Server, *messages: tuple[str, str]) -> str:
    """The answer of a chat with these messages."""
    said = [{"role": role, "content": content} for role, content in messages]
    return str(server.post(CHAT, asking("x") | {"messages": said}).json()["choices"][0]["message"]["content"])


def test_a_response_is_the_answer_of_a_chat(server: Server) -> None:
    """Input as a text or as items and instructions become messages; the counts are those of a chat."""
    expected = chatted(server, ("system", "be brief"), ("user", "今天"))
    chat = server.post(CHAT, asking("今天")).json()
    items: list[Any] = [
        {"role": "developer", "content": "be brief"},
        {
            "type": "message",
            "role": "user",
            "content": [{"type": "input_text", "text": "今"}, {"type": "input_text", "text": "天"}],
        },
    ]
    with server.openai() as client:
        by_text = client.responses.create(input="今天", instructions="be brief", **ASKED)
        by_items = client.responses.create(input=items, **ASKED)
        plain = client.responses.create(input="今天", metadata={"a": "b"}, **ASKED)
    assert by_text.output_text == by_items.output_text == expected
    assert plain.output_text == chat["choices"][0]["message"]["content"] and plain.metadata == {"a": "b"}
    assert plain.usage and plain.usage.input_tokens == chat["usage"]["prompt_tokens"]
    assert plain.usage.output_tokens == chat["usage"]["completion_tokens"]
    cut = chat["choices"][0]["finish_reason"] == "length"
    assert plain.status == ("incomplete" if cut else "completed")
    if cut:
        assert plain.incomplete_details and plain.incomplete_details.reason == "max_output_tokens"


def test_streamed_events_make_the_whole_response(server: Server) -> None:
    """Types, order and numbers are those that the client expects; its own accumulator ends with the same response."""
    with server.openai() as client:
        whole = client.responses.create(input="the model", **ASKED)
        events = list(client.responses.create(input="the model", stream=True, **ASKED))
        with client.responses.stream(input="the model", **ASKED) as stream:
            seen = list(stream)
    types = [event.type for event in events]
    assert types[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert types[-4:-1] == ["response.output_text.done", "response.content_part.done", "response.output_item.done"]
    assert set(types[4:-4]) == {"response.output_text.delta"} and len(types) > 10
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == whole.output_text
    final = events[-1]
    assert final.type == f"response.{whole.status}" and final.response.output_text == whole.output_text  # type: ignore[union-attr]
    for counted in (final.response.usage, whole.usage):  # type: ignore[union-attr]
        assert counted and counted.total_tokens == counted.input_tokens + counted.output_tokens
        assert counted.output_tokens == whole.usage.output_tokens  # type: ignore[union-attr]
    assert [event.type for event in seen] == types


def test_a_response_goes_on_with_an_earlier_one(server: Server) -> None:
    """The conversation is kept without its instructions, can be fetched, and is gone when it is deleted."""
    with server.openai() as client:
        first = client.responses.create(input="今天", instructions="be brief", **ASKED)
        second = client.responses.create(input="y", previous_response_id=first.id, **ASKED)
        expected = chatted(server, ("user", "今天"), ("assistant", first.output_text), ("user", "y"))
        assert second.output_text == expected and second.previous_response_id == first.id
        items: list[Any] = [{"role": "user", "content": "今天"}, *first.output, {"role": "user", "content": "y"}]
        assert client.responses.create(input=items, **ASKED).output_text == expected
        third = list(client.responses.create(input="z", previous_response_id=second.id, stream=True, **ASKED))[-1]
        assert client.responses.retrieve(third.response.id).output_text == third.response.output_text  # type: ignore[union-attr]
        client.responses.delete(first.id)
        unkept = client.responses.create(input="今天", store=False, **ASKED)
        for gone in (first.id, unkept.id, "resp_none"):
            with pytest.raises(openai.NotFoundError, match="is not kept here"):
                client.responses.create(input="y", previous_response_id=gone, **ASKED)
            with pytest.raises(openai.NotFoundError):
                client.responses.retrieve(gone)


def test_reasoning_is_an_item_of_its_own(thinker: Server) -> None:
    """Whole and streamed it precedes the message, and the template gets it back."""
    with thinker.openai() as client:
        whole = client.responses.create(input="x", **ASKED)
        events = list(client.responses.create(input="x", stream=True, **ASKED))
        again = client.responses.create(input="y", previous_response_id=whole.id, **ASKED)
        items: list[Any] = [{"role": "user", "content": "x"}, *whole.output, {"role": "user", "content": "y"}]
        by_items = client.responses.create(input=items, **ASKED)
    assert [item.type for item in whole.output] == ["reasoning", "message"]
    thought = whole.output[0]
    assert thought.type == "reasoning" and thought.content and thought.content[0].text == "今天"
    assert whole.output_text == "很好" and whole.usage and whole.usage.output_tokens_details.reasoning_tokens
    assert "".join(event.delta for event in events if event.type == "response.reasoning_text.delta") == "今天"
    assert [event.output_index for event in events if event.type == "response.output_item.done"] == [0, 1]
    assert again.usage and by_items.usage and again.usage.input_tokens == by_items.usage.input_tokens
    assert again.usage.input_tokens > whole.usage.input_tokens + 6


def test_probabilities_come_if_they_are_asked_for(server: Server) -> None:
    """Each token has its own and those of the alternatives."""
    with server.openai() as client:
        response = client.responses.create(
            input="今天", include=["message.output_text.logprobs"], top_logprobs=2, **ASKED
        )
    (item,) = response.output
    assert item.type == "message" and item.content[0].type == "output_text"
    logprobs = item.content[0].logprobs
    assert logprobs and len(logprobs) == response.usage.output_tokens  # type: ignore[union-attr]
    assert all(len(token.top_logprobs) == 2 for token in logprobs)
    chat = server.post(CHAT, asking("今天", logprobs=True)).json()["choices"][0]["logprobs"]["content"]
    assert [token.logprob for token in logprobs] == [token["logprob"] for token in chat]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "input"),
        ({"input": 5}, "input"),
        ({"input": []}, "input"),
        ({"input": [{"type": "image_generation_call"}]}, "input[0]"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0].type"),
        ({"input": [{"type": "reasoning", "content": []}]}, "input"),
        ({"input": "x", "truncation": "middle"}, "truncation"),
        ({"input": "x", "background": True}, "background"),
        ({"input": "x", "tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"input": "x", "text": {"format": {"type": "grammar"}}}, "text.format.type"),
        ({"input": "x", "top_logprobs": 2}, "top_logprobs"),
        ({"input": "x", "conversation": "conv_1"}, "conversation"),
        ({"input": "今天" * 200}, "input"),
        ({"input": "x", "max_output_tokens": 0}, "max_output_tokens"),
        ({"input": "x", "model": "gpt"}, "model"),
    ],
)
def test_what_is_no_request(server: Server, body: dict[str, Any], param: str) -> None:
    """What the server does not do is refused by name."""
    refused = server.post(RESPOND, body)
    assert refused.status_code in (400, 404) and refused.json()["error"]["param"] == param, refused.text


def test_what_was_asked_for_comes_back(server: Server) -> None:
    """The form of the text, the effort and the truncation of a request are in its response."""
    schema = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"]}
    named = {"type": "json_schema", "name": "n", "schema": schema, "strict": True, "description": "d"}
    for form in (named, {"type": "json_object"}, {"type": "text"}):
        body = {"input": "x", **ASKED, "text": {"format": form}, "reasoning": {"effort": "low"}, "truncation": "auto"}
        found = server.post(RESPOND, body).json()
        assert (found["text"], found["reasoning"]["effort"], found["truncation"]) == ({"format": form}, "low", "auto")
    plain = server.post(RESPOND, {"input": "x", **ASKED}).json()
    assert plain["text"] == {"format": {"type": "text"}} and plain["truncation"] == "disabled"


def test_what_a_response_answers_is_listed(server: Server) -> None:
    """The items of the whole conversation come in pages, the latest first unless asked otherwise."""
    call = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": '{"x":1}'}
    result = {"type": "function_call_output", "call_id": "c1", "output": "3"}
    with server.openai() as client:
        items: list[Any] = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, call, result]
        first = client.responses.create(input=items, instructions="be brief", **ASKED)
        second = client.responses.create(input="z", previous_response_id=first.id, **ASKED)
        pages = client.responses.input_items.list(second.id, limit=2, order="asc")
        listed = [item.to_dict() for item in pages]  # of all pages
        latest = client.responses.input_items.list(second.id).data[0].to_dict()
        with pytest.raises(openai.NotFoundError):
            client.responses.input_items.list("resp_none")
    kinds = ["message", "message", "function_call", "function_call_output", "message", "message"]
    assert [item["type"] for item in listed] == kinds and len({item["id"] for item in listed}) == 6
    assert listed[1]["content"][0] == {"type": "output_text", "text": "b", "annotations": []}  # type: ignore[index]
    assert call.items() <= listed[2].items() and result.items() <= listed[3].items()
    assert latest == listed[-1] and latest["content"] == [{"type": "input_text", "text": "z"}]
    for query, param in (("limit=0", "limit"), ("order=up", "order"), ("after=no", "after")):
        refused = server.get(f"{RESPOND}/{second.id}/input_items?{query}")
        assert refused.status_code == 400 and refused.json()["error"]["param"] == param


def test_the_tokens_of_a_prompt_are_counted(server: Server) -> None:
    """The count is that of the response, also beyond the context; nothing is written."""
    body = {"input": "今天", "instructions": "be brief"}
    counted = server.post(f"{RESPOND}/input_tokens", body).json()
    usage = server.post(RESPOND, body | ASKED).json()["usage"]
    assert counted == {"object": "response.input_tokens", "input_tokens": usage["input_tokens"]}
    long = server.post(f"{RESPOND}/input_tokens", {"input": "今天" * 200}).json()
    assert long["input_tokens"] > 256


def test_the_oldest_turns_are_left_out_if_that_is_asked_for(server: Server) -> None:
    """With truncation auto a conversation that is too long is answered from its latest turns, and is kept whole."""
    turns = [
        {"role": role, "content": text * 12}
        for text in ("今天", "天气", "很好", "the", "model", "reads")
        for role in ("user", "assistant")
    ]
    system, last = {"role": "system", "content": "be brief"}, {"role": "user", "content": "y"}
    long = {"input": [system, *turns, last], **ASKED}
    assert server.post(RESPOND, long).json()["error"]["code"] == "context_length_exceeded"
    auto = server.post(RESPOND, long | {"truncation": "auto"}).json()
    fewer = [server.post(RESPOND, long | {"input": [system, *turns[n:], last]}) for n in range(2, 12, 2)]
    fitting = next(answer.json() for answer in fewer if answer.status_code == 200)
    assert auto["usage"]["input_tokens"] == fitting["usage"]["input_tokens"] <= 256 - ASKED["max_output_tokens"]
    assert auto["output"][0]["content"] == fitting["output"][0]["content"]
    kept = server.get(f"{RESPOND}/{auto['id']}/input_items?limit=100").json()
    assert len(kept["data"]) == len(turns) + 2 and not kept["has_more"]
    alone = server.post(RESPOND, long | {"input": [system, {"role": "user", "content": "今天" * 200}]})
    assert alone.json()["error"]["code"] == "context_length_exceeded"


def test_fields_that_change_nothing(server: Server) -> None:
    """What clients send by default is accepted."""
    expected = server.post(RESPOND, {"input": "x", **ASKED}).json()["output"][0]["content"]
    for more in (
        {"tools": [], "tool_choice": "auto", "parallel_tool_calls": True},
        {"truncation": "disabled", "background": False, "service_tier": "auto", "user": "me"},
        {"text": {"format": {"type": "text"}, "verbosity": "low"}},
        {"text": {}, "reasoning": {"effort": None, "summary": "auto"}, "include": ["reasoning.encrypted_content"]},
        {"stream_options": {"include_obfuscation": False}, "prompt_cache_key": "x", "max_tool_calls": 3},
    ):
        assert server.post(RESPOND, {"input": "x", **ASKED, **more}).json()["output"][0]["content"] == expected, more


def test_the_store_is_bounded() -> None:
    """Beyond its number or size the oldest responses are forgotten."""
    store = ResponseStore(max_responses=3, max_characters=100)

    def kept() -> str:
        found = ""
        for name in "abcdefg":
            try:
                found += store.find(name).id
            except Problem as problem:
                assert problem.status == 404
        return found

    for name in "abcd":
        store.add(StoredResponse(name, b"1234", (Message(USER, "x"), Message(ASSISTANT, "y"))))
    assert kept() == "bcd"
    store.add(StoredResponse("e", b"", (Message(USER, "x" * 90),)))
    assert kept() == "de"
    store.remove("e")
    store.add(StoredResponse("f", b"", (Message(USER, "x" * 90),)))
    assert kept() == "df"
    store.add(StoredResponse("g", b"", (Message(USER, "x" * 101),)))
    assert kept() == ""
