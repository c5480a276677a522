"""The client of endpoints: order, retries, lies, the cache, the budget and the secret."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from fake_endpoint import (
    SECRET,
    Answer,
    FakeEndpoint,
    Handler,
    cut,
    drips,
    fails,
    faking,
    hangs_up,
    says,
    sends,
    value_of,
)

from babyllm.endpoint.client import Client
from babyllm.endpoint.config import EndpointConfig, Request
from babyllm.endpoint.replies import Reply, Usage, retry_after
from babyllm.endpoint.reply_cache import FILE, ReplyCache
from babyllm.errors import UserError

PROBLEMS: dict[str, Answer] = {
    "500": fails(500),
    "408": fails(408),
    "429": fails(429, Retry_After="0"),
    "503 with a page": sends(b"<html>busy</html>", 503),
    "hangs up": hangs_up,
    "cut": cut,
    "html": sends(b"<!DOCTYPE html><title>Log in</title>"),
    "torn json": sends(b'{"choices": [{"mess'),
    "not utf-8": sends(b"\xff\xfe\x00"),
    "a list": sends([1, 2]),
    "deep": sends(b"[" * 100_000),
    "other shape": sends({"answer": "42"}),
    "no choices": sends({"choices": []}),
    "choices of numbers": sends({"choices": [7]}),
    "no message": sends({"choices": [{"text": "x"}]}),
    "null": says(None),
    "empty": says(""),
    "error": sends({"error": {"message": "overloaded"}}),
    "coded error": sends({"error": {"message": "upstream", "code": 502}}),
}


def asking(*texts: str) -> list[Request]:
    return [Request([{"role": "user", "content": text}]) for text in texts]


def config_of(server: FakeEndpoint, **settings: Any) -> EndpointConfig:
    return EndpointConfig(**({"url": server.url, "model": "m", "backoff_s": 0.001, "timeout_s": 10.0} | settings))


def replies(config: EndpointConfig, requests: Sequence[Request], cache: Path | None = None) -> list[Reply]:
    with Client(config, cache) as client:
        return list(client.replies(requests))


def echo(said: str, n: int) -> Answer:
    return says(f"re: {said}")


def test_replies_come_in_the_order_of_the_requests() -> None:
    """A slow first reply holds nobody up, the limit of concurrency holds, and options and settings reach the server."""
    with faking(lambda said, n: lambda h: (time.sleep(0.3 if said == "0" else 0.01), says(said)(h))[0]) as server:
        config = config_of(server, concurrency=3, seed=5, body='{"top_p": 0.5, "max_tokens": null}')
        texts = [str(i) for i in range(20)]
        found = replies(config, [*asking(*texts), Request(asking("0")[0].messages, 2, {"temperature": 0.25})])
    assert [reply.text for reply in found] == [*texts, "0"]
    assert all(reply.finish == "stop" and reply.usage == Usage(10, 5) and not reply.error for reply in found)
    assert 1 < server.most_busy <= 3
    first = next(body for body in server.bodies if body["messages"][0]["content"] == "7")
    assert first == {"model": "m", "messages": [{"role": "user", "content": "7"}], "seed": 5, "top_p": 0.5}
    assert [body["seed"] for body in server.bodies if body.get("temperature")] == [7]


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_failure_is_asked_again_and_then_reported(name: str) -> None:
    """A failure that may pass is tried again; one that stays is the error of its request alone."""
    answer = PROBLEMS[name]
    with faking(lambda said, n: answer if said == "stays" or (said == "passes" and n < 3) else says(said)) as server:
        found = replies(config_of(server, retries=2), asking("passes", "stays", "good"))
    assert [reply.text for reply in found] == ["passes", "", "good"]
    assert [reply.error is None for reply in found] == [True, False, True]
    assert "\n" not in str(found[1].error) and len(str(found[1].error)) < 300
    assert server.asked == {"passes": 3, "stays": 3, "good": 1}


def test_a_stalling_endpoint_is_given_up_as_a_whole() -> None:
    """A reply that drips is abandoned when its time is over, although bytes keep coming; the others are not lost."""
    with faking(lambda said, n: drips if said == "drips" else says(said)) as server:
        found = replies(config_of(server, retries=1, timeout_s=0.3), asking("drips", "good"))
    assert found[1].text == "good" and "not complete within 0.3 s" in str(found[0].error)
    assert server.asked["drips"] == 2


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (fails(400, "too\nlong\x1b[31m"), "answers 400 (too long [31m)"),
        (fails(403, "flagged"), "answers 403 (flagged)"),
        (sends({"error": {"code": 400, "message": "bad"}}), "answers 400 (bad)"),
        (says(None, "content_filter"), "finish reason content_filter"),
        (says(None, "length"), "raise --endpoint.max_tokens"),
        (sends({"choices": [{"message": {"content": None, "refusal": "I will not"}}]}), "refuses: I will not"),
    ],
)
def test_a_refusal_of_one_request_is_not_repeated(answer: Answer, error: str) -> None:
    """What another attempt cannot change is the request's error after one attempt."""
    with faking(lambda said, n: answer if said == "bad" else says(said)) as server:
        found = replies(config_of(server), asking("bad", "good"))
    assert error in str(found[0].error) and found[1].text == "good"
    assert server.asked["bad"] == 1


