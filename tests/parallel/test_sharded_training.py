"""Runs divided among two and four processes: their losses, their steps, and where they go on."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from training_fixtures import Worker
from transformers import AutoModelForCausalLM

from babyllm.interop.huggingface import load_model
from tests.parallel.selection import asked_for, chosen
from tests.parallel.sharded_runs import END, HALF, KINDS, last_step

MODES: dict[str, dict[str, Any]] = {
    "none": {},
    "zero2": {"shard": "zero2"},
    "zero3": {"shard": "zero3"},
    "hybrid": {"shard": "hybrid", "shard_ranks": 2},
    "offload": {"shard": "zero3", "offload": "all"},
    "optimizer": {"shard": "zero2", "offload": "optimizer"},
}
Case = tuple[str, str, int]
EXACT = [k for k in KINDS if k not in ("bf16", "fp16", "dropout")]  # whose losses do not depend on the ranks
# Each kind and each mode once; then what each of them is tried with in a campaign.
COVERING: list[Case] = [
    ("plain", "none", 2),
    ("lora", "zero2", 2),
    ("compiled", "zero2", 2),
    ("compiled", "zero3", 2),
    ("muon", "optimizer", 2),
    ("lora nf4", "zero3", 2),
    *((kind, mode, 2) for kind in ("bf16", "fp16") for mode in ("none", "zero3")),
    *(("plain", mode, 4) for mode in ("zero3", "hybrid", "offload")),
    *((kind, "zero3", 4) for kind in ("long", "tied", "uneven")),
    ("uneven muon", "hybrid", 4),
]
MORE: list[Case] = [
    *(("plain", mode, 2) for mode in ("zero2", "optimizer")),
    ("lora", "offload", 2),
    *((kind, "zero3", 2) for kind in ("muon", "lora int8", "dropout")),
    *((kind, "zero3", 4) for kind in ("lora", "muon")),
    ("lora", "hybrid", 4),
]
ALL = [*COVERING, *MORE]
RESUMED_FIRST: list[Case] = [
    ("muon", "optimizer", 2),
    ("fp16", "zero3", 2),
    ("lora nf4", "zero3", 2),
    ("tied", "zero3", 4),
    ("uneven muon", "hybrid", 4),
]
RESUMED = [case for case in ALL if case[1] != "none" and case[0] not in ("long", "lora int8", "uneven", "compiled")]


def folder_of(root: Path, case: Case, name: str = "straight") -> Path:
    return root / "-".join(map(str, case)) / name


def run_of(root: Path, case: Case, name: str = "straight", **more: Any) -> dict[str, Any]:
    kind, mode, _ = case
    out = str(folder_of(root, case, name))
    return {"out": out, "kind": kind, "parallel": MODES[mode], "save_every": HALF, **more}


@pytest.fixture(scope="module")
def runs(request: pytest.FixtureRequest, worker: Worker, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runs of the tests that were chosen, and those that all read.

    A moved run began on two whole ranks, goes on on four divided ones, and ends on one.
    """
    wanted = asked_for(request, "case") | set(COVERING)
    again = asked_for(request, "case", RESUMING)
    root = tmp_path_factory.mktemp("divided")
    worker.load("tests.parallel.sharded_runs")
    begun = str(last_step(folder_of(root, ("plain", "none", 2)), HALF))
    alone = [(kind, "none", 1) for kind in EXACT if kind != "compiled" and any(case[0] == kind for case in wanted)]
    for ranks in (1, 2, 4):
        jobs = [run_of(root, case) for case in [*alone, *ALL] if case[2] == ranks and (ranks == 1 or case in wanted)]
        for case in (case for case in RESUMED if case[2] == ranks and case in again):
            middle = str(last_step(folder_of(root, case), HALF))
            jobs.append(run_of(root, case, "resumed", resume=middle))
        if ranks == 4:
            cases = [("plain", mode, 4) for mode in ("zero3", "hybrid")]
            jobs += [run_of(root, case, "moved", resume=begun, save_every=8, until=8) for case in cases]
        worker.run("divided_runs", ranks=ranks, data=str(data), runs=jobs)
    ends = [
        run_of(root, ("plain", "none", 1), f"from {mode}", resume=str(last_step(folder_of(root, case, "moved"), 8)))
        for mode in ("zero3", "hybrid")
        for case in [("plain", mode, 4)]
    ]
    worker.run("divided_runs", ranks=1, data=str(data), runs=ends)
    return root


RESUMING = "test_a_divided_run_resumes_to_the_bit"


def seen(folder: Path, ranks: int) -> list[dict[str, Any]]:
    """What each rank wrote about a run."""
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(ranks)]


@pytest.mark.parametrize("case", chosen([c for c in ALL if c[0] in EXACT], COVERING))
def test_divided_runs_have_the_losses_of_one_process(runs: Path, case: Case) -> None:
    """Every loss of ten or thirty steps is that of one process within 1e-5, or 1e-4 with Muon; compiled blocks too."""
    kind, _, ranks = case
    alone = "plain" if kind == "compiled" else kind
    expected = seen(folder_of(runs, (alone, "none", 1)), 1)[0]["losses"]
    assert len(expected) == KINDS[kind].steps and expected[-1] < expected[0] - 0.05
    for record in seen(folder_of(runs, case), ranks):
        assert record["losses"] == pytest.approx(expected, abs=1e-4 if "muon" in kind else 1e-5)


