"""Embeddings over the API: pooled hidden states of the served model."""

import base64
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from model_fixtures import Tiny
from serve_fixtures import CHAT, NAME, PATIENCE_S, Server, asking, load_of, serving, talkative, until

from babyllm.chat.load import ChatTemplate
from babyllm.model.transformer import Transformer
from babyllm.tokenizer import Tokenizer

EMBED = "/v1/embeddings"
TEXTS = ["今天", "the model", "今天天气很好 " * 9, "龘"]


def hidden(model: Transformer, ids: list[int]) -> torch.Tensor:
    """(T, D) last hidden states of a row that is read alone."""
    with torch.no_grad():
        return model(torch.tensor([ids]), returns=("hidden",))["hidden"][0]  # type: ignore[no-any-return]


@pytest.mark.parametrize("pooling", ["mean", "last", "max"])
def test_vectors_are_pooled_hidden_states(
    server: Server, model: Transformer, tokenizer: Tokenizer, pooling: str
) -> None:
    """Texts and ids of any lengths, read together, have the vectors that each has alone; <eos> is not pooled."""
    rows = [[tokenizer.begin_id, *tokenizer.encode(text)] for text in TEXTS]
    states = [hidden(model, ids)[1:] for ids in rows]
    expected = [{"mean": s.mean(0), "last": s[-1], "max": s.amax(0)}[pooling] for s in states]
    body = {"input": TEXTS, "pooling": pooling, "normalize": False}
    answer = server.post(EMBED, body).json()
    found = torch.tensor([one["embedding"] for one in answer["data"]])
    torch.testing.assert_close(found, torch.stack(expected), atol=1e-5, rtol=1e-4)
    assert [one["index"] for one in answer["data"]] == [0, 1, 2, 3] and answer["model"] == NAME
    assert answer["usage"] == {"prompt_tokens": sum(map(len, rows)), "total_tokens": sum(map(len, rows))}
    ids = rows[0][1:]
    by_id = server.post(EMBED, body | {"input": ids}).json()["data"][0]["embedding"]
    whole = hidden(model, ids)
    expected_by_id = {"mean": whole.mean(0), "last": whole[-1], "max": whole.amax(0)}[pooling]
    torch.testing.assert_close(torch.tensor(by_id), expected_by_id, atol=1e-5, rtol=1e-4)


def test_the_official_client_embeds(server: Server) -> None:
    """It asks for base64 by itself; the numbers are those of the other form, and vectors have length 1."""
    with server.openai() as client:
        packed = client.embeddings.create(model=NAME, input=TEXTS)
        plain = client.embeddings.create(model=NAME, input=TEXTS, encoding_format="float", dimensions=32)
    vectors = np.array([one.embedding for one in plain.data])
    np.testing.assert_array_equal(np.array([one.embedding for one in packed.data], np.float32), vectors)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    raw = server.post(EMBED, {"input": "今天", "encoding_format": "base64"}).json()["data"][0]["embedding"]
    np.testing.assert_allclose(np.frombuffer(base64.b64decode(raw), "<f4"), vectors[0], atol=1e-5)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": ["x", ""]}, "input"),
        ({"input": ["x"] * 2049}, "input"),
        ({"input": "龘" * 300}, "input"),
        ({"input": [400]}, "input"),
        ({"input": "x", "dimensions": 8}, "dimensions"),
        ({"input": "x", "pooling": "cls"}, "pooling"),
        ({"input": "x", "encoding_format": "int8"}, "encoding_format"),
        ({"input": "x", "model": "other"}, "model"),
    ],
)
def test_what_cannot_be_embedded(server: Server, body: dict[str, Any], param: str) -> None:
    """Empty, long and foreign input is refused by name."""
    refused = server.post(EMBED, body)
    assert refused.status_code in (400, 404) and refused.json()["error"]["param"] == param


def test_a_client_that_leaves_is_forgotten(tiny: Tiny, template: ChatTemplate) -> None:
    """Texts that are still waiting are not read, and their place in the queue is free again."""
    model = talkative(tiny(max_seq_len=256, n_layers=8))
    with serving(load_of(model, template.tokenizer, template), slots=1, queue=0) as server:
        body = json.dumps({"input": [[5] * 256] * 300})
        with pytest.raises(httpx.ReadTimeout):
            server.post(EMBED, content=body, headers={"content-type": "application/json"}, timeout=0.3)
        for _ in range(int(PATIENCE_S * 20)):
            answer = server.post(EMBED, {"input": "x"}, timeout=PATIENCE_S)
            if answer.status_code == 200:
                break
            assert answer.status_code == 429
        assert answer.status_code == 200
        assert server.number(f'babyllm_requests_total{{path="{EMBED}",status="499"}}') == 1


def test_answers_go_on_while_texts_are_embedded(tiny: Tiny, template: ChatTemplate) -> None:
    """Half of the time is theirs: an answer comes before many texts that were sent first are read."""
    model = talkative(tiny(max_seq_len=256, n_layers=8))
    with serving(load_of(model, template.tokenizer, template)) as server, ThreadPoolExecutor(1) as pool:
        texts = pool.submit(server.post, EMBED, {"input": [[5] * 256] * 100})
        until(lambda: server.number("babyllm_prompt_tokens_total") >= 25_600, "the texts are being read")
        assert server.post(CHAT, asking("今天")).status_code == 200
        assert not texts.done()
        assert texts.result().status_code == 200
