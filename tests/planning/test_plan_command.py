"""`babyllm plan` as a command: a table for people, JSON for machines."""

import json
from pathlib import Path
from typing import Any

import pytest

from babyllm.__main__ import run
from babyllm.errors import UserError
from babyllm.store.shards import open_tokens


def planned(capsys: pytest.CaptureFixture[str], *flags: str) -> Any:
    """The plan as JSON."""
    run(["plan", "--json=true", *flags])
    return json.loads(capsys.readouterr().out)


def test_the_table_adds_up(capsys: pytest.CaptureFixture[str]) -> None:
    """Parts in GB, one a line, add up to the total; what fits the GPU and what the time rests on are said."""
    run(["plan", "--model.preset=160m", "--device=RTX 4090", "--micro_batch=8"])
    lines = capsys.readouterr().out.splitlines()
    sizes = {words[0]: float(words[1]) for line in lines if len(words := line.split()) > 2 and words[2] == "GB"}
    total = float(next(line.split()[1] for line in lines if line.startswith("total ") and line.endswith("GB")))
    assert total == pytest.approx(sum(size for part, size in sizes.items() if part != "total"), abs=0.01)
    assert any(line.startswith("fits 25.8 GB") for line in lines)
    assert any("rests on the data sheet's peak x an assumed share of 0.40" in line for line in lines)


def test_json_has_bytes_steps_and_hours(token_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """JSON has memory in bytes, and steps of given data in the plan's way of counting."""
    flags = f"--data={token_dir}", "--epochs=2", "--seq_len=32", "--global_batch=8", "--device=4090"
    plan = planned(capsys, "--model.preset=nano", *flags)
    memory = plan["memory"]
    assert memory["total"] == sum(size for part, size in memory.items() if part != "total")
    tokens = sum(s.tokens for s in open_tokens(token_dir).manifest.shards if s.split == "train")
    assert plan["length"]["tokens"] == 2 * tokens and plan["length"]["steps"] == -(-2 * tokens // (32 * 8))
    seconds = plan["length"]["steps"] * plan["speed"]["seconds_per_step"]
    assert plan["length"]["hours"] == pytest.approx(seconds / 3600)
    assert plan["micro_batch"] == 8 and plan["fit"]["fits"]
    chosen = planned(capsys, "--model.preset=218m", "--device=4090", "--global_batch=64")
    assert chosen["fit"]["fits"] and 64 % chosen["micro_batch"] == 0


def test_offloaded_memory_is_planned(capsys: pytest.CaptureFixture[str]) -> None:
    """The memory of the CPU under `parallel.offload` has a table of its own."""
    run(["plan", "--model.preset=218m", "--device=4090", "--parallel.offload=optimizer"])
    table = capsys.readouterr().out.split("memory of the CPU that each rank takes besides")[1].split("fits 25.8")[0]
    assert [line.split()[0] for line in table.splitlines()[1:]] == [
        *("weights", "gradients", "optimizer", "workspace", "total"),
    ]


def test_what_does_not_fit_says_what_would(capsys: pytest.CaptureFixture[str]) -> None:
    """For a model too large for a GPU, the flags that would make it fit are named."""
    run(["plan", "--model.preset=1b", "--device=3060", "--micro_batch=4", "--processes=2"])
    out = capsys.readouterr().out
    assert "does not fit 12.9 GB" in out and "--lora.base=nf4" in out
    run(["plan", "--model.preset=1b", "--memory_gb=0.5", "--micro_batch=1"])
    assert "no single change fits" in capsys.readouterr().out


def test_a_budget_and_a_model_that_writes(capsys: pytest.CaptureFixture[str]) -> None:
    """Hours on a device become FLOPs, a size and tokens; slots add the memory of generation."""
    plan = planned(capsys, "--model.preset=218m", "--device=A100", "--hours=24", "--slots=4")
    assert plan["budget"]["flops"] == pytest.approx(24 * 3600 * plan["speed"]["flops_per_s"])
    assert plan["budget"]["presets"][0]["preset"] == "218m" and plan["reading"]["cache"] > 0
    assert planned(capsys, "--flops=1e15")["budget"]["flops"] == 1e15
    run(["plan", "--flops=1e15", "--slots=2", "--tokens=1000000"])
    out = capsys.readouterr().out
    assert "tokens (20 a parameter" in out and "memory of the model when it writes" in out
    assert "--device says how long" in out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--hours=3"], "--hours: needs a --device"),
        (["--device=RTX 9999"], "is not listed"),
        (["--lora.rank=8", "--lora.targets=[wq]"], "'wq' is not planned for"),
        (["--lora.base=nf4"], "needs a lora.rank above 0"),
        (["--micro_batch=3", "--global_batch=8"], "does not divide the 8 sequences"),
        (["--data=/nowhere"], "no such file or directory"),
    ],
)
def test_impossible_plans_are_refused(flags: list[str], message: str) -> None:
    """A plan that cannot be made is refused in one line that names the flag."""
    with pytest.raises(UserError, match=message):
        run(["plan", *flags])
