"""Runs on one, two and four processes: each job's ranks are new processes, and several tests read their files."""

import json
from pathlib import Path
from typing import Any

import pytest
from training_fixtures import Worker, recording, tiny_config, tiny_state

from babyllm.objectives.lm import language_model
from babyllm.runtime import Runtime
from babyllm.training.loop import train

RANKS = (1, 2, 4)
DTYPES = ("fp32", "bf16", "fp16")
# Whose steps a run of so many ranks goes on from.
ELSEWHERE = {"plain": {1: 2, 2: 1}, "staged": {1: 2, 2: 4, 4: 1}}


@pytest.fixture(scope="module")
def runs(worker: Worker, data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """The folder of each number of ranks; a run that moves resumes what another number of ranks saved."""
    folders = {ranks: tmp_path_factory.mktemp(f"ranks{ranks}") for ranks in RANKS}
    for ranks, folder in folders.items():
        names = [name for name, others in ELSEWHERE.items() if ranks in others]
        worker.run("straight_runs", ranks=ranks, data=str(data), out=str(folder), names=names)
    for ranks, folder in folders.items():
        others = {name: str(folders[others[ranks]]) for name, others in ELSEWHERE.items() if ranks in others}
        worker.run("moved_runs", ranks=ranks, data=str(data), out=str(folder), elsewhere=others)
    return folders


@pytest.fixture(scope="module", params=[1, 2, pytest.param(4, marks=pytest.mark.campaign)])
def ranks(request: pytest.FixtureRequest) -> int:
    """The number of ranks of `by_dtype`."""
    return int(request.param)


@pytest.fixture(scope="module")
def by_dtype(ranks: int, worker: Worker, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a straight run of each dtype and its second half."""
    folder = tmp_path_factory.mktemp(f"dtypes{ranks}")
    for job in ("runs_by_dtype", "resumed_by_dtype"):
        worker.run(job, ranks=ranks, data=str(data), out=str(folder))
    return folder


def seen(folder: Path, name: str, first: int, ranks: int) -> list[dict[str, Any]]:
    """What each rank wrote about the run `name` that began at step `first`."""
    return [json.loads((folder / f"{name}-{first}-{rank}.json").read_text()) for rank in range(ranks)]


def global_rows(by_rank: list[dict[str, Any]]) -> list[list[list[int]]]:
    """The rows of each step's global batch, in order."""
    steps = []
    for step in range(len(by_rank[0]["losses"])):
        rows: list[list[int]] = []
        for record in by_rank:
            share = len(record["rows"]) // len(record["losses"])
            rows += record["rows"][step * share : (step + 1) * share]
        steps.append(rows)
    return steps


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_resumed_run_is_the_straight_run(by_dtype: Path, ranks: int, dtype: str) -> None:
    """Ten steps, and ten more in a new process, have the files and losses of twenty steps in one, bit for bit."""
    require_equal(by_dtype / dtype, ranks)


@pytest.mark.parametrize("n", RANKS)
def test_a_resumed_run_is_the_straight_run_in_stages(runs: dict[int, Path], n: int) -> None:
    """The same from the second stage of four."""
    require_equal(runs[n] / "staged", n)


def require_equal(folder: Path, ranks: int) -> None:
    """The straight run and the resumed one end with the same files, and have the same losses from step 11 on."""
    straight, resumed = (folder / name / "step_00000020" for name in ("straight", "resumed"))
    names = sorted(path.name for path in straight.iterdir())
    assert names == sorted(path.name for path in resumed.iterdir())
    assert {"model.safetensors", "optimizer.safetensors", "resume.json"} <= set(names)
    assert [name for name in names if (straight / name).read_bytes() != (resumed / name).read_bytes()] == []
    expected = seen(folder, "straight", 0, ranks)[0]["losses"]
    assert len(expected) == 20
    assert seen(folder, "resumed", 10, ranks)[0]["losses"] == expected[10:]


def test_saving_and_stopping_leave_a_run_as_it_is(by_dtype: Path, ranks: int) -> None:
    """The ten losses of a run that is saved and ended there equal those of a run that is not."""
    half, straight = (seen(by_dtype / "fp32", name, 0, ranks)[0]["losses"] for name in ("half", "straight"))
    assert not (by_dtype / "fp32" / "straight" / "step_00000010").exists()
    assert half == straight[:10]


def test_the_compared_runs_have_what_makes_resuming_hard(runs: dict[int, Path], by_dtype: Path, ranks: int) -> None:
    """They cross an epoch's end, learn, differ by dtype and by dropout, and in fp16 skip steps in both halves."""
    records = {name: seen(by_dtype / name, "straight", 0, ranks)[0] for name in DTYPES}
    records["plain"] = seen(runs[min(ranks, 2)] / "plain", "straight", 0, 1)[0]
    resume = json.loads((by_dtype / "fp32" / "straight" / "step_00000020" / "resume.json").read_text())
    rows = [row for step in global_rows(seen(by_dtype / "fp32", "straight", 0, ranks)) for row in step]
    assert resume["stream"]["consumed_rows"] == len(rows) == 160
    assert 80 < len({tuple(row) for row in rows}) < 160
    assert records["fp32"]["losses"][-1] < records["fp32"]["losses"][0] - 0.5
    assert len({tuple(record["losses"]) for record in records.values()}) == 4
    assert 0 < records["fp16"]["skips"][9] < records["fp16"]["skips"][-1] < 20
    assert records["fp32"]["skips"][-1] == 0


def test_the_staged_run_crosses_borders(runs: dict[int, Path]) -> None:
    """It has two more stages after the step it is resumed from, the last with longer rows."""
    steps = global_rows(seen(runs[1] / "staged", "straight", 0, 1))
    assert [{len(row) for row in step} for step in steps] == [{16}] * 15 + [{32}] * 5
    resume = json.loads((runs[1] / "staged" / "straight" / "step_00000010" / "resume.json").read_text())
    assert [stage["first_row"] for stage in resume["stream"]["stages"]] == [0, 40]
    assert resume["stream"]["stages"][1]["weights"] == {"left": 9, "right": 1}


@pytest.mark.parametrize("dtype", DTYPES)
def test_all_ranks_hold_the_same_weights(by_dtype: Path, ranks: int, dtype: str) -> None:
    """After twenty steps every rank's weights are the same bits."""
    for name, first in (("straight", 0), ("resumed", 10)):
        records = seen(by_dtype / dtype, name, first, ranks)
        assert len(records) == ranks and len({record["digest"] for record in records}) == 1


@pytest.mark.parametrize("kind", ("plain", "staged"))
def test_the_number_of_ranks_changes_neither_data_nor_losses(runs: dict[int, Path], kind: str) -> None:
    """One, two and four ranks, with other micro-batches, see the same global batches and losses within 1e-5."""
    by_ranks = {ranks: seen(runs[ranks] / kind, "straight", 0, ranks) for ranks in ELSEWHERE[kind]}
    expected = by_ranks[1][0]["losses"]
    for ranks in by_ranks:
        assert global_rows(by_ranks[ranks]) == global_rows(by_ranks[1])
        assert by_ranks[ranks][0]["losses"] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("kind", ("plain", "staged"))
def test_a_run_resumes_on_another_number_of_ranks(runs: dict[int, Path], kind: str) -> None:
    """Runs of two, four and one ranks resume on one, two and four as if nothing had changed."""
    straight = seen(runs[1] / kind, "straight", 0, 1)
    for ranks in ELSEWHERE[kind]:
        moved = seen(runs[ranks] / kind, "moved", 10, ranks)
        assert global_rows(moved) == global_rows(straight)[10:]
        assert moved[0]["losses"] == pytest.approx(straight[0]["losses"][10:], abs=1e-5)


@pytest.fixture(scope="module")
def single_steps(worker: Worker, data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("steps")
    worker.run("single_steps", ranks=2, data=str(data), out=str(folder))
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("dtype", ("fp32", "fp16"))
def test_all_ranks_skip_a_step_that_one_of_them_spoils(single_steps: list[dict[str, Any]], dtype: str) -> None:
    """Infinite gradients on one rank leave every rank's weights as they were, are counted, and training goes on."""
    first, second = (record[dtype] for record in single_steps)
    assert first == second
    before, spoiled, after = first["digest"][1:4]
    assert before == spoiled != after
    assert first["skipped"] == [0, 0, 1, 1, 1]
    assert first["grad_norm"][2] in ("inf", "nan")


def test_gradients_are_summed_over_ranks_once_a_step(single_steps: list[dict[str, Any]]) -> None:
    """A step of four micro-batches sums over ranks as often as a step of one."""
    for record in single_steps:
        assert record["micro_batch 1"] == record["micro_batch 4"] > 0


def test_ranks_agree_on_micro_batches_that_fit(
    single_steps: list[dict[str, Any]], data: Path, runtime: Runtime
) -> None:
    """A rank without memory cuts its micro-batch within the step, and from the next step on all ranks do."""
    config, losses = tiny_config(data, steps=3), []
    train(tiny_state(config, runtime), language_model, config.plan, [recording(losses)])
    (first, whole), (second, cut) = (record["short of memory"] for record in single_steps)
    assert first == second == pytest.approx(losses, abs=1e-5)
    assert (whole, cut) == ([2, 2, 2, *[1] * 8], [2, 2, *[1] * 12])


def test_ranks_that_find_other_checkpoints_do_not_begin(single_steps: list[dict[str, Any]]) -> None:
    """A run directory that the machines do not share is an error on every rank; no rank trains alone."""
    for rank, record in enumerate(single_steps):
        assert f"rank{rank}: ranks find other checkpoints" in record["unshared"] and "--run_dir" in record["unshared"]
