"""The server over real sockets: answers as the model writes them, clients that come, go, wait, and send nonsense."""

import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch
from model_fixtures import Tiny, chain
from serve_fixtures import (
    CHAT,
    COMPLETE,
    NAME,
    PATIENCE_S,
    Server,
    asking,
    load_of,
    saved_events,
    serving,
)

from babyllm.chat.load import ChatTemplate
from babyllm.chat.messages import USER, Message
from babyllm.generation import Sampling, generate_ids, text_pieces
from babyllm.model.transformer import Transformer
from babyllm.tokenizer import Tokenizer

ROOT = Path(__file__).resolve().parents[2]
RUNNING, WAITING = "babyllm_answers_running", "babyllm_answers_waiting"


@pytest.fixture(scope="module")
def endless(tiny: Tiny, template: ChatTemplate) -> Iterator[Server]:
    """A model that says one character, spelled in three tokens, for seconds; two slots, and three may wait."""
    ids = template.tokenizer.encode("龘")
    assert len(ids) == 3
    model = chain(tiny(max_seq_len=6000, n_layers=1, tie_embeddings=False), ids)
    with serving(load_of(model, template.tokenizer, template), slots=2, queue=3) as server:
        yield server


def alone(model: Transformer, template: ChatTemplate, text: str, n: int = 12) -> tuple[str, int]:
    """The greedy answer to a message and its tokens, by the model itself."""
    prompt = template.prompt([Message(USER, text)])
    ids = list(generate_ids(model, prompt, Sampling(max_new_tokens=n, temperature=0), template.end_ids))
    return "".join(text_pieces(template.tokenizer, ids)), len(ids)


# ---- what clients get


@pytest.mark.parametrize("text", ["今天", "the model", "\x00\u2028😀", "<|im_end|>", "e\u0301龘"])
def test_the_official_client_chats(server: Server, model: Transformer, template: ChatTemplate, text: str) -> None:
    """Whole and streamed, with content as text and as parts, an answer is the one the model writes, and is counted."""
    expected, n_tokens = alone(model, template, text)
    n_prompt = len(template.prompt([Message(USER, text)]))
    with server.openai() as client:
        asked: dict[str, Any] = {"model": NAME, "temperature": 0, "max_completion_tokens": 12}
        parts = [{"type": "text", "text": part} for part in (text[:1], text[1:])]
        whole = client.chat.completions.create(messages=[{"role": "user", "content": parts}], **asked)  # type: ignore[call-overload]
        assert (whole.choices[0].message.content, whole.usage.prompt_tokens) == (expected, n_prompt)
        assert whole.usage.completion_tokens == n_tokens and whole.usage.total_tokens == n_tokens + n_prompt
        stream = client.chat.completions.create(
            messages=[{"role": "user", "content": text}], stream=True, stream_options={"include_usage": True}, **asked
        )
        chunks = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant" and chunks[-1].choices == []
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == expected
    assert chunks[-1].usage.total_tokens == whole.usage.total_tokens
    assert chunks[-1].usage.completion_tokens == n_tokens
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert len({chunk.id for chunk in chunks}) == 1


def test_completions_tell_the_probabilities_of_the_prompt_and_the_answer(
    server: Server, model: Transformer, tokenizer: Tokenizer
) -> None:
    """With echo and logprobs every token has the log-probability of the plain forward pass, and its place."""
    prompt = "今天 the model 龘" * 9
    with server.openai() as client:
        answer = client.completions.create(
            model=NAME, prompt=prompt, max_tokens=5, temperature=0, logprobs=2, echo=True
        )
        alone = client.completions.create(model=NAME, prompt=prompt, max_tokens=0, logprobs=0, echo=True)
        stream = client.completions.create(
            model=NAME, prompt=prompt, max_tokens=5, temperature=0, logprobs=2, echo=True, stream=True
        )
        pieces = [chunk.choices[0] for chunk in stream]
    ids = tokenizer.encode(prompt)
    ids += generate_ids(model, [tokenizer.eos_id, *ids], Sampling(max_new_tokens=5, temperature=0), (tokenizer.eos_id,))
    expected = model.logits(torch.tensor([[tokenizer.eos_id, *ids]]))[0].log_softmax(-1)
    found, choice = answer.choices[0].logprobs, answer.choices[0]
    assert choice.text == tokenizer.decode(ids) and choice.text.startswith(prompt)
    assert found and found.token_logprobs and found.top_logprobs and found.text_offset and found.tokens
    own = expected[torch.arange(len(ids)), torch.tensor(ids)]
    torch.testing.assert_close(torch.tensor(found.token_logprobs), own, atol=1e-4, rtol=1e-4)
    best = [max(top.values()) for top in found.top_logprobs]
    torch.testing.assert_close(torch.tensor(best), expected[:-1].amax(-1), atol=1e-4, rtol=1e-4)
    assert all(2 <= len(top) <= 3 for top in found.top_logprobs)
    for token, offset in zip(found.tokens, found.text_offset, strict=True):
        assert token.startswith("bytes:\\x") or choice.text.startswith(token, offset)
    rest = alone.choices[0]
    assert rest.text == prompt and rest.finish_reason == "length" and rest.logprobs
    assert rest.logprobs.tokens == found.tokens[:-5]
    assert "".join(piece.text for piece in pieces) == choice.text
    assert [token for piece in pieces if piece.logprobs for token in piece.logprobs.tokens or []] == found.tokens