@pytest.mark.parametrize("dtype", ("bf16", "fp16"))
def test_16_bit_runs_have_the_losses_of_whole_copies(runs: Path, dtype: str) -> None:
    """In bf16, and in fp16 with steps that overflow, losses and skipped steps are those of DDP.

    The matrices of blocks are gathered in 16 bits, for the forward and the backward pass, all else in 32, once.
    """
    whole, divided = (seen(folder_of(runs, (dtype, mode, 2)), 2)[0] for mode in ("none", "zero3"))
    assert divided["losses"] == pytest.approx(whole["losses"], abs=1e-3)
    assert divided["skipped"] == whole["skipped"]
    assert (0 < whole["skipped"] < END) == (dtype == "fp16")
    n_matrices = 2 * (32 * 32 * 2 + 32 * 16 * 2 + 3 * 32 * 96)
    n_others = 5 * 32 + divided["n_embedding"]
    n_passes = END * KINDS[dtype].micro_batches
    assert divided["sent"] == n_passes * (2 * 2 * n_matrices + 4 * n_others)


@pytest.mark.parametrize("case", chosen(RESUMED, RESUMED_FIRST))
def test_a_divided_run_resumes_to_the_bit(runs: Path, case: Case) -> None:
    """Five steps, and five more from their checkpoint, leave the files of ten steps in one, byte for byte."""
    straight, resumed = (files_of(last_step(folder_of(runs, case, name))) for name in ("straight", "resumed"))
    assert straight == resumed
    weights = "adapter_model.safetensors" if KINDS[case[0]].lora else f"model-00001-of-{case[2]:05}.safetensors"
    assert {weights, f"optimizer-00001-of-{case[2]:05}.safetensors", "resume.json"} <= set(straight)


def files_of(step: Path) -> dict[str, bytes]:
    return {path.relative_to(step).as_posix(): path.read_bytes() for path in step.rglob("*") if path.is_file()}


@pytest.mark.parametrize("mode", ("zero3", "hybrid"))
def test_a_run_moves_between_ranks_and_modes(runs: Path, mode: str) -> None:
    """Begun on two whole ranks, gone on divided among four and ended on one, it has the losses of one process."""
    expected = seen(folder_of(runs, ("plain", "none", 1)), 1)[0]["losses"]
    moved = seen(folder_of(runs, ("plain", mode, 4), "moved"), 4)[0]["losses"]
    ended = seen(folder_of(runs, ("plain", "none", 1), f"from {mode}"), 1)[0]["losses"]
    assert len(moved) == 3 and len(ended) == 2
    assert [*moved, *ended] == pytest.approx(expected[HALF:], abs=1e-5)


@pytest.mark.parametrize("case", [c for c in COVERING if c[2] == 4 and c[0] in ("plain", "tied", "uneven")], ids=str)
def test_a_step_of_shards_is_a_model_directory(runs: Path, case: Case) -> None:
    """babyllm and transformers load it, with the weights, or their average, that one process has within 1e-4."""
    step = last_step(folder_of(runs, case))
    model = load_model(step)
    theirs = AutoModelForCausalLM.from_pretrained(step).state_dict()
    one = load_model(last_step(folder_of(runs, (case[0], "none", 1))))
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(weight, one.state_dict()[name], rtol=0, atol=1e-4)
        assert torch.equal(weight, theirs[name if name.startswith("lm_head") else f"model.{name}"])


def test_no_file_of_a_step_is_pickled(runs: Path) -> None:
    """Steps hold safetensors and JSON alone, and resume.json has the checksum of each."""
    for case in (case for case in COVERING if case[2] == 4):
        step = last_step(folder_of(runs, case), HALF)
        names = set(files_of(step))
        assert {Path(name).suffix for name in names} == {".safetensors", ".json"}
        assert set(json.loads((step / "resume.json").read_text())["sha256"]) == names


def test_ranks_hold_their_share(runs: Path) -> None:
    """Of a model whose rows four ranks can share each has a quarter of all its tensors, with hybrid a half."""
    (one,) = seen(folder_of(runs, ("plain", "none", 1)), 1)
    for mode, n in {"zero3": 4, "hybrid": 2, "offload": 4}.items():
        for record in seen(folder_of(runs, ("plain", mode, 4)), 4):
            for key in ("n_weights", "n_gradients", "n_moments"):
                assert record[key] <= one[key] / n + 200
    assert any(record["empty"] for record in seen(folder_of(runs, ("uneven", "zero3", 4)), 4))


@pytest.mark.parametrize("kind", ("plain", "long"))
def test_one_block_is_gathered_at_a_time(runs: Path, kind: str) -> None:
    """Within a block a rank has its weights, those of the last norm and the tied embedding, and no others."""
    for record in seen(folder_of(runs, (kind, "zero3", 4)), 4):
        n_outside = 32 + (0 if kind == "long" else record["n_embedding"])
        assert record["gathered"] == dict.fromkeys(("forward", "backward"), record["n_block"] + n_outside)
