"""Clients that are too slow: they get an error or are disconnected, and what they held is free for others."""

import json
import socket
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest
from model_fixtures import Tiny, chain
from serve_fixtures import COMPLETE, PATIENCE_S, Server, served, serving

from babyllm.serve import server
from babyllm.serve.http import body_reader, connection
from babyllm.tokenizer import Tokenizer

SOON_S = 0.8
LITTLE_BYTES = 4096
pytest.importorskip("uvicorn")


@pytest.fixture
def hasty(tiny: Tiny, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server without patience that lets little pile up, of a model that says one character again and again."""
    for module, name in (
        (body_reader, "BODY_TIMEOUT_S"),
        (connection, "HEAD_TIMEOUT_S"),
        (connection, "TAKE_TIMEOUT_S"),
    ):
        monkeypatch.setattr(module, name, SOON_S)
    monkeypatch.setattr(connection, "PENDING_BYTES", LITTLE_BYTES)
    monkeypatch.setattr(server, "KEEP_ALIVE_S", SOON_S)
    model = chain(tiny(max_seq_len=2000, n_layers=1, tie_embeddings=False), tokenizer.encode("龘"))
    with serving(lambda: (model, served(tokenizer, model.config)), slots=1) as running:
        yield running


def connected(to: Server) -> socket.socket:
    client = socket.socket()
    client.settimeout(PATIENCE_S)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, LITTLE_BYTES)  # counts only before the connection is made
    client.connect(("127.0.0.1", to.port))
    return client


def all_of(client: socket.socket) -> bytes:
    """What comes until the server closes."""
    data = b""
    while part := client.recv(65_536):
        data += part
    return data


def request(body: bytes, n_bytes: int | None = None) -> bytes:
    head = f"POST {COMPLETE} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body) if n_bytes is None else n_bytes}\r\n\r\n".encode() + body


def test_a_head_that_does_not_end_is_hung_up_on(hasty: Server) -> None:
    """Whoever says nothing, begins a request and stops, or does so after a whole one is not kept."""
    for content in (b"", b"POST /v1/comp", b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET /hea"):
        with connected(hasty) as client:
            client.sendall(content)
            data = all_of(client)
        assert data.startswith(b"HTTP/1.1 200") if b"\r\n\r\n" in content else not data
    assert hasty.get("/health").status_code == 200


def test_a_head_in_pieces_is_a_request(hasty: Server) -> None:
    """One that comes slowly but in time is answered, and the connection stays for the next one."""
    with connected(hasty) as client:
        for part in (
            b"GET /health HT",
            b"TP/1.1\r\nHost:",
            b" localhost\r\n\r\n",
            b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n",
        ):
            client.sendall(part)
            time.sleep(SOON_S / 8)
        assert all_of(client).count(b"HTTP/1.1 200") == 2


def test_a_body_that_does_not_come_is_told(hasty: Server) -> None:
    """A request whose body stays away gets 408 in the API's form."""
    with connected(hasty) as client:
        client.sendall(request(b'{"prompt"', 1000))
        head, _, body = all_of(client).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408")
    assert "slowly" in json.loads(body)["error"]["message"]


@pytest.mark.parametrize("is_stream", [True, False])
def test_an_answer_that_is_not_read_frees_its_slot(hasty: Server, is_stream: bool) -> None:
    """Who does not take the answer is hung up on, and the only slot serves the next one."""
    body = {"prompt": "x", "max_tokens": 1500, "temperature": 0, "logprobs": 5, "stream": is_stream}
    with connected(hasty) as client:
        client.sendall(request(json.dumps(body).encode()))
        if is_stream:  # an answer that is sent whole has been taken off the model's hands
            hasty.wait_for('babyllm_requests_total{path="/v1/completions",status="499"}', 1)
        else:
            hasty.wait_for('babyllm_requests_total{path="/v1/completions",status="200"}', 1)
            time.sleep(3 * SOON_S)
        hasty.wait_for("babyllm_answers_running", 0)
        assert hasty.post(COMPLETE, {"prompt": "x", "max_tokens": 2}).status_code == 200
        data = b""
        with suppress(ConnectionError):
            while part := client.recv(65_536):
                data += part
        assert len(data) < 100_000 and b"[DONE]" not in data