def test_many_prompts_and_several_answers(server: Server, model: Transformer, tokenizer: Tokenizer) -> None:
    """Prompts as texts or ids have their own choices in order; answers drawn with one seed differ and come again."""
    prompts = ["今天", "the model", ""]
    ids = [[tokenizer.eos_id, *tokenizer.encode(prompt)] for prompt in prompts]
    new = [list(generate_ids(model, p, Sampling(max_new_tokens=16, temperature=0), (tokenizer.eos_id,))) for p in ids]
    texts = ["".join(text_pieces(tokenizer, answer)) for answer in new]
    with server.openai() as client:
        by_text = client.completions.create(model=NAME, prompt=prompts, temperature=0)
        by_id = client.completions.create(model=NAME, prompt=ids, temperature=0)
        seeded = [client.completions.create(model=NAME, prompt=prompts, n=3, seed=7, max_tokens=8) for _ in range(2)]
        first = client.completions.create(model=NAME, prompt=prompts[1], seed=7, max_tokens=8)
    assert [choice.text for choice in by_text.choices] == [choice.text for choice in by_id.choices] == texts
    assert by_text.usage and by_text.usage.prompt_tokens == sum(map(len, ids))
    drawn = [[choice.text for choice in answer.choices] for answer in seeded]
    assert drawn[0] == drawn[1] and len(set(drawn[0][:3])) == 3
    assert first.choices[0].text == drawn[0][3]


def test_probabilities_in_a_chat(server: Server, model: Transformer, template: ChatTemplate) -> None:
    """Each token is returned with its bytes and the best alternatives; put together, the bytes are the text."""
    body = asking("今天", logprobs=True, top_logprobs=3)
    choice = server.post(CHAT, body).json()["choices"][0]
    content = choice["logprobs"]["content"]
    raw = b"".join(bytes(token["bytes"]) for token in content)
    assert raw.decode(errors="replace") == choice["message"]["content"]
    for token in content:
        tops = [top["logprob"] for top in token["top_logprobs"]]
        assert len(tops) == 3 and tops == sorted(tops, reverse=True) and token["logprob"] == tops[0]
    streamed = [json.loads(event) for event in saved_events(server.post(CHAT, body | {"stream": True}))[:-1]]
    found = [token for event in streamed if (told := event["choices"][0]["logprobs"]) for token in told["content"]]
    assert found == content
    bare = server.post(CHAT, asking("今天", logprobs=True)).json()["choices"][0]["logprobs"]["content"]
    assert [token["logprob"] for token in bare] == [token["logprob"] for token in content]
    assert all(token["top_logprobs"] == [] for token in bare)


def test_answers_end_at_stop_strings_end_tokens_and_limits(tiny: Tiny, template: ChatTemplate) -> None:
    """What ends an answer is not part of it, nor are its tokens, and the reason is reported."""
    tokenizer = template.tokenizer
    ids = [*tokenizer.encode("今天气很好"), tokenizer.special["<|im_end|>"]]
    model = chain(tiny(max_seq_len=100, tie_embeddings=False), ids)
    with serving(load_of(model, tokenizer, template)) as server:
        for more, text, reason in (
            ({}, "今天气很好", "stop"),
            ({"stop": "很好"}, "今天气", "stop"),
            ({"stop": ["好", "气很", "什么"]}, "今天", "stop"),
            ({"stop": "好了"}, "今天气很好", "stop"),
            ({"stop": [*(f"{i}" for i in range(63)), "很好"]}, "今天气", "stop"),
            ({"max_tokens": len(tokenizer.encode("今天"))}, "今天", "length"),
            ({"max_tokens": 10**9}, "今天气很好", "stop"),
        ):
            body = asking("x", logprobs=True) | more
            choice = server.post(CHAT, body).json()["choices"][0]
            assert (choice["message"]["content"], choice["finish_reason"]) == (text, reason), more
            assert b"".join(bytes(token["bytes"]) for token in choice["logprobs"]["content"]).decode() == text
            events = saved_events(server.post(CHAT, body | {"stream": True}))
            assert events.pop() == "[DONE]"
            parts = [json.loads(event)["choices"][0]["delta"].get("content", "") for event in events]
            assert "".join(parts) == text


def test_32_clients_get_what_they_get_alone(server: Server, model: Transformer, template: ChatTemplate) -> None:
    """Asked at once, streamed or not, with prompts of different lengths, everyone gets the answer that is theirs."""
    texts = [("今天天气很好 " * (i % 7)) + f"the model {i}" for i in range(32)]
    expected = [alone(model, template, text, 20)[0] for text in texts]

    def ask(i: int) -> str:
        with server.openai() as client:
            asked: dict[str, Any] = {"model": NAME, "temperature": 0, "max_tokens": 20}
            asked["messages"] = [{"role": "user", "content": texts[i]}]
            if i % 2:
                chunks = client.chat.completions.create(stream=True, **asked)
                return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
            return str(client.chat.completions.create(**asked).choices[0].message.content)

    with ThreadPoolExecutor(32) as pool:
        assert list(pool.map(ask, range(32))) == expected
    assert len(set(expected)) > 25


