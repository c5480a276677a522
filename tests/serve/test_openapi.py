"""The description of the API: the OpenAPI document and its page."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from model_fixtures import Tiny
from serve_fixtures import CHAT, COMPLETE, Server, load_of, serving, talkative

from babyllm.serve.api.chat.chat_body import ChatCompletionBody
from babyllm.serve.api.completions.completion_body import CompletionBody
from babyllm.serve.api.feedback.feedback_body import FeedbackBody
from babyllm.tokenizer import Tokenizer

BODIES = {CHAT: ChatCompletionBody, COMPLETE: CompletionBody, "/v1/feedback": FeedbackBody}


@pytest.fixture(scope="module")
def document(server: Server) -> dict[str, Any]:
    described: dict[str, Any] = server.get("/openapi.json").json()
    return described


def references(value: Any) -> Iterator[str]:
    """All `$ref` of a document."""
    if isinstance(value, dict):
        yield from ([value["$ref"]] if "$ref" in value else [])
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from references(item)


def test_the_document_describes_every_endpoint(document: dict[str, Any]) -> None:
    """Paths and methods are those that the server answers, and bodies have the fields that it reads."""
    operations = {(path, method) for path, known in document["paths"].items() for method in known}
    assert {(path, "post") for path in BODIES} <= operations
    for path in ("/", "/health", "/metrics", "/v1/models", "/v1/models/{name}", "/openapi.json", "/docs"):
        assert (path, "get") in operations
    schemas = document["components"]["schemas"]
    assert {reference.removeprefix("#/components/schemas/") for reference in references(document)} <= schemas.keys()
    for path, body in BODIES.items():
        content = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
        schema = schemas[content["$ref"].rpartition("/")[2]]
        assert schema["properties"].keys() == body.model_fields.keys() and schema["additionalProperties"] is False


def test_every_described_address_is_there(server: Server, document: dict[str, Any]) -> None:
    """No path of the document is unknown to the server."""
    for path, operations in document["paths"].items():
        for method in operations:
            response = server.http.request(method, server.url + path.replace("{name}", "tiny"), json={})
            is_there = method == "get" and "responses" not in path
            assert response.status_code in ({200} if is_there else {400, 404}), path
            assert "Not Found" not in response.text


def test_the_page_names_every_field_and_needs_no_network(server: Server) -> None:
    """It is plain HTML without scripts and without addresses of others."""
    response = server.get("/docs")
    assert response.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in response.headers["content-security-policy"]
    for path, body in BODIES.items():
        assert f"POST {path}<" in response.text
        assert all(f"<td>{name}</td>" in response.text for name in body.model_fields)
    assert not re.search(r"<script|<link|src=|https?://", response.text)


def test_the_description_needs_no_key(tiny: Tiny, tokenizer: Tokenizer) -> None:
    """A browser, which cannot send the key, is shown how to use the API."""
    with serving(load_of(talkative(tiny(n_layers=1)), tokenizer, None), api_key="sesame") as server:
        assert [server.get(path).status_code for path in ("/docs", "/openapi.json", "/v1/models")] == [200, 200, 401]