@pytest.mark.parametrize(
    ("answer", "advice"),
    [
        (fails(401, "bad key"), "answers 401 (bad key): check the key"),
        (fails(402), "topped up"),
        (fails(404, "no model m"), "answers 404 (no model m): check --endpoint.url and --endpoint.model"),
        (sends({"error": {"message": "quota", "code": "insufficient_quota"}}, 429), "topped up"),
        (sends(b"", 301, Location="http://elsewhere/"), "redirects to http://elsewhere/"),
    ],
)
def test_a_refusal_of_every_request_ends_the_work(answer: Answer, advice: str) -> None:
    """What concerns the account or the address is one line for all requests, at once."""
    with faking(lambda said, n: answer) as server, pytest.raises(UserError, match="the endpoint answers") as caught:
        replies(config_of(server), asking(*map(str, range(50))))
    assert advice in str(caught.value) and max(server.asked.values()) == 1


def test_an_endpoint_that_is_down_is_given_up() -> None:
    """After ten requests in a row without a reply the work ends with a line; what was answered is kept."""
    with faking(echo) as server:
        config = config_of(server, retries=1, concurrency=2)
    with pytest.raises(UserError, match="10 requests in a row had no reply: the endpoint cannot be reached"):
        replies(config, asking(*map(str, range(50))))


def test_the_wait_that_the_server_asks_for_is_kept() -> None:
    """Retry-After, in seconds or as a date, decides when the next request is sent; an endless wait is refused."""
    with faking(lambda said, n: fails(429, Retry_After="1") if n == 1 else says(said)) as server:
        assert replies(config_of(server, concurrency=1), asking("a"))[0].text == "a"
    assert server.times[1] - server.times[0] >= 0.99
    with faking(lambda said, n: fails(503, Retry_After="86400")) as server:
        assert "asks to wait for 86400 s" in str(replies(config_of(server), asking("a"))[0].error)
    now = datetime.now(timezone.utc).replace(microsecond=0)
    assert retry_after({"retry-after": format_datetime(now + timedelta(seconds=7))}, now.timestamp()) == 7
    assert [retry_after({"retry-after": s}, 0) for s in ("soon", "", "-3", "9" * 400)] == [None] * 4


def test_nothing_is_asked_twice(tmp_path: Path) -> None:
    """Equal requests at the same time, in one process or later, are one request; other samples are others."""
    equal = asking("a", "b", "a", "a", "b")
    with faking(lambda said, n: says(f"{said}{n}")) as server:
        first = replies(config_of(server), equal, tmp_path)
        again = replies(config_of(server), equal, tmp_path)
        other = replies(config_of(server), [Request(equal[0].messages, 1)], tmp_path)
        replies(config_of(server, temperature=0.5), equal[:1], tmp_path)
    assert [reply.text for reply in first] == [reply.text for reply in again] == ["a1", "b1", "a1", "a1", "b1"]
    assert [reply.is_cached for reply in first] == [False, False, True, True, True]
    assert all(reply.is_cached for reply in again) and other[0].text == "a2"
    assert server.asked == {"a": 3, "b": 1}


