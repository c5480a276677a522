"""The names by which clients call a model."""

from dataclasses import replace
from typing import Any

from serve_fixtures import CHAT, NAME, asking, served, serving

from babyllm.chat.load import ChatTemplate
from babyllm.model.transformer import Transformer


def load_with(model: Transformer, template: ChatTemplate, *aliases: str) -> Any:
    described = replace(served(template.tokenizer, model.config, template), aliases=aliases)
    return lambda: (model, described)


def test_aliases_stand_for_the_model(model: Transformer, template: ChatTemplate) -> None:
    """They are listed with the model that they stand for, and answers carry its own name."""
    with serving(load_with(model, template, "gpt-4o", "vendor/other")) as server:
        listed = server.get("/v1/models").json()["data"]
        assert [(one["id"], one["root"]) for one in listed] == [
            (NAME, NAME),
            ("gpt-4o", NAME),
            ("vendor/other", NAME),
        ]
        assert all(one["max_model_len"] == 256 and one["parent"] is None for one in listed)
        with server.openai() as client:
            answer = client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "x"}])
            assert answer.model == NAME and client.models.retrieve("vendor/other").id == "vendor/other"
        refused = server.post(CHAT, asking("x", model="gpt-5"))
        assert refused.status_code == 404 and NAME in refused.json()["error"]["message"]


def test_any_name_can_be_accepted(model: Transformer, template: ChatTemplate) -> None:
    """A star stands for all names and is not listed."""
    with serving(load_with(model, template, "*")) as server:
        assert server.post(CHAT, asking("x", model="whatever")).status_code == 200
        assert server.get("/v1/models/whatever").json()["root"] == NAME
        assert [one["id"] for one in server.get("/v1/models").json()["data"]] == [NAME]
