"""How many tokens of a prompt were not read again."""

import json
from typing import Any

from serve_fixtures import CHAT, COMPLETE, Server, asking, saved_events

LONG = "今天天气很好 the model reads one token " * 4


def cached(answer: dict[str, Any]) -> int:
    return int(answer["usage"]["prompt_tokens_details"]["cached_tokens"])


def test_usage_has_the_tokens_that_were_not_read_again(server: Server) -> None:
    """In all forms; several answers to a prompt count it once, in /metrics each counts it."""
    assert cached(server.post(CHAT, asking("x")).json()) <= 8
    first = server.post(CHAT, asking(LONG)).json()
    before = {name: server.number(f"babyllm_prefix_cache_{name}_total") for name in ("queries", "hits")}
    said = [{"role": "assistant", "content": first["choices"][0]["message"]["content"]}]
    turn = asking(LONG)["messages"] + said + asking("and?")["messages"]
    again = server.post(CHAT, asking("x", messages=turn, n=3)).json()
    n_first = first["usage"]["prompt_tokens"]
    assert n_first - 32 < cached(again) < again["usage"]["prompt_tokens"]
    grown = {name: server.number(f"babyllm_prefix_cache_{name}_total") - value for name, value in before.items()}
    assert grown["queries"] == 3 * again["usage"]["prompt_tokens"] > grown["hits"] >= 3 * cached(again)
    body = asking("x", messages=turn, stream=True, stream_options={"include_usage": True})
    assert cached(json.loads(saved_events(server.post(CHAT, body))[-2])) >= cached(again)
    response = server.post("/v1/responses", {"input": turn, "max_output_tokens": 2}).json()
    assert response["usage"]["input_tokens_details"]["cached_tokens"] >= cached(again)
    assert cached(server.post(COMPLETE, {"prompt": ["x", LONG], "max_tokens": 1}).json()) < n_first