def test_the_cache_survives_a_cut_at_every_byte(tmp_path: Path) -> None:
    """Whatever a killed process has left of the last line, the others are read and further ones are added."""
    cache = ReplyCache(tmp_path)
    for key in ("one", "two"):
        cache.put(key, {"text": f"{key}\ud800 龘"})
    whole = (tmp_path / FILE).read_bytes()
    first = whole.index(b"\n") + 1
    for end in range(len(whole) + 1):
        (tmp_path / FILE).write_bytes(whole[:end])
        torn = ReplyCache(tmp_path)
        assert (torn.get("one") is not None) == (end >= first) and (torn.get("two") is not None) == (end == len(whole))
        torn.put("three", 3)
        later = ReplyCache(tmp_path)
        assert later.get("three") == 3 and (later.get("one") is not None) == (end >= first - 1)
    (tmp_path / FILE).write_bytes(b'\xff\xfe\n[1]\n{"key": 1, "reply": 2}\n{"key": "two", "rep\n' + whole)
    assert ReplyCache(tmp_path).get("two") == {"text": "two\ud800 龘"}


def test_two_processes_share_a_cache(tmp_path: Path) -> None:
    """What another process has added is found once the file is read on."""
    ours, theirs = ReplyCache(tmp_path), ReplyCache(tmp_path)
    theirs.put("b", 2)
    ours.put("a", 1)
    assert ours.get("b") == 2 and ReplyCache(tmp_path).get("a") == 1


def test_a_budget_is_never_exceeded(tmp_path: Path) -> None:
    """The work ends before the cost could exceed the budget, keeps what it paid for, and goes on with more money."""
    usage = (200, 100)  # 0.4 a request
    settings: dict[str, Any] = {"price_in": 1000, "price_out": 2000, "max_tokens": 150, "concurrency": 4}
    with faking(lambda said, n: says(said, usage=usage)) as server:
        texts = [str(i) for i in range(10)]
        client = Client(config_of(server, **settings, max_cost=1.9), tmp_path)
        with (
            client,
            pytest.raises(UserError, match=r"max_cost=1.9: the next request could exceed it \(cost so far: 1.6"),
        ):
            list(client.replies(asking(*texts)))
        assert client.spending.cost == pytest.approx(1.6) and sum(server.asked.values()) == 4
        found = replies(config_of(server, **settings, max_cost=20.0), asking(*texts), tmp_path)
    assert [reply.text for reply in found] == texts and set(server.asked.values()) == {1}


def test_unknown_tokens_are_said_and_count_in_full() -> None:
    """A reply without usage is counted as unknown, and against the budget with the most that it can have cost."""
    settings: dict[str, Any] = {"price_in": 1000, "price_out": 2000, "max_tokens": 150, "concurrency": 1}
    odd = value_of("x") | {"usage": {"prompt_tokens": -3, "completion_tokens": "many"}}
    with faking(lambda said, n: says("x", usage=None) if said == "0" else sends(odd)) as server:
        client = Client(config_of(server, **settings, max_cost=1.0))
        with client, pytest.raises(UserError, match="could exceed it"):
            list(client.replies(asking("0", "1", "2", "3")))
    facts = dict(client.spending.facts())
    assert facts["attempts whose tokens are unknown"] == client.spending.n_unknown == sum(server.asked.values()) == 2
    assert facts["tokens read"] == 0 and "more at most" in str(facts["cost"])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"url": None}, "--endpoint.url and --endpoint.model are needed"),
        ({"url": "localhost:8000"}, "--endpoint.url: is not an address"),
        ({"url": "http://[::1/v1"}, "--endpoint.url: is not an address"),
        ({"url": f"https://user:{SECRET}@host/v1"}, "--endpoint.url: give it without user"),
        ({"url": f"https://host/v1?key={SECRET}"}, "--endpoint.url: give it without user"),
        ({"key_variable": SECRET}, "not the key itself"),
        ({"key_variable": SECRET.replace("-", "_")}, "not the key itself"),
        ({"key_variable": "BABYLLM_NO_SUCH_KEY"}, "BABYLLM_NO_SUCH_KEY has no value"),
        ({"max_cost": 1.0}, "--endpoint.max_cost: needs --endpoint.price_in"),
        ({"max_cost": 1.0, "price_in": 1.0, "price_out": 1.0, "max_tokens": None}, "needs --endpoint.max_tokens"),
        ({"body": "[1]"}, "--endpoint.body: is not a JSON object"),
        ({"concurrency": 0}, "endpoint.concurrency=0: must be at least 1"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, Any], words: str) -> None:
    """A setting that cannot work is refused by its flag before anything is sent, and the key is not in the message."""
    with pytest.raises(UserError, match=words) as caught:
        Client(EndpointConfig(**({"url": "http://127.0.0.1:1/v1", "model": "m"} | settings)))
    assert SECRET not in str(caught.value) and SECRET.replace("-", "_") not in str(caught.value)


