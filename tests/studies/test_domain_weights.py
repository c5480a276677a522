"""Weights of domains by excess losses, or by size and quality: the equations, and the command `babyllm mix`."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from babyllm.__main__ import run
from babyllm.documents import Document
from babyllm.errors import UserError
from babyllm.studies.domain_weights import doremi_weights
from tests.support.disk_fixtures import corpus_of


def test_weights_follow_the_equations() -> None:
    """Each evaluation multiplies by exp(eta * max(excess, 0)), normalises and smooths; the result is their mean."""
    excess = np.array([[0.5, -1.0, 0.2], [0.1, 0.3, 0.0]])
    weights, steps = np.full(3, 1 / 3), []
    for row in excess:
        weights = weights * np.exp(2.0 * np.maximum(row, 0))
        weights = 0.9 * weights / weights.sum() + 0.1 / 3
        steps.append(weights)
    found = doremi_weights(excess, eta=2.0, smoothing=0.1)
    assert found == pytest.approx(np.mean(steps, 0)) and found.sum() == pytest.approx(1)


def test_a_proxy_as_good_as_the_reference_has_equal_weights() -> None:
    """Without excess no domain gets more; a domain alone with excess gains, and huge losses stay finite."""
    assert doremi_weights(np.array([[-1.0, 0.0], [-2.0, -3.0]])) == pytest.approx([0.5, 0.5])
    first, second = doremi_weights(np.full((50, 2), [1.0, 0.0]))
    assert first > 0.9 and second >= 0.0005
    assert doremi_weights(np.array([[2000.0, 0.0]])) == pytest.approx([0.9995, 0.0005])


def write_run(directory: Path, losses: list[dict[str, float | None]]) -> str:
    """The records of a run with these held-out losses by domain, one evaluation every ten steps."""
    directory.mkdir()
    records = [
        {"step": 10 * i, "time": i, **{f"val/{name}/loss": value for name, value in each.items()}}
        for i, each in enumerate(losses)
    ]
    (directory / "metrics.jsonl").write_text("".join(f"{json.dumps(each)}\n" for each in records), encoding="utf-8")
    return str(directory)


def test_the_command_writes_a_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`babyllm mix` weighs the domains of two runs by the reference's last losses, and writes data.mix as YAML."""
    proxy = write_run(
        tmp_path / "proxy",
        [{"zh": 9, "en": 9, "all": 9}, {"zh": 4, "en": 3, "all": 3.5}, {"zh": 3.5, "en": None, "all": 3}],
    )
    reference = write_run(tmp_path / "reference", [{"zh": 9, "en": 9}, {"zh": 3, "en": 3}])
    out = tmp_path / "new" / "mix.yaml"
    run(["mix", proxy, reference, str(out)])
    weights = doremi_weights(np.array([[0.0, 1.0]]))  # en, zh: the evaluation without a finite loss is left out
    assert yaml.safe_load(out.read_text(encoding="utf-8")) == {
        "data": {"mix": {"en": pytest.approx(weights[0], abs=1e-4), "zh": pytest.approx(weights[1], abs=1e-4)}}
    }
    assert "1 evaluations" in capsys.readouterr().out
    run(["mix", proxy, reference, str(out), "--eta=2"])
    run(["mix", proxy, reference])
    assert "data:\n  mix:\n" in capsys.readouterr().out
    out.write_text("mine", encoding="utf-8")
    with pytest.raises(UserError, match="exists and was not written by babyllm mix"):
        run(["mix", proxy, reference, str(out)])


def test_runs_that_cannot_be_compared_are_refused(tmp_path: Path) -> None:
    """Both runs need the same two or more domains, and evaluations."""
    good = write_run(tmp_path / "good", [{"zh": 4, "en": 3}] * 2)
    other = write_run(tmp_path / "other", [{"zh": 4, "de": 3}] * 2)
    one = write_run(tmp_path / "one", [{"zh": 4, "all": 4}] * 2)
    none = write_run(tmp_path / "none", [{}])
    for proxy, reference, message in (
        (good, other, "only one is evaluated on de, en"),
        (one, one, "has the domain zh alone"),
        (good, none, "none: has no evaluation on held-out data"),
        (str(tmp_path), good, "no such file"),
    ):
        with pytest.raises(UserError, match=message):
            run(["mix", proxy, reference])


def test_corpora_are_weighed_by_size_and_quality(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The weight of a domain is its quality times its bytes to the power of alpha; only kept documents count."""
    rows = (
        [("good book " * (4 + i), "books") for i in range(6)] + [("bad spam " * 9, "web")] * 2 + [("good page", "web")]
    )
    corpus = corpus_of(tmp_path / "corpus", [Document(text, name, str(i)) for i, (text, name) in enumerate(rows)])
    (tmp_path / "target.txt").write_text("good book", encoding="utf-8")
    flags = ["--kind=documents", "--scores=[importance]", f"--target=[{tmp_path / 'target.txt'}]", "--keep=8"]
    chosen, file = str(tmp_path / "chosen"), tmp_path / "mix.yaml"
    run(["select", str(corpus), chosen, *flags, "--work.workers=1"])

    def mixed(*flags: str) -> dict[str, float]:
        run(["mix", chosen, str(file), *flags])
        return dict(yaml.safe_load(file.read_text(encoding="utf-8"))["data"]["mix"])

    table = [
        row for row in pq.read_table(tmp_path / "chosen" / "scores.parquet").to_pylist() if row["rank"] is not None
    ]
    assert len(table) == 8
    bound = float(np.median([row["importance"] for row in table]))
    sizes, raw = {"books": 0.0, "web": 0.0}, {"books": 0.0, "web": 0.0}
    for row in table:
        sizes[row["task"]] += row["bytes"]
        raw[row["task"]] += row["bytes"] * (row["importance"] >= bound)
    for alpha in (1.0, 0.3):
        weights = {name: raw[name] / size * size**alpha for name, size in sizes.items()}
        expected = {name: pytest.approx(w / sum(weights.values()), rel=1e-3) for name, w in weights.items()}
        assert mixed("--quality=importance", f"--at_least={bound}", f"--alpha={alpha}") == {
            k: v for k, v in expected.items() if weights[k]
        }
    assert mixed() == {name: pytest.approx(size / sum(sizes.values()), rel=1e-3) for name, size in sizes.items()}
    assert "epochs" in capsys.readouterr().out
    for flags, message in (
        (["--quality=ifd"], "scores.parquet has no such column; it has key"),
        (["--quality=importance"], "the domain books has a mean score of -"),
        (["--at_least=1"], "--at_least=1: is a bound on a score"),
    ):
        with pytest.raises(UserError, match=message):
            mixed(*flags)
    with pytest.raises(UserError, match="cannot be read"):
        run(["mix", str(corpus), "--quality=importance"])
