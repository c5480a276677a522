"""Killed at any moment and started again: nothing that was answered is asked again, and the output is the same."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fake_endpoint import faking
from scripted_model import slow_model
from synthesis_fixtures import flags_of, lines_of, made_by

from babyllm.files import json_digest

OUTPUT = ("records.jsonl", "rejected.jsonl", "report.json", "report.md", "report.html", "recipe.yaml")


@pytest.mark.parametrize("n_kills", [2, pytest.param(20, marks=pytest.mark.campaign)])
def test_a_killed_command_goes_on_where_it_stopped(n_kills: int, tmp_path: Path, inputs: Path) -> None:
    """After each SIGKILL the endpoint is not asked for what was stored, and at the end the files have equal bytes."""
    draw = random.Random(n_kills)
    with faking(slow_model) as server:
        flags = [*flags_of(server, inputs, "prompts", "zh"), "--endpoint.concurrency=2", "--set={rounds: 3}"]
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
