"""Reference curves: their sources, which one fits a run, and where on the run's axis it lies."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from babyllm.errors import UserError
from babyllm.training.curves.curve_facts import Curve, RunFacts
from babyllm.training.curves.reference_curves import (
    built_in,
    bytes_per_token,
    references,
    references_of_run,
    require_reference,
)
from babyllm.training.recording.plot import plot_losses

NANO = RunFacts("pretrain", True, 4096, 128, 1_300_000, data="data/sample")


def rows(n: int, tokens: float = 4096.0, **more: float) -> list[dict[str, Any]]:
    """Records of every tenth step of a run that reads so many tokens in a step."""
    return [
        {"step": 10.0 * i, "loss": 8 - 0.01 * i, "lr": 1e-3, "tokens": 10 * i * tokens, **more} for i in range(1, n)
    ]


def write_run(directory: Path, config: dict[str, Any], records: list[dict[str, Any]]) -> Path:
    directory.mkdir()
    (directory / "config.yaml").write_text(yaml.safe_dump(config))
    (directory / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in records))
    return directory


def test_every_reference_says_where_it_is_from() -> None:
    """It was measured by a command on a named machine, or published; its points are in order."""
    names = [one.name for one in built_in()]
    assert len(names) == len(set(names)) >= 4
    for one in built_in():
        kind, _, source = one.source.partition(": ")
        assert kind == "published" or (kind == "measured" and "`" in source and "commit" in source), one.name
        assert [x for x, _ in one.points] == sorted({x for x, _ in one.points}) and one.n_parameters > 0
        assert (len(one.points) == 1) == (kind == "published")
        assert one.stage and one.tokenizer and one.data and one.vocab_size > 0


def test_a_run_is_compared_with_the_nearest_curve_of_its_stage() -> None:
    """Tokens read so far are what places agree on: a run of twice the batch is there in half the steps."""
    (found,) = references(Curve(list(rows(60))), NANO)
    assert (found.name, found.note, found.is_point) == ("pretrain-nano-sample", "", False)
    (twice,) = references(Curve(list(rows(60, 8192.0))), NANO)
    assert twice.steps[:3] == pytest.approx([step / 2 for step in found.steps[:3]])
    assert found.values[:3] == twice.values[:3] and max(found.steps) <= 590
    fine_tuned = references(Curve(list(rows(60))), RunFacts("sft", False, 4096, 128, 1_300_000))
    assert [one.name for one in fine_tuned] == ["sft-nano-sample"]


def test_nothing_is_drawn_where_nothing_compares() -> None:
    """A model of another size, another stage, or another tokenizer without bits per byte has no reference."""
    curve = Curve(list(rows(60)))
    assert references(curve, RunFacts("pretrain", True, 4096, 512, 90_000_000)) == []
    assert references(curve, RunFacts("", True, 4096, 128, 1_300_000)) == []
    assert references(curve, RunFacts("pretrain", True, 32_000, 128, 1_300_000)) == []
    assert references(curve, NANO, "none") == [] and references(Curve(), NANO) == []


@pytest.mark.parametrize(
    ("stage", "loss", "data"),
    [
        ("reward", "last", "data/sample_pairs/train.jsonl"),
        ("classifier", "", "data/sample_labels/train.jsonl"),
        ("dpo", "sigmoid", "data/sample_pairs/train.jsonl"),
        ("grpo", "reward_model", "data/sample_pairs/prompts.jsonl"),
        ("ppo", "reward_model", "data/sample_pairs/prompts.jsonl"),
    ],
)
def test_levels_of_preferences_compare_only_for_the_same_data_and_loss(stage: str, loss: str, data: str) -> None:
    """Another set of pairs, or another reward, has another level, so nothing is drawn there."""
    curve = Curve([{"step": float(i), "loss": 0.5, "rollout/reward": 1.0, "tokens": 4096.0 * i} for i in range(1, 60)])
    same = RunFacts(stage, False, 4096, 128, 1_262_720, data=data, loss=loss)
    (found,) = references(curve, same)
    assert found.name == f"{stage}-nano-sample" and len(found.steps) > 3
    assert found.metric == ("rollout/reward" if stage in ("grpo", "ppo") else "loss")
    assert references(curve, replace(same, data="pairs.jsonl")) == []
    assert references(curve, replace(same, loss="other")) == []


def test_another_tokenizer_is_compared_by_bits_per_byte() -> None:
    """A token of twice as many bytes has twice the nats at the same bits per byte."""
    (own,) = [one for one in built_in() if one.name == "pretrain-nano-sample"]
    assert own.bytes_per_token is not None
    bits = 2 / 0.6931471805599453 / (2 * own.bytes_per_token)
    records = [*rows(60), {"step": 600.0, "tokens": 600 * 4096, "val/all/loss": 2.0, "val/all/bpb": bits}]
    curve = Curve(list(records))
    assert bytes_per_token(curve) == pytest.approx(2 * own.bytes_per_token)
    (found,) = references(curve, RunFacts("pretrain", True, 32_000, 128, 1_300_000))
    assert found.values[:3] == pytest.approx([2 * value for _, value in own.points[:3]])
    assert found.note == "other tokenizer: same bits per byte"


def test_a_published_result_is_one_point_of_a_run_that_is_long_enough() -> None:
    """What is known of Zero-Chatgpt's run is its end; nothing is made up before it."""
    facts = RunFacts("pretrain", True, 32_006, 512, 160_000_000)
    assert references(Curve(list(rows(60))), facts) == []
    (found,) = references(Curve(list(rows(60, 2e7))), facts)
    assert found.is_point and found.values == [3.2] and found.steps == pytest.approx([7.13e9 / 2e7])


def test_a_run_chooses_what_it_is_compared_with(tmp_path: Path) -> None:
    """By its setting or by the caller's: a name, another run, its metrics.jsonl, or nothing."""
    config = {"aux": {}, "init_from": None, "data": {"path": "data/mine"}}
    run = write_run(tmp_path / "run", config, rows(40))
    other = write_run(tmp_path / "other", config | {"reference_curve": "none"}, rows(20))
    assert [one.note for one in references_of_run(run, "sft-nano-sample")] == ["other tokenizer: not comparable"]
    for chosen in (other, other / "metrics.jsonl"):
        (found,) = references_of_run(run, str(chosen), "zh")
        assert (found.label, found.steps[-1], found.values[0]) == ("other", 190.0, 7.99)
    assert references_of_run(other) == []
    with_it = plot_losses(run, reference=other / "metrics.jsonl").read_bytes()
    assert with_it != plot_losses(run).read_bytes()
    with pytest.raises(UserError, match=r"reference_curve=nowhere: neither a run .* one of .*pretrain-nano-sample"):
        require_reference("nowhere")
