"""Tasks while training: what is recorded, by what a step is best, what is refused before the first step."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from evaluation_fixtures import write_tasks
from training_fixtures import Worker

import babyllm
from babyllm.errors import UserError
from babyllm.training.recording.records import read_metrics
from babyllm.training.stages import task_measure

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


def test_patience_counts_from_the_named_result(token_dir: Path, folder: Path, tmp_path: Path) -> None:
    """The run ends two evaluations after its highest accuracy, and `latest` names the step that had it."""
    run = trained(
        *(token_dir, tmp_path / "run"),
        steps=60,
        eval_every=1,
        save_every=1,
        early_stop=2,
        best="pairs/acc",
        evaluate={"tasks": str(folder / "pairs.yaml")},
    )
    accuracies = {step: record["val/pairs/acc"] for step, record in held_out(run.run_dir).items()}
    top = min(step for step, value in accuracies.items() if value == max(accuracies.values()))
    assert run.step == top + 2 < 60
    why = f"no higher pairs/acc in 2 evaluations, the best was at step {top}"
    assert run.stop_reason and run.stop_reason.startswith(why)
    assert (run.run_dir / "latest").read_text(encoding="utf-8").strip() == f"step_{top:08d}"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"best": "pairs/acc"},
            r"best=pairs/acc: there is no such result on held-out data; choose among all/bpb, all/loss, ",
        ),
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


def test_a_stop_while_tasks_are_evaluated_changes_nothing(token_dir: Path, folder: Path, tmp_path: Path) -> None:
    """The step is saved without a result, and the resumed run evaluates it and records what a straight run does."""
    settings: dict[str, Any] = {"evaluate": {"tasks": str(folder / "pairs.yaml")}, "steps": 2, "eval_every": 1}
    straight = held_out(trained(token_dir, tmp_path / "straight", **settings).run_dir)
    began = task_measure.evaluate_task

    def stopped(*arguments: Any) -> Any:
        signal.raise_signal(signal.SIGTERM)
        return began(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(task_measure, "evaluate_task", stopped)
        run = trained(token_dir, tmp_path / "stopped", **settings)
    assert (run.step, run.stop_reason) == (1, "stop signal") and not held_out(run.run_dir)
    found = held_out(trained(token_dir, tmp_path / "stopped", **settings).run_dir)
    values = [
        {step: {n: v for n, v in record.items() if n.startswith("val/")} for step, record in records.items()}
        for records in (found, straight)
    ]
    assert values[0] == values[1]


def test_a_chat_is_asked_through_the_runs_template(token_dir: Path, folder: Path, tmp_path: Path) -> None:
    """In fine-tuning, generated answers and options equal `babyllm eval --chat` on the saved step, also with LoRA."""
    base = trained(token_dir, tmp_path / "base", steps=2, eval_every=0).run_dir
    (folder / "written.yaml").write_text(
        'items: pairs.jsonl\nquestion: "{{ good }}"\nreference: "{{ bad }}"\nmetrics: [rouge_l]\nmax_new_tokens: 8\n',
        encoding="utf-8",
    )
    chats = tmp_path / "chats.jsonl"
    talks = [
        [{"role": "user", "content": f"今天 {i}"}, {"role": "assistant", "content": "天气很好"}] for i in range(16)
    ]
    chats.write_text("".join(json.dumps({"messages": talk}) + "\n" for talk in talks), encoding="utf-8")
    tasks = [str(folder / name) for name in ("written.yaml", "letters.yaml")]
    on_cpu = {"device": "cpu", "dtype": "float32", "threads": 1}
    run = babyllm.finetune(
        chats,
        tmp_path / "run",
        init_from=base,
        steps=3,
        data={"seq_len": 32, "global_batch": 2, "held_out": 0.2},
        evaluate={"tasks": tasks, "chat": True, "shots": 0},
        best="written/rouge_l",
        runtime={**on_cpu, "attention": "fused"},
        lora={"rank": 2},
    )
    expected = babyllm.evaluate_model(
        run.run_dir, tasks=tasks, chat=True, shots=0, cache=None, runtime={"device": "cpu", "threads": 1}
    )
    for task, metrics in expected.items():
        for metric, values in metrics.items():
            assert run.metrics[f"val/{task}/{metric}"] == values["value"]


def test_a_result_that_never_comes_loses_no_step(token_dir: Path, folder: Path, tmp_path: Path) -> None:
    """If the named result is missing from the first evaluation, the trained step is saved before the run ends."""
    chats = tmp_path / "chats.jsonl"
    talks = [[{"role": "user", "content": "今天"}, {"role": "assistant", "content": f"天气 {i}"}] for i in range(16)]
    chats.write_text("".join(json.dumps({"messages": talk}) + "\n" for talk in talks), encoding="utf-8")
    base = trained(token_dir, tmp_path / "base", steps=1, eval_every=0).run_dir
    with pytest.raises(UserError, match="best=all/accuracy: there is no such result on held-out data; choose among"):
        babyllm.finetune(
            chats,
            tmp_path / "run",
            init_from=base,
            steps=2,
            data={"seq_len": 32, "global_batch": 2, "held_out": 0.2},
            best="all/accuracy",
            runtime={"device": "cpu", "dtype": "float32", "threads": 1},
        )
    assert (tmp_path / "run" / "step_00000002" / "model.safetensors").is_file()
