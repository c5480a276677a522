"""HTTP as clients and proxies speak it: many connections, streams through proxies, names of hosts, odd requests."""

import gzip
import json
import logging
import os
import socket
import time
from contextlib import ExitStack, closing

import httpx
import pytest
from model_fixtures import Tiny, chain
from serve_fixtures import (
    CHAT,
    COMPLETE,
    NAME,
    PATIENCE_S,
    Server,
    asking,
    chatml,
    load_of,
    saved_events,
    serving,
    talkative,
    until,
)

from babyllm.serve.api.generation import generation_response as api_response
from babyllm.serve.http import open_files
from babyllm.serve.http.notices import Notices
from babyllm.tokenizer import Tokenizer

resource = pytest.importorskip("resource")
HALF_A_HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: localh"
HALF_A_BODY = (
    b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{"
)
MOST = 12


def connected(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S)


def said(server: Server, content: bytes, is_half_closed: bool = False) -> bytes:
    """All that comes back until the server closes."""
    with connected(server) as client:
        client.sendall(content)
        if is_half_closed:
            client.shutdown(socket.SHUT_WR)
        data = b""
        while part := client.recv(65_536):
            data += part
        return data


# ---- connections


@pytest.mark.parametrize("content", [b"", HALF_A_HEAD, HALF_A_BODY])
def test_connections_that_ask_nothing_keep_nobody_out(
    content: bytes,
    tiny: Tiny,
    tokenizer: Tokenizer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Beyond the limit those that have waited longest for a request are closed, and the log has one line of it."""
    monkeypatch.setattr(open_files, "MAX_CONNECTIONS", MOST)
    with serving(load_of(talkative(tiny()), tokenizer, None), slots=1, queue=0) as server, ExitStack() as stack:
        idle = [stack.enter_context(closing(connected(server))) for _ in range(5 * MOST)]
        for client in idle:
            client.sendall(content)
        assert httpx.get(f"{server.url}/health").status_code == 200
        assert httpx.post(f"{server.url}{COMPLETE}", json={"prompt": "x", "max_tokens": 2}).status_code == 200
        n_open = 0
        for client in idle:
            client.settimeout(0.01)
            try:
                client.recv(1)
            except TimeoutError:
                n_open += 1
            except ConnectionError:
                pass
        assert MOST - 4 <= n_open <= MOST
    told = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert 1 <= len(told) <= 5 and f"more than {MOST} connections" in told[0].getMessage()


def test_connections_that_work_are_not_closed_for_others(
    tiny: Tiny, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stream goes on, however many connect meanwhile."""
    monkeypatch.setattr(open_files, "MAX_CONNECTIONS", MOST)
    model = chain(tiny(max_seq_len=800, n_layers=1, tie_embeddings=False), tokenizer.encode("今"))
    with serving(load_of(model, tokenizer, None)) as server, ExitStack() as stack:
        body = {"prompt": "x", "max_tokens": 700, "temperature": 0, "stream": True}
        with httpx.stream("POST", f"{server.url}{COMPLETE}", json=body, timeout=PATIENCE_S) as response:
            for _ in range(3 * MOST):
                stack.enter_context(closing(connected(server)))
            response.read()
        assert saved_events(response)[-1] == "[DONE]" and response.text.count("今") == 700


def test_files_that_cannot_be_opened_fill_no_log(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    """Connections that cannot be accepted wait until they can be, without tracebacks."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ExitStack() as stack:
        clients = [stack.enter_context(closing(socket.socket())) for _ in range(5)]
        free = os.dup(0)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
        try:
            for client in clients:
                client.settimeout(PATIENCE_S)
                client.connect(("127.0.0.1", server.port))
                client.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            until(lambda: bool(caplog.records), "a notice")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert all(client.recv(1000).startswith(b"HTTP/1.1 200") for client in clients)
    assert len(caplog.records) <= 3
    assert all("be accepted" in record.getMessage() and not record.exc_info for record in caplog.records)


def test_the_limit_of_open_files_is_raised() -> None:
    """As far as the system allows; what is left beside other files is for connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(300, hard), hard))
    try:
        assert 0 < open_files.max_connections() <= open_files.MAX_CONNECTIONS
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_second_has_one_notice(caplog: pytest.LogCaptureFixture) -> None:
    """What is left out is counted; what clients send cannot begin a new line."""
    now = 0.0
    notices = Notices(lambda: now)
    for now, line in ((0.0, "a\nb"), (0.5, "c"), (0.9, "d"), (1.0, "e" * 1000)):  # noqa: B007  # read by the clock
        notices.log(line)
    first, second = (record.getMessage() for record in caplog.records)
    assert "a?b" in first and second.endswith("e (and 2 notices before it)") and len(second) < 400


def test_refused_requests_are_told_in_the_log(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    """With status, path, client and reason, and nothing of what was said."""
    time.sleep(1.1)  # since an earlier notice
    server.post(CHAT, asking("secret", tempo=1))
    until(lambda: bool(caplog.records), "a notice")  # which is logged after the answer
    (record,) = caplog.records
    told = record.getMessage()
    assert f"400 POST {CHAT} from 127.0.0.1: tempo is not supported here" in told and "secret" not in told


# ---- streams


def test_a_stream_begins_at_once_and_is_never_silent(
    tiny: Tiny, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Head and opening come while the answer waits for its slot, then comments; a header asks proxies not to buffer."""
    monkeypatch.setattr(api_response, "SILENCE_S", 0.05)
    template = chatml(tokenizer)
    model = chain(tiny(max_seq_len=20_000, n_layers=1, tie_embeddings=False), tokenizer.encode("龘"))
    with serving(load_of(model, tokenizer, template), slots=1) as server, httpx.Client(timeout=PATIENCE_S) as client:
        url = f"{server.url}{CHAT}"
        with client.stream("POST", url, json=asking("x", max_tokens=19_000, stream=True)) as busy:
            pieces = busy.iter_lines()
            assert "龘" in next(line for line in pieces if "龘" in line)
            with client.stream("POST", url, json=asking("x", max_tokens=6, stream=True)) as waiting:
                assert waiting.status_code == 200
                assert waiting.headers["x-accel-buffering"] == "no"
                assert waiting.headers["cache-control"] == "no-cache"
                lines = (line for line in waiting.iter_lines() if line)
                opening = [next(lines), next(lines)]
                assert opening[0].startswith(":") and '"role":"assistant"' in opening[1]
                assert [next(lines) for _ in range(3)] == [": waiting"] * 3
                busy.close()
                rest = [line for line in lines if not line.startswith(":")]
        assert rest[-1] == "data: [DONE]"
        assert "".join(json.loads(line[6:])["choices"][0]["delta"].get("content", "") for line in rest[:-1]) == "龘龘"


# ---- names of hosts, pages of other sites


@pytest.mark.parametrize(
    ("allowed", "host", "status"),
    [
        (("chat.example.com",), "chat.example.com", 200),
        (("chat.example.com",), "Chat.Example.com:8443", 200),
        (("chat.example.com",), "localhost:1", 200),
        (("chat.example.com",), "evil.com", 403),
        (("192.168.1.5", "fd00::1"), "192.168.1.5:8000", 200),
        (("192.168.1.5", "fd00::1"), "[fd00::1]:8000", 200),
        (("*",), "anything.at.all", 200),
        ((), "chat.example.com", 403),
    ],
)
def test_a_proxy_may_pass_its_own_name_on(
    allowed: tuple[str, ...], host: str, status: int, tiny: Tiny, tokenizer: Tokenizer
) -> None:
    """Names that are allowed open the door; a refusal says how to allow one."""
    with serving(load_of(talkative(tiny(n_layers=1)), tokenizer, None), allowed_hosts=allowed) as server:
        response = server.get("/v1/models", headers={"host": host})
    assert response.status_code == status
    if status == 403:
        error = response.json()["error"]
        assert error["code"] == "host_not_allowed" and f"--allowed_hosts={host}" in error["message"]


def test_pages_of_allowed_sites_may_ask(tiny: Tiny, tokenizer: Tokenizer) -> None:
    """Browsers get the headers that they ask for before and with a request, also with a refusal; others get none."""
    site = "https://chat.example.com"
    load = load_of(talkative(tiny(n_layers=1)), tokenizer, None)
    with serving(load, api_key="sesame", allowed_origins=(site,)) as server:
        asks = {"origin": site, "access-control-request-method": "POST"}
        asks["access-control-request-headers"] = "authorization,content-type"
        before = server.http.options(CHAT, headers=asks)
        assert before.status_code == 200 and before.headers["access-control-allow-origin"] == site
        assert "authorization" in before.headers["access-control-allow-headers"].lower()
        evil = server.http.options(CHAT, headers={**asks, "origin": "https://evil.com"})
        assert evil.status_code == 400 and "access-control-allow-origin" not in evil.headers
        assert "--allowed_origins=https://evil.com" in evil.json()["error"]["message"]
        refused = server.post(COMPLETE, {}, headers={"origin": site})
        assert refused.status_code == 401 and refused.headers["access-control-allow-origin"] == site
    with serving(load) as server:
        refused = server.http.options(CHAT, headers=asks)
        assert refused.status_code == 405 and f"--allowed_origins={site}" in refused.json()["error"]["message"]
        assert "access-control-allow-origin" not in server.get("/v1/models", headers={"origin": site}).headers


@pytest.mark.parametrize("allowed", ["null", "*", "https://a.example"])
def test_a_browser_is_told_what_a_page_may_do(allowed: str, tiny: Tiny, tokenizer: Tokenizer) -> None:
    """As Chrome asks for a page of a file or of the internet that calls this machine, with a key and with cookies."""
    origin = "null" if allowed == "*" else allowed
    load = load_of(talkative(tiny(n_layers=1)), tokenizer, None)
    with serving(load, api_key="sesame", allowed_origins=(allowed,)) as server:
        for path in (COMPLETE, "/v1/embeddings", "/v1/responses", "/tokenize"):
            before = server.http.options(
                path,
                headers={
                    "origin": origin,
                    "access-control-request-method": "POST",
                    "access-control-request-headers": "authorization,content-type,x-stainless-os",
                    "access-control-request-private-network": "true",
                },
            )
            told = before.headers
            assert before.status_code == 200 and told["access-control-allow-origin"] in (origin, allowed)
            assert told["access-control-allow-headers"] == "authorization,content-type,x-stainless-os"
            assert {"GET", "POST", "DELETE"} <= set(told["access-control-allow-methods"].split(", "))
            assert told["access-control-allow-private-network"] == "true"
            assert ("access-control-allow-credentials" in told) == (allowed != "*")
        headers = {"origin": origin, "authorization": "Bearer sesame"}
        answer = server.post(COMPLETE, {"prompt": "x", "max_tokens": 1, "stream": True}, headers=headers)
        assert answer.status_code == 200 and answer.headers["access-control-allow-origin"] in (origin, allowed)
        assert "X-Request-Id" in answer.headers["access-control-expose-headers"] and answer.headers["x-request-id"]


# ---- odd requests


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/models/", 200),
        ("GET", "//v1//models", 200),
        ("GET", f"/v1/models/{NAME}", 200),
        ("GET", f"/v1/models/{NAME}/", 200),
        ("GET", "/health/", 200),
        ("HEAD", "/v1/models", 200),
        ("HEAD", "/health", 200),
        ("HEAD", "/", 200),
        ("HEAD", CHAT, 405),
        ("OPTIONS", CHAT, 405),
        ("DELETE", "/v1/models", 405),
        ("GET", "/models", 404),
    ],
)
def test_addresses_and_methods(server: Server, method: str, path: str, status: int) -> None:
    """A slash too many changes nothing, HEAD is GET without a body, and what is not there has its status."""
    response = server.http.request(method, server.url + path)
    assert response.status_code == status
    if method == "HEAD":
        assert response.content == b""
    if status == 405:
        assert response.headers["allow"]
    if status == 404:
        assert "the API is at /v1" in response.json()["error"]["message"]


def test_bodies_of_every_kind(server: Server) -> None:
    """In pieces, after a go-ahead or after a slash a body is read; packed or doubled it is refused."""
    body = json.dumps({"prompt": "x", "max_tokens": 2, "temperature": 0}).encode()
    kind = {"content-type": "application/json"}
    expected = server.post(COMPLETE, content=body, headers=kind).json()["choices"]
    in_pieces = server.post(f"{COMPLETE}/", content=iter([body[:5], body[5:]]), headers=kind)
    assert in_pieces.json()["choices"] == expected
    packed = server.post(COMPLETE, content=gzip.compress(body), headers={**kind, "content-encoding": "gzip"})
    assert packed.status_code == 415 and "Content-Encoding" in packed.json()["error"]["message"]
    for wrong, words in ((b"", "empty"), (b'{"prompt": "x", "prompt": "y"}', "'prompt' is given twice")):
        refused = server.post(COMPLETE, content=wrong, headers=kind)
        assert refused.status_code == 400 and words in refused.json()["error"]["message"]
    with connected(server) as client:
        head = f"POST {COMPLETE} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        client.sendall(f"{head}Content-Length: {len(body)}\r\nExpect: 100-continue\r\n\r\n".encode())
        assert client.recv(1000).startswith(b"HTTP/1.1 100")
        client.sendall(body)
        assert client.recv(1000).startswith(b"HTTP/1.1 200")


def test_old_and_hasty_clients(server: Server) -> None:
    """HTTP/1.0 without a host, several requests at once, and clients that close their side are answered."""
    assert said(server, b"GET /health HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 200")
    health = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    assert said(server, health * 2 + health.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")).count(b" 200 ") == 3
    assert b" 200 " in said(server, health, is_half_closed=True)
    body = b'{"prompt": "x", "max_tokens": 2}'
    head = f"POST {COMPLETE} HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    assert b'"finish_reason"' in said(server, head.encode() + body)


def test_what_is_no_http_is_refused_in_the_form_of_the_api(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    """Also in the middle of a body; nothing of it is a failure of the server."""
    begun = f"POST {COMPLETE} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    for content in (
        b"\x16\x03\x01\x02\x00\x01\x00",  # a client of https
        b"GET /\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        begun.encode() + b"Content-Length: x\r\n\r\n",
        begun.encode() + b"Transfer-Encoding: chunked\r\n\r\nnonsense\r\n",
    ):
        head, _, told = said(server, content + b"\r\n\r\n").partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400") and json.loads(told)["error"]["type"] == "invalid_request_error"
    assert server.get("/health").status_code == 200
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_an_address_of_ip_version_6(tiny: Tiny, tokenizer: Tokenizer) -> None:
    """The server listens there and is called by it."""
    if not socket.has_ipv6:
        pytest.skip("this system has no IPv6")
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6 address")
    with serving(load_of(talkative(tiny(n_layers=1)), tokenizer, None), host="::1") as server:
        assert server.url.startswith("http://[::1]:")
        assert server.get("/health").status_code == 200
