"""Tasks while training: what is recorded, by what a step is best, what is refused before the first step."""

import json
from pathlib import Path
from typing import Any

import pytest
from evaluation_fixtures import write_tasks
from training_fixtures import Worker

import babyllm
from babyllm.errors import UserError
from babyllm.training.recording.records import read_metrics

TINY = {"n_layers": 1, "d_model": 32, "n_heads": 2, "max_seq_len": 64}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tasks(tmp_path_factory.mktemp("tasks"))


def trained(data: Path, run_dir: Path, **settings: Any) -> babyllm.TrainedRun:
    runtime = {"device": "cpu", "dtype": "float32", "threads": 1, "attention": "fused"}
    rows = {"seq_len": 16, "global_batch": 2}
    return babyllm.pretrain(
        data, run_dir, **{"model": TINY, "data": rows, "runtime": runtime, "prompts": [], "log_every": 1, **settings}
    )


def held_out(run_dir: Path) -> dict[int, dict[str, float]]:
    """The results of each evaluation by step."""
    return {record["step"]: record for record in read_metrics(run_dir) if any(n.startswith("val/") for n in record)}


def test_results_are_those_of_the_command(token_dir: Path, folder: Path, tmp_path: Path) -> None:
    """Each evaluation records every metric of a task with its error, equal to `babyllm eval` on the saved step."""
    tasks = [str(folder / "letters.yaml"), str(folder / "pairs.yaml")]
    run = trained(token_dir, tmp_path / "run", steps=4, eval_every=2, save_every=2, keep=5, evaluate={"tasks": tasks})
    found = held_out(run.run_dir)
    assert sorted(found) == [2, 4]
    for step, record in found.items():
        expected = babyllm.evaluate_model(
            run.run_dir / f"step_{step:08d}", tasks=tasks, cache=None, runtime={"device": "cpu", "threads": 1}
        )
        for task, metrics in expected.items():
            for metric, values in metrics.items():
                assert record[f"val/{task}/{metric}"] == values["value"]
                assert record[f"val/{task}/{metric}_stderr"] == values["error"]
    tags = (run.run_dir / next(p.name for p in run.run_dir.glob("events.*"))).read_bytes()
    assert b"val/pairs/acc_slln_stderr" in tags


def test_ranks_record_the_same_numbers(token_dir: Path, folder: Path, worker: Worker, tmp_path: Path) -> None:
    """One process and two, which train alike, evaluate alike."""
    found = []
    for ranks in (1, 2):
        arguments = [f"--run_dir={tmp_path / str(ranks)}", f"--data.path={token_dir}", "--plan.steps=1"]
        arguments += ["--model.n_layers=1", "--model.d_model=32", "--model.n_heads=2", "--data.seq_len=16"]
        arguments += ["--plan.peak_lr=1e-9", "--plan.warmup=0", "--data.global_batch=2", "--prompts=[]"]
        arguments += [f"--evaluate.tasks=[{folder / 'pairs.yaml'}]", "--runtime.device=cpu", "--runtime.threads=1"]
        worker.run("script", ranks=ranks, arguments=[*arguments, "--runtime.dtype=float32"])
        record = held_out(tmp_path / str(ranks))[1]
        found.append({name: value for name, value in record.items() if "/pairs/" in name})
    assert found[0] and found[0] == found[1]


def test_a_step_is_best_by_the_named_result(
    token_dir: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The best step has the highest accuracy; patience counts from it; another name begins again after a resume."""
    settings: dict[str, Any] = {"evaluate": {"tasks": str(folder / "pairs.yaml")}, "eval_every": 1, "save_every": 1}
    settings |= {"plan": {"peak_lr": 0.05, "warmup": 0.0}, "keep": 99}
    run = trained(token_dir, tmp_path / "run", steps=6, best="pairs/acc", **settings)
    accuracies = {step: record["val/pairs/acc"] for step, record in held_out(run.run_dir).items()}
    resume = json.loads((run.run_dir / "step_00000006" / "resume.json").read_text(encoding="utf-8"))
    top = max(accuracies.values())
    assert resume["best_by"] == "pairs/acc"
    assert resume["best"] == [top, min(step for step, value in accuracies.items() if value == top)]
    assert resume["bad_evaluations"] == 6 - resume["best"][1]
    capsys.readouterr()
    again = trained(token_dir, tmp_path / "run", steps=7, best="all/bpb", **settings)
    assert "steps were judged by pairs/acc before; the best by all/bpb is looked for from here on" in (
        capsys.readouterr().out
    )
    resume = json.loads((again.run_dir / "step_00000007" / "resume.json").read_text(encoding="utf-8"))
    assert resume["best"] == [held_out(again.run_dir)[7]["val/all/bpb"], 7]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"best": "pairs/acc"}, r"best=pairs/acc: there is no such result on held-out data; choose among all/accuracy"),
        ({"evaluate": {"tasks": "none"}}, "there is no task none"),
        ({"evaluate": {"tasks": "news.yaml"}}, "evaluate.tasks: news is also the name of a part of the held-out data"),
        ({"evaluate": {"tasks": "letters.yaml", "chat": True}}, "evaluate.chat: this run has no chat template"),
        ({"evaluate": {"tasks": "bad.yaml"}}, r"pairs.jsonl:1: does not fit task bad: 'nothing' is undefined"),
    ],
)
def test_mistakes_are_found_before_the_first_step(
    token_dir: Path, folder: Path, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    """A missing task, a wrong name and a record that does not fit end the run in one line, without a step."""
    text = (folder / "pairs.yaml").read_text(encoding="utf-8")
    (folder / "news.yaml").write_text(text, encoding="utf-8")
    (folder / "bad.yaml").write_text(text.replace("{{ good }}", "{{ nothing }}"), encoding="utf-8")
    evaluate = dict(settings.get("evaluate", {}))
    if str(evaluate.get("tasks", "")).endswith(".yaml"):
        evaluate["tasks"] = str(folder / evaluate["tasks"])
    with pytest.raises(UserError, match=message):
        trained(token_dir, tmp_path / "run", steps=1, **{**settings, "evaluate": evaluate})
    assert not list((tmp_path / "run").glob("step_*"))