def test_streams_break_no_characters(endless: Server) -> None:
    """Each chunk of a stream holds whole characters."""
    events = saved_events(endless.post(CHAT, asking("x", max_tokens=31, stream=True)))
    texts = [json.loads(event)["choices"][0]["delta"].get("content", "") for event in events[:-1]]
    assert [text for text in texts if text] == ["龘"] * 10 + ["\ufffd"]


# ---- clients that go, wait, or may not come in


@contextmanager
def streaming(server: Server) -> Iterator[httpx.Response]:
    """A client in the middle of a long answer."""
    body = asking("x", max_tokens=5900, stream=True)
    with httpx.stream("POST", f"{server.url}{CHAT}", json=body, timeout=PATIENCE_S) as response:
        assert response.status_code == 200
        pieces = response.iter_raw(16)  # which closes the connection when it is forgotten
        assert next(pieces)
        yield response


def waiting(server: Server, body: dict[str, Any]) -> socket.socket:
    """A client that has asked and waits; closing it makes it vanish."""
    content = json.dumps(body).encode()
    client = socket.create_connection(("127.0.0.1", server.port))
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    client.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
    return client


def test_vanished_clients_free_their_slots(endless: Server) -> None:
    """Whether in the middle of a stream, waiting for a whole answer or in the queue, who goes away leaves no work."""
    before = endless.number("babyllm_completion_tokens_total")
    with streaming(endless), waiting(endless, asking("x", max_tokens=5900)):
        endless.wait_for(RUNNING, 2)
        with waiting(endless, asking("x", max_tokens=5900)), waiting(endless, asking("x", n=2)):
            endless.wait_for(WAITING, 3)
        endless.wait_for(WAITING, 0)
        assert endless.number(RUNNING) == 2
    endless.wait_for(RUNNING, 0)
    assert endless.number("babyllm_completion_tokens_total") - before < 2 * 5900
    assert endless.number(f'babyllm_requests_total{{path="{CHAT}",status="499"}}') >= 3
    assert endless.post(CHAT, asking("x", max_tokens=3)).json()["choices"][0]["message"]["content"] == "龘"


def test_who_finds_the_queue_full_is_told_to_come_back(endless: Server) -> None:
    """Beyond slots and queue a request gets 429 with Retry-After; when others have gone there is room again."""
    with streaming(endless), streaming(endless):
        clients = [waiting(endless, asking("x", max_tokens=1)) for _ in range(3)]
        endless.wait_for(WAITING, 3)
        refused = endless.post(CHAT, asking("x"))
        assert refused.status_code == 429 and int(refused.headers["retry-after"]) > 0
        assert refused.json()["error"]["code"] == "queue_full"
        with endless.openai() as client, pytest.raises(openai.RateLimitError):
            client.completions.create(model=NAME, prompt="x")
    for client in clients:
        with client:
            assert client.recv(100).startswith(b"HTTP/1.1 200")
    assert endless.post(CHAT, asking("x", n=2, max_tokens=1)).status_code == 200
    more_than_ever = endless.post(COMPLETE, {"prompt": ["x"] * 6})
    assert more_than_ever.status_code == 400 and "never" in more_than_ever.json()["error"]["message"]


def test_a_key_opens_the_door(model: Transformer, tokenizer: Tokenizer) -> None:
    """With a key set, all but the page and the health asks for it."""
    with serving(load_of(model, tokenizer, None), api_key="sesame") as server:
        for headers in ({}, {"authorization": "Bearer sesam"}, {"authorization": "sesame"}, {"authorization": "ü"}):
            encoded = {name: value.encode() for name, value in headers.items()}
            for answer in (
                server.get("/v1/models", headers=encoded),
                server.get("/metrics", headers=encoded),
                server.post(COMPLETE, {"prompt": "x"}, headers=encoded),
            ):
                assert answer.status_code == 401 and answer.json()["error"]["code"] == "invalid_api_key"
        assert server.get("/health").status_code == 200
        with server.openai() as client:
            assert [known.id for known in client.models.list()] == [NAME]
            assert client.models.retrieve(NAME).object == "model"
            client.api_key = "open"
            with pytest.raises(openai.AuthenticationError):
                client.models.list()


@pytest.mark.parametrize(
    ("host", "status"),
    [
        *[(host, 200) for host in ("localhost", "LOCALHOST:8000", "127.0.0.1:1", "[::1]:8000", "[::1]")],
        *[
            (host, 403)
            for host in ("evil.com", "evil.com:8000", "127.0.0.1.evil.com", "localhost.evil.com", "", "[::2]")
        ],
    ],
)
def test_other_names_for_this_machine_are_refused(server: Server, host: str, status: int) -> None:
    """On a loopback address the Host header must be one of this machine's own, which stops DNS rebinding."""
    assert server.get("/health", headers={"host": host}).status_code == status