def test_the_key_is_sent_and_kept_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The key is in the header alone: an endpoint that repeats it finds it in no reply, error, file or output."""
    monkeypatch.setenv("THE_KEY", SECRET)

    def choose(said: str, n: int) -> Answer:
        if said == "c":
            return lambda handler: (handler.wfile.write(f"{SECRET}\r\n\r\n".encode()), hangs_up(handler))[1]
        return says(f"your key is {SECRET}") if said == "a" else fails(400, f"wrong key {SECRET}")

    with faking(choose) as server:
        config = config_of(server, key_variable="THE_KEY", retries=1)
        found = replies(config, asking("a", "b", "c"), tmp_path)
    assert {header["Authorization"] for header in server.headers} == {f"Bearer {SECRET}"}
    assert found[0].text == "your key is [key]" and "wrong key [key]" in str(found[1].error)
    for answer in (fails(401, f"wrong key {SECRET}"), sends(b"", 302, Location=f"/v2?key={SECRET}")):
        with faking(lambda said, n, answer=answer: answer) as server, pytest.raises(UserError) as caught:
            replies(config_of(server, key_variable="THE_KEY"), asking("d"), tmp_path)
        assert "[key]" in str(caught.value) and SECRET not in str(caught.value)
    written = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    assert SECRET not in repr(found) + repr(config) + "".join(capfd.readouterr())
    assert written and SECRET.encode() not in written


def test_this_machine_is_reached_without_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy in the environment is not asked for a local endpoint; one that cannot be used is a line for others."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "socks9://127.0.0.1:9")
    with faking(echo) as server:
        assert replies(config_of(server), asking("a"))[0].text == "re: a"
    with pytest.raises(UserError, match="the proxy in the environment cannot be used"):
        replies(EndpointConfig(url="http://endpoint.invalid/v1", model="m"), asking("a"))


@pytest.mark.parametrize("host", ["a..b", f"{'x' * 80}.invalid"])
def test_an_impossible_host_is_named(host: str) -> None:
    """A host that no name server can know ends the work with a line."""
    with pytest.raises(UserError, match=r"--endpoint\.url|cannot be reached"):
        replies(EndpointConfig(url=f"http://{host}/v1", model="m", retries=0), asking(*map(str, range(20))))


def test_an_early_end_keeps_what_is_under_way_and_sends_no_more(tmp_path: Path) -> None:
    """A caller that leaves early gets the replies under way into the cache, and what was not sent stays unsent."""

    def slow(handler: Handler) -> None:
        time.sleep(0.2)
        says("late")(handler)

    with faking(lambda said, n: slow) as server:
        with Client(config_of(server, concurrency=2), tmp_path) as client:
            next(client.replies(asking(*map(str, range(9)))))
            _until(lambda: server.asked.total() == 4)
        assert server.asked.total() == 4
    assert len((tmp_path / FILE).read_text().splitlines()) == 4


WORKER = """
import sys
from pathlib import Path
from babyllm.endpoint.client import Client
from babyllm.endpoint.config import EndpointConfig, Request
with Client(EndpointConfig(url=sys.argv[1], model="m", concurrency=2), Path(sys.argv[2])) as client:
    for reply in client.replies([Request([{"role": "user", "content": str(i)}]) for i in range(40)]):
        print(reply.text, flush=True)
"""


def _until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_process_goes_on_where_it_stopped(sent: signal.Signals, tmp_path: Path) -> None:
    """After kill -9 or Ctrl-C a second process asks only for what has no reply yet."""

    def choose(said: str, n: int) -> Answer:
        if len(server.asked) > 20:
            server.is_open.wait(20)
        return says(f"re: {said}")

    with faking(choose) as server:
        command = [sys.executable, "-c", WORKER, server.url, str(tmp_path)]
        worker = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=dict(os.environ))
        _until(lambda: server.asked.total() >= 18)
        server.is_open.clear()
        _until(lambda: server.n_busy == 2)
        stored = {json.loads(line)["key"] for line in (tmp_path / FILE).read_text().splitlines()}
        worker.send_signal(sent)
        worker.communicate(timeout=20)
        assert worker.returncode != 0
        server.is_open.set()
        asked = server.asked.total()
        found = replies(
            EndpointConfig(url=server.url, model="m", concurrency=2), asking(*map(str, range(40))), tmp_path
        )
    assert [reply.text for reply in found] == [f"re: {i}" for i in range(40)]
    assert server.asked.total() - asked <= 40 - len(stored) and server.asked.total() <= 42
