"""Evaluations and samples of a divided model: their results, their memory, and one that fails on one rank."""

import json
from pathlib import Path
from typing import Any

import pytest
from evaluation_fixtures import write_tasks
from training_fixtures import Worker

from babyllm.training.recording.records import read_metrics

N_STEPS = 2
WRITTEN = 'items: pairs.jsonl\nquestion: "{{ good }}"\nreference: "{{ bad }}"\nmetrics: [rouge_l]\nmax_new_tokens: 8\n'
SHAPE = ("--model.n_layers=4", "--model.d_model=32", "--model.n_heads=4", "--model.n_kv_heads=2")


@pytest.fixture(scope="module")
def folder(worker: Worker, token_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directories "1", of one process, "layers" and "whole" of two, and "failed", ended and gone on with."""
    root = write_tasks(tmp_path_factory.mktemp("reading"))
    (root / "written.yaml").write_text(WRITTEN, encoding="utf-8")
    worker.load("tests.parallel.reading_jobs")
    for name in ("1", "layers", "whole"):
        how = [] if name == "1" else ["--parallel.shard=zero3", f"--parallel.reading={name}"]
        (root / f"of {name}").mkdir()
        ranks = 2 if how else 1
        worker.run("evaluated_run", ranks=ranks, arguments=run_of(root, name, token_dir, how), out=f"{root}/of {name}")
    worker.start("failing_run", ranks=2, arguments=run_of(root, "failed", token_dir, ["--parallel.shard=zero3"]))
    statuses = worker.wait()
    (root / "failure.txt").write_text(f"{statuses}\n{worker.output.read_text()}", encoding="utf-8")
    (root / "resume.json").write_text((root / "failed" / "step_00000002" / "resume.json").read_text())
    (root / "of failed").mkdir()
    worker.run("evaluated_run", arguments=run_of(root, "failed", token_dir, []), out=f"{root}/of failed")
    return root


def run_of(root: Path, name: str, data: Path, how: list[str]) -> list[str]:
    tasks = ",".join(str(root / f"{task}.yaml") for task in ("letters", "pairs", "written"))
    return [
        *(f"--run_dir={root / name}", f"--data.path={data}", *SHAPE, *how),
        *("--data.seq_len=16", "--data.global_batch=4", "--data.micro_batch=2", "--model.max_seq_len=64"),
        *(f"--plan.steps={N_STEPS}", "--plan.peak_lr=0.01", "--optim.average=0.5", "--save_every=0", "--eval_every=1"),
        *(f"--evaluate.tasks=[{tasks}]", "--prompts=[今天]", "--log_every=1"),
        *("--runtime.device=cpu", "--runtime.dtype=float32", "--runtime.threads=1"),
    ]


def held_out(run_dir: Path) -> dict[int, dict[str, Any]]:
    """The results of each evaluation by step."""
    records: list[dict[str, Any]] = list(read_metrics(run_dir))
    found = {r["step"]: {n: v for n, v in r.items() if n.startswith("val/")} for r in records}
    return {step: values for step, values in found.items() if values}


def sizes(folder: Path, name: str) -> list[dict[str, int]]:
    return [json.loads(file.read_text()) for file in sorted((folder / f"of {name}").glob("*.json"))]


@pytest.mark.parametrize("name", ("layers", "whole", "failed"))
def test_results_are_those_of_one_process(folder: Path, name: str) -> None:
    """Losses on held-out texts, plain and averaged, agree within 1e-5; what is counted on tasks, and samples, exactly.

    So they do after an evaluation that failed, in the run that goes on.
    """
    one, other = held_out(folder / "1"), held_out(folder / name)
    assert sorted(one) == sorted(other) == [1, N_STEPS]
    for step in one:
        assert {"val/all/loss", "val/plain/all/loss", "val/pairs/acc", "val/written/rouge_l"} <= set(one[step])
        assert other[step] == pytest.approx(one[step], abs=1e-5)
        counted = {n: v for n, v in one[step].items() if "loss" not in n and "bpb" not in n}
        assert {n: other[step][n] for n in counted} == counted
    assert len({values["val/all/loss"] for values in one.values()}) == N_STEPS
    samples = [(folder / which / "samples.jsonl").read_text() for which in ("1", name)]
    assert samples[0] == samples[1] and samples[0].count("\n") == N_STEPS


def test_no_rank_holds_the_whole_model(folder: Path) -> None:
    """Layer by layer a pass has the weights of one block, and those outside of the blocks; afterwards none is left."""
    found = sizes(folder, "layers")
    assert len(found) == 2
    for of_rank in found:
        assert 0 < of_rank["most"] <= of_rank["allowed"] < of_rank["model"]
        assert of_rank["left"] == of_rank["twin"] == 0
    for of_rank in sizes(folder, "whole"):
        assert of_rank["most"] == of_rank["model"]
        assert of_rank["left"] == of_rank["twin"] == 0


def test_a_failure_on_one_rank_ends_all_and_loses_nothing(folder: Path) -> None:
    """One line names the rank; every rank ends with status 1; the step is saved in parts, to be evaluated again."""
    statuses, *lines = (folder / "failure.txt").read_text().splitlines()
    assert statuses == "[1, 1]"
    (line,) = (line for line in lines if "gone" in line)
    assert "rank 1 (" in line and "): the held-out data are gone" in line
    assert not any("Traceback" in line for line in lines)
    saved = json.loads((folder / "resume.json").read_text())
    assert saved["pending"] and "optimizer-00002-of-00002.safetensors" in saved["sha256"]
