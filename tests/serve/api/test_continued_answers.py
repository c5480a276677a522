"""Answers that continue a given beginning."""

import json
from typing import Any

import pytest
from serve_fixtures import CHAT, Server, asking, saved_events

from babyllm.chat.load import ChatTemplate
from babyllm.chat.messages import ASSISTANT, USER, Message
from babyllm.generation import Sampling, generate_ids, text_pieces
from babyllm.model.transformer import Transformer

ON = {"continue_final_message": True, "add_generation_prompt": False}


def begun(text: str, **message: Any) -> dict[str, Any]:
    said = {"role": "assistant", "content": text, **message}
    return {"messages": [{"role": "user", "content": "今天"}, said], "temperature": 0, "max_tokens": 8}


@pytest.mark.parametrize("text", ["", "the mod", "今天 ", "龘\n"])
@pytest.mark.parametrize("form", [ON, {"continue_final_message": True}, None])
def test_the_new_text_follows_the_given_one(
    server: Server, model: Transformer, template: ChatTemplate, text: str, form: dict[str, Any] | None
) -> None:
    """In each form of asking, whole and streamed, the model reads exactly the given text and no end token."""
    ids = [*template.prompt([Message(USER, "今天")]), *template.tokenizer.encode(text)]
    written = generate_ids(model, ids, Sampling(max_new_tokens=8, temperature=0), template.end_ids)
    expected = "".join(text_pieces(template.tokenizer, written))
    body = begun(text, prefix=True) if form is None else begun(text) | form
    whole = server.post(CHAT, body).json()
    assert whole["choices"][0]["message"]["content"] == expected
    assert whole["usage"]["prompt_tokens"] == len(ids)
    events = saved_events(server.post(CHAT, body | {"stream": True}))[:-1]
    assert "".join(json.loads(event)["choices"][0]["delta"].get("content", "") for event in events) == expected


def test_a_conversation_as_it_is(server: Server, model: Transformer, template: ChatTemplate) -> None:
    """Without the header of an answer, the model reads the messages alone, each with its end."""
    ids = template.transcript([Message(USER, "今天"), Message(ASSISTANT, "the")])
    written = generate_ids(model, ids, Sampling(max_new_tokens=8, temperature=0), template.end_ids)
    answer = server.post(CHAT, begun("the") | {"add_generation_prompt": False}).json()
    assert answer["choices"][0]["message"]["content"] == "".join(text_pieces(template.tokenizer, written))
    assert answer["usage"]["prompt_tokens"] == len(ids)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (begun("x") | ON | {"add_generation_prompt": True}, "add_generation_prompt"),
        (begun("x", prefix=True) | {"add_generation_prompt": True}, "add_generation_prompt"),
        (asking("x") | ON, "messages"),
        (asking("x", messages=[{"role": "user", "content": "x", "prefix": True}]), "messages[0]"),
        (
            asking(
                "x", messages=[{"role": "assistant", "content": "x", "prefix": True}, {"role": "user", "content": "y"}]
            ),
            "prefix",
        ),
    ],
)
def test_what_cannot_be_continued(server: Server, body: dict[str, Any], param: str) -> None:
    """A message of the user, an earlier answer, and contradictions are refused by name."""
    refused = server.post(CHAT, body)
    assert refused.status_code == 400 and refused.json()["error"]["param"] == param
