"""Context parallelism: rows split among ranks that read the same ones."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from training_fixtures import Worker

from babyllm.errors import UserError
from babyllm.model.heads import WithHead
from babyllm.model.interface import Model
from babyllm.model.transformer import Transformer
from babyllm.parallel.config import ParallelConfig
from babyllm.parallel.distribute import prepare
from babyllm.run_directory import step_name
from babyllm.runtime import Runtime, RuntimeConfig, start
from babyllm.training.stages.policy.ppo import begin
from babyllm.training.stages.policy.ppo_config import PpoConfig
from tests.parallel.context_jobs import END, HALF, KINDS

# By name: the division, the number of ranks, and the kinds that are trained.
GROUPS: dict[str, tuple[dict[str, Any], int, list[str]]] = {
    "one": ({}, 1, list(KINDS)),
    "two": ({"context": 2}, 2, list(KINDS)),
    "zero3": ({"context": 2, "shard": "zero3"}, 4, ["documents", "dropout"]),
    "matrices": ({"context": 2, "tensor": 2}, 4, ["documents"]),
    "four": ({"context": 4}, 4, ["uneven"]),
}
TOLERANCE = {"documents": 1e-5, "recomputed": 1e-5, "uneven": 1e-5, "bf16": 0.02}
RESUMED = [("two", "dropout"), ("zero3", "dropout")]
MEASURED = ("one", "four")
CASES = [
    (name, kind) for name, (_, _, kinds) in GROUPS.items() for kind in kinds if name != "one" and kind in TOLERANCE
]


def step_of(root: Path, name: str, kind: str, step: int, which: str = "straight") -> Path:
    return root / name / which / kind / step_name(step)


@pytest.fixture(scope="module")
def runs(worker: Worker, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with straight and resumed runs; a moved run goes on on four ranks from the middle of one process's."""
    root = tmp_path_factory.mktemp("context")
    worker.load("tests.parallel.context_jobs")
    for name, (parallel, ranks, kinds) in GROUPS.items():
        jobs = [{"out": str(root / name / "straight" / kind), "kind": kind} for kind in kinds]
        for group, kind in RESUMED:
            if group == name:
                middle = step_of(root, name, kind, HALF)
                jobs.append({"out": str(root / name / "resumed" / kind), "kind": kind, "resume": str(middle)})
        if name == "zero3":
            middle = step_of(root, "one", "documents", HALF)
            jobs.append({"out": str(root / name / "moved" / "documents"), "kind": "documents", "resume": str(middle)})
        measured = str(root / name / "bytes") if name in MEASURED else ""
        worker.run("shared_runs", ranks=ranks, data=str(data), parallel=parallel, runs=jobs, measured=measured)
    return root


def seen(root: Path, name: str, kind: str, which: str = "straight", rank: int = 0) -> Any:
    """What a rank left."""
    return json.loads((root / name / which / kind / f"{rank}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_losses_are_those_of_one_process(runs: Path, name: str, kind: str) -> None:
    """Losses, gradient norms, tokens and held-out loss of split rows are those of one process, on each rank alike."""
    one, shared, tolerance = seen(runs, "one", kind), seen(runs, name, kind), TOLERANCE[kind]
    assert len(one["losses"]) == END and one["losses"][-1] < one["losses"][0] - 0.3
    assert shared["losses"] == pytest.approx(one["losses"], abs=tolerance)
    assert shared["norms"] == pytest.approx(one["norms"], rel=10 * tolerance)
    assert shared["held_out"] == pytest.approx(one["held_out"], abs=tolerance)
    assert shared["tokens"] == one["tokens"]
    _, ranks, _ = GROUPS[name]
    assert all(seen(runs, name, kind, rank=rank)["losses"] == shared["losses"] for rank in range(1, ranks))


def test_a_rank_has_its_share_of_the_tokens(runs: Path) -> None:
    """Blocks see T / N tokens of each row, rounded up to pairs of chunks, and keep that share for the backward pass."""
    widths = {"documents": {"one": 32, "two": 16, "zero3": 16}, "uneven": {"one": 19, "two": 10, "four": 6}}
    for kind, by_name in widths.items():
        assert {name: seen(runs, name, kind)["widths"] for name in by_name} == {k: [n] for k, n in by_name.items()}
    whole, part = (int((runs / name / "bytes").read_text(encoding="utf-8")) for name in MEASURED)
    assert part / whole == pytest.approx(1 / 4, rel=0.10)


def test_runs_resume(runs: Path) -> None:
    """A resumed run ends with the same bits; one process's run goes on under zero3 with split rows to its losses."""
    for name, kind in RESUMED:
        for rank in range(GROUPS[name][1]):
            straight, resumed = (seen(runs, name, kind, which, rank) for which in ("straight", "resumed"))
            assert resumed["digest"] == straight["digest"] and resumed["losses"] == straight["losses"][HALF:]
        files = [step_of(runs, name, kind, END, which) for which in ("straight", "resumed")]
        for file in files[0].glob("*.safetensors"):
            mine, theirs = (load_file(folder / file.name) for folder in files)
            assert mine.keys() == theirs.keys() and all(torch.equal(mine[key], theirs[key]) for key in mine)
    moved, one = seen(runs, "zero3", "documents", "moved"), seen(runs, "one", "documents")
    assert moved["losses"] == pytest.approx(one["losses"][HALF:], abs=1e-5)


def test_dropout_differs_between_the_parts_of_a_row(runs: Path) -> None:
    """Ranks of a group drop different numbers, and end with the same weights."""
    assert seen(runs, "two", "dropout")["digest"] == seen(runs, "two", "dropout", rank=1)["digest"]
    assert seen(runs, "two", "dropout")["losses"] != pytest.approx(seen(runs, "one", "dropout")["losses"], abs=1e-3)


def refusal(model: Model, runtime: Runtime, **parallel: Any) -> str:
    groups = {name: parallel.get(name, 1) for name in ("tensor", "context")}
    with pytest.raises(UserError) as error:
        prepare(model, replace(runtime, world_size=2, **groups), ParallelConfig(**parallel))
    return str(error.value)


def test_what_cannot_be_split_is_refused(runtime: Runtime, tiny: Any, tmp_path: Path) -> None:
    """Heads, compiled blocks, drawn answers and a number of processes that does not divide are named."""
    model = Transformer(tiny())
    assert refusal(model, replace(runtime, compile=True), context=2) == (
        "runtime.compile=true: is not supported with parallel.context=2; leave one of them out"
    )
    assert refusal(WithHead(model), runtime, context=2).startswith(
        "parallel.context=2: is not supported for a model with a head"
    )
    with pytest.raises(UserError, match=r"parallel\.tensor=2 times parallel\.context=2: does not divide the 1 proc"):
        start(RuntimeConfig(device="cpu"), 2, 2).__enter__()
    with pytest.raises(UserError, match=r"parallel\.context=2: is not supported by PPO"):
        begin(PpoConfig(parallel=ParallelConfig(context=2), run_dir=str(tmp_path)), runtime)
