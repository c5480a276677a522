"""Constrained answers, penalties and biases through the server."""

import json
from enum import Enum

import pytest
from pydantic import BaseModel, Field
from serve_fixtures import CHAT, COMPLETE, Server, load_of, serving

from babyllm.chat.load import load_template
from babyllm.model.transformer import Transformer
from babyllm.tokenizer import Tokenizer

ASK = {"messages": [{"role": "user", "content": "一"}], "temperature": 1.5, "seed": 1}
SCHEMA = {
    "type": "object",
    "properties": {"名字": {"type": "string", "maxLength": 5}, "n": {"enum": [1, 22]}},
    "required": ["名字", "n"],
    "additionalProperties": False,
}


class Colour(str, Enum):
    red = "红"
    green = "绿"


class Thing(BaseModel):
    name: str = Field(max_length=4)
    colours: list[Colour] = Field(max_length=2)


def test_the_official_client_parses_an_answer(server: Server) -> None:
    """`parse()` of the official client returns an object of its class."""
    with server.openai() as client:
        found = client.chat.completions.parse(
            model="tiny", messages=[{"role": "user", "content": "一"}], response_format=Thing, seed=1, temperature=1.5
        )
    assert isinstance(found.choices[0].message.parsed, Thing)


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": SCHEMA}}},
        {"structured_outputs": {"json": SCHEMA}},
        {"guided_json": SCHEMA},
    ],
)
def test_answers_fit_the_schema(server: Server, fields: dict[str, object]) -> None:
    """The answer to each form of a schema fits it, and equal seeds have equal answers."""
    answer = server.post(CHAT, ASK | fields).json()["choices"][0]
    found = json.loads(answer["message"]["content"])
    assert answer["finish_reason"] == "stop"
    assert list(found) == ["名字", "n"] and len(found["名字"]) <= 5 and found["n"] in (1, 22)
    assert answer == server.post(CHAT, ASK | fields).json()["choices"][0]


def test_an_open_schema_adds_no_fields(server: Server, tokenizer: Tokenizer) -> None:
    """An object that lists its fields has no others, as pydantic's classes mean it; one that allows them may."""
    schema = Thing.model_json_schema()
    assert "additionalProperties" not in schema
    commas = [i for i in range(tokenizer.vocab_size) if tokenizer.token_bytes(i).startswith(b",")]
    ask = ASK | {"logit_bias": {str(i): 20 for i in commas}, "max_tokens": 150}
    for seed in range(5):
        wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        answer = server.post(CHAT, ask | {"response_format": wanted, "seed": seed}).json()["choices"][0]
        assert answer["finish_reason"] == "stop"
        found = json.loads(answer["message"]["content"])
        assert set(found) == {"name", "colours"} and Thing.model_validate(found)
    allowed = server.post(CHAT, ask | {"guided_json": schema | {"additionalProperties": {"const": 1}}}).json()
    assert allowed["choices"][0]["finish_reason"] == "length"


def test_the_blank_of_a_template_precedes_an_answer(model: Transformer, tokenizer: Tokenizer) -> None:
    """Where a template writes a blank before answers, a constrained answer has it too, and the client does not."""
    asked = ASK | {"guided_choice": ["是", " 是"], "logprobs": True}
    with serving(load_of(model, tokenizer, load_template("llama2", tokenizer))) as server:
        found = [server.post(CHAT, asked | {"seed": seed}).json()["choices"][0] for seed in range(12)]
    assert {one["message"]["content"] for one in found} == {"是", " 是"}
    assert {one["logprobs"]["content"][0]["token"][0] for one in found} == {" "}


def test_json_objects_are_objects_or_cut(server: Server) -> None:
    """json_object has an object, or ends with "length"."""
    answer = server.post(CHAT, ASK | {"response_format": {"type": "json_object"}, "max_tokens": 100}).json()["choices"][
        0
    ]
    text = answer["message"]["content"]
    assert isinstance(json.loads(text), dict) if answer["finish_reason"] == "stop" else text.lstrip()[0] == "{"


def test_completions_take_choices_expressions_and_grammars(server: Server) -> None:
    """vLLM's names constrain completions as well."""
    for fields, allowed in (
        ({"guided_choice": ["是", "不是"]}, {"是", "不是"}),
        ({"structured_outputs": {"choice": ["甲", "乙"]}}, {"甲", "乙"}),
        ({"guided_regex": "[ab]"}, {"a", "b"}),
        ({"guided_grammar": 'start: "x" | "y"'}, {"x", "y"}),
    ):
        answer = server.post(COMPLETE, {"prompt": "一", "seed": 3, **fields}).json()["choices"][0]
        assert answer["text"] in allowed and answer["finish_reason"] == "stop"


@pytest.mark.parametrize(
    "name, value",
    [
        ("response_format", {"type": "xml"}),
        ("response_format", {"type": "json_schema"}),
        ("response_format", {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "strng"}}}),
        ("response_format", {"type": "json_schema", "json_schema": {"name": "x", "schema": {"not": {}}}}),
        (
            "response_format",
            {"type": "json_schema", "json_schema": {"name": "x", "schema": {"enum": ["长" * 300_000]}}},
        ),
        ("response_format", 7),
        ("guided_regex", "(a"),
        ("guided_choice", []),
        ("guided_grammar", "start: nothing"),
        ("structured_outputs", {"structural_tag": "x"}),
        ("logit_bias", {"a": 1}),
        ("logit_bias", {"1": 101}),
        ("logit_bias", {"999999": 1}),
        ("frequency_penalty", 2.1),
    ],
)
def test_a_field_that_cannot_be_is_named(server: Server, name: str, value: object) -> None:
    """A constraint that cannot be met, a bias or a penalty out of range is refused with the name of the field."""
    answer = server.post(CHAT, ASK | {name: value})
    assert answer.status_code == 400
    assert name in answer.json()["error"]["message"]


def test_only_one_constraint_is_taken(server: Server) -> None:
    """Two constraints in one request are refused."""
    answer = server.post(CHAT, ASK | {"guided_regex": "a", "guided_choice": ["a"]})
    assert answer.status_code == 400 and "give one" in answer.json()["error"]["message"]


def test_a_bias_forces_and_forbids_tokens(server: Server, tokenizer: Tokenizer) -> None:
    """A large bias makes a token certain, and a frequency penalty is taken."""
    token = tokenizer.encode("龘")[0]
    body = {"prompt": "一", "seed": 3, "max_tokens": 4, "logit_bias": {str(token): 100}, "frequency_penalty": 1.5}
    assert server.post(COMPLETE, body).json()["usage"]["completion_tokens"] == 4
    assert server.post(COMPLETE, body | {"presence_penalty": 1}).status_code == 200
