"""Several endpoints side by side, and the budget that they share."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from fake_endpoint import Answer, FakeEndpoint, fails, faking, hangs_up, says

from babyllm.endpoint.client import Client
from babyllm.endpoint.config import EndpointConfig, Request
from babyllm.endpoint.replies import Reply
from babyllm.endpoint.shared_budget import NOT_ASKED, BudgetConfig
from babyllm.errors import UserError


def asking(n: int, endpoints: Sequence[str] = ()) -> list[Request]:
    return [Request([{"role": "user", "content": str(i)}], endpoints=endpoints) for i in range(n)]


def config_of(server: FakeEndpoint, **settings: Any) -> EndpointConfig:
    return EndpointConfig(**({"url": server.url, "model": "m", "backoff_s": 0.001, "retries": 1} | settings))


def echo(said: str, n: int) -> Answer:
    return says(f"re: {said}")


def replies(
    configs: dict[str, EndpointConfig], asked: Sequence[Request], cache: Path | None = None, **limits: Any
) -> list[Reply]:
    with Client(configs, cache, budget=BudgetConfig(**limits)) as client:
        return list(client.replies(asked))


def test_requests_are_shared_by_concurrency(tmp_path: Path) -> None:
    """Each endpoint is asked in proportion to its concurrency, pinned requests are its own, and a second call none."""
    slow = lambda said, n: lambda h: (time.sleep(0.005), says(said)(h))[0]  # noqa: E731
    with faking(slow) as one, faking(slow) as two:
        configs = {"one": config_of(one, concurrency=6), "two": config_of(two, concurrency=2)}
        found = replies(configs, asking(200), tmp_path)
        assert [reply.text for reply in found] == [str(i) for i in range(200)]
        assert one.asked.total() + two.asked.total() == 200 and 20 < two.asked.total() < 80
        assert {reply.endpoint for reply in found} == {"one", "two"} and one.most_busy <= 6 and two.most_busy <= 2
        pinned = replies(configs, asking(20, ["two"]), tmp_path)
        assert {reply.endpoint for reply in pinned} == {"two"}
        n = one.asked.total() + two.asked.total()
        again = replies(dict(reversed(configs.items())), asking(200), tmp_path)
        assert [reply.endpoint for reply in again] == [reply.endpoint for reply in found]
        assert all(reply.is_cached for reply in again) and one.asked.total() + two.asked.total() == n
    with pytest.raises(UserError, match="none has the name three"):
        replies(configs, asking(1, ["three"]), tmp_path)


@pytest.mark.parametrize("broken", [fails(401, "bad key"), hangs_up])
def test_a_failing_endpoint_is_set_aside(broken: Answer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its requests go to the others; once it works again, what they have answered is not asked again."""
    with faking(lambda said, n: broken) as bad, faking(echo) as good:
        configs = {"bad": config_of(bad, concurrency=4), "good": config_of(good, concurrency=4)}
        found = replies(configs, asking(80), tmp_path)
        assert [reply.text for reply in found] == [f"re: {i}" for i in range(80)] and good.asked.total() == 80
        assert 0 < bad.asked.total() < 60 and "(the endpoint bad is set aside: " in capsys.readouterr().err
        bad.choose = echo
        n = bad.asked.total()
        assert replies(configs, asking(80), tmp_path)[7].endpoint == "good" and bad.asked.total() == n
    both = {"bad": config_of(bad, timeout_s=1.0), "good": config_of(good, timeout_s=1.0)}
    with pytest.raises(UserError, match="every endpoint is set aside"):
        replies(both, asking(80))


def test_a_shared_budget_is_never_exceeded(tmp_path: Path) -> None:
    """Requests beyond a limit end as not asked; a second call counts what the first has paid, and a larger goes on."""
    prices = {"price_in": 0.0, "price_out": 1e6, "max_tokens": 5}
    with faking(echo) as one, faking(echo) as two:
        configs = {"one": config_of(one, **prices), "two": config_of(two, **prices)}

        def n_answered(**budget: Any) -> int:
            found = replies(configs, asking(30), tmp_path, **budget)
            assert all((reply.error or "").startswith(NOT_ASKED) == (reply.error is not None) for reply in found)
            return sum(reply.error is None for reply in found)

        assert n_answered(requests=7) == 7 == one.asked.total() + two.asked.total()
        assert n_answered(requests=7) == 7 == one.asked.total() + two.asked.total()
        assert n_answered(cost=50) == 10  # each costs 5
        assert 10 < n_answered(tokens=290) <= 290 // 15 and n_answered(requests=100) == 30
        with pytest.raises(UserError, match="each endpoint needs price_in"):
            replies({"one": config_of(one)}, asking(1), cost=1.0)
        with pytest.raises(UserError, match="each endpoint needs max_tokens"):
            replies({"one": config_of(one, max_tokens=None)}, asking(1), tokens=100)
