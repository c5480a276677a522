"""Killed at any moment and started again: nothing that was answered is asked again, and the output is the same."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fake_endpoint import SECRET, faking
from scripted_model import model, slow_model
from synthesis_fixtures import flags_of, lines_of, made_by

from babyllm.files import json_digest

OUTPUT = ("records.jsonl", "rejected.jsonl", "report.json", "report.md", "report.html", "recipe.yaml")


@pytest.mark.parametrize("n_kills", [2, pytest.param(20, marks=pytest.mark.campaign)])
def test_a_killed_command_goes_on_where_it_stopped(n_kills: int, tmp_path: Path, inputs: Path) -> None:
    """After each SIGKILL the endpoint is not asked for what was stored, and at the end the files have equal bytes."""
    draw = random.Random(n_kills)
    with faking(slow_model) as server:
        flags = [
            *flags_of(server, inputs, "prompts", "zh"),
            "--endpoint.concurrency=2",
            f"--set={{rounds: {2 if n_kills < 9 else 3}}}",
        ]
        command = [sys.executable, "-m", "babyllm", "synth", "evolve", str(tmp_path / "killed"), *flags]
        cache = tmp_path / "killed" / "cache" / "replies.jsonl"
        earlier: set[str] = set()
        for _ in range(n_kills):
            begin, n_seen = time.monotonic(), len(server.bodies)
            worker = subprocess.Popen(
                command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=dict(os.environ)
            )
            most = draw.randrange(1, 8 + 40 // n_kills)
            while worker.poll() is None and len(server.bodies) < n_seen + most and time.monotonic() < begin + 60:
                time.sleep(draw.uniform(0.001, 0.02))
            worker.send_signal(signal.SIGKILL)
            worker.wait()
            stored = _stored(cache)
            _check_none_is_asked_again(server.bodies[n_seen:], earlier, server.url)
            earlier |= stored
        n_seen = len(server.bodies)
        made_by(tmp_path / "killed", "evolve", *flags)
        _check_none_is_asked_again(server.bodies[n_seen:], earlier, server.url)
        server.asked.clear()
        records, _, _ = made_by(tmp_path / "whole", "evolve", *flags)
    assert len(records) > 10
    for name in OUTPUT:
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def _stored(cache: Path) -> set[str]:
    """The keys of the replies in a cache; the last line may be cut."""
    whole = cache.read_bytes().rpartition(b"\n")[0] if cache.exists() else b""
    (copy := cache.with_name("copy")).parent.mkdir(parents=True, exist_ok=True)
    copy.write_bytes(whole)
    keys = {line["key"] for line in lines_of(copy)}
    copy.unlink()
    return keys


def _check_none_is_asked_again(bodies: list[dict[str, object]], stored: set[str], url: str) -> None:
    for body in bodies:
        assert json_digest({"url": f"{url}/chat/completions", "body": body}) not in stored


def test_a_budget_ends_the_work_and_a_larger_one_goes_on(
    tmp_path: Path, inputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was not asked is said, and in the end nothing was asked twice and the files are those of one call."""
    with faking(model) as server:
        flags = flags_of(server, inputs, "prompts", "en")
        records, rejected, _ = made_by(tmp_path / "out", "answer", *flags, "--budget.requests=5")
        assert len(records) == 5 == server.asked.total() and {line["reason"] for line in rejected} == {"not asked"}
        assert "the budget is used up" in capsys.readouterr().err
        assert len(made_by(tmp_path / "out", "answer", *flags, "--budget.requests=9")[0]) == 9 == server.asked.total()
        assert len(made_by(tmp_path / "out", "answer", *flags)[0]) == 12 == server.asked.total()
        made_by(tmp_path / "whole", "answer", *flags)
    for name in OUTPUT:
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


def test_each_endpoint_answers_and_keys_stay_secret(
    tmp_path: Path, inputs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each model of a file of endpoints answers each prompt, at its own price; no file and no line has a key."""
    monkeypatch.setenv("STRONG_KEY", SECRET)
    with faking(model) as strong, faking(model) as weak:
        (tmp_path / "two.yaml").write_text(
            f"strong: {{url: '{strong.url}', model: big, key_variable: STRONG_KEY, price_in: 100, price_out: 100}}\n"
            f"weak: {{url: '{weak.url}', model: small, seed: 1, price_in: 0, price_out: 0}}\n"
        )
        flags = [f"--endpoints={tmp_path / 'two.yaml'}", f"--inputs={inputs / 'en' / 'chats.jsonl'}"]
        records, _, report = made_by(tmp_path / "out", "answer", *flags)
    assert {record["model"] for record in records} == {"big", "small"} and len(records) == 24
    assert all((record["cost"] > 0) == (record["model"] == "big") for record in records)
    assert dict(report["facts"])["cost"] == pytest.approx(12 * 15 * 100 / 1e6)
    assert strong.headers[0]["Authorization"] == f"Bearer {SECRET}" and "Authorization" not in weak.headers[0]
    written = b"".join(file.read_bytes() for file in (tmp_path / "out").rglob("*") if file.is_file())
    assert SECRET.encode() not in written and SECRET not in "".join(capsys.readouterr())
