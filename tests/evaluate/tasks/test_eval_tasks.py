"""The command `babyllm eval --tasks`: tables, files, several models, all steps of a run, cases and contamination."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from evaluation_fixtures import write_tasks

from babyllm import evaluate_model
from babyllm.__main__ import run
from babyllm.errors import UserError
from babyllm.evaluate.tasks.items import read_items
from babyllm.evaluate.tasks.task import load_task
from babyllm.evaluate.tasks.training_texts import nearest, overlaps, text_of
from babyllm.interop.huggingface import save_model
from babyllm.model.transformer import Transformer
from babyllm.run_directory import write_resume
from babyllm.tokenizer import Tokenizer

CPU = ["--runtime.device=cpu", "--runtime.dtype=float32", "--runtime.threads=1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tasks(tmp_path_factory.mktemp("tasks"))


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory, model: Transformer, tokenizer: Tokenizer) -> Path:
    """A run of three steps, whose weights differ."""
    directory = tmp_path_factory.mktemp("run")
    for step in (10, 20, 30):
        place = directory / f"step_{step:08d}"
        place.mkdir()
        torch.manual_seed(step)
        other = Transformer(model.config)
        other.load_state_dict({k: v + 0.05 * torch.randn_like(v) for k, v in model.state_dict().items()})
        save_model(place, other, tokenizer)
        tokenizer.save(place)
        write_resume(place, {"step": step, "sha256": {}})
    return directory


def evaluated(out: Path, *arguments: str) -> dict[str, Any]:
    """What the command writes with `--json`; responses are stored in a new folder."""
    shutil.rmtree(out / "cache", ignore_errors=True)
    run(["eval", *arguments, f"--json={out / 'e.json'}", f"--cache={out / 'cache'}", *CPU])
    found: dict[str, Any] = json.loads((out / "e.json").read_text(encoding="utf-8"))
    return found


def test_one_model_has_a_verdict_for_each_metric(
    run_dir: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The terminal, Markdown and HTML have the same table; JSON the unrounded numbers, which Python returns, too."""
    step = str(run_dir / "step_00000030")
    tasks = f"--tasks=[{folder / 'letters.yaml'},{folder / 'pairs.yaml'}]"
    pages = [f"--markdown={tmp_path / 'e.md'}", f"--html={tmp_path / 'e.html'}"]
    found = evaluated(tmp_path, step, tasks, "--permute=true", "--groups=true", "--cases=1", *pages)
    shown = capsys.readouterr().out
    assert list(found["values"]) == ["letters", "pairs"]
    acc = found["values"]["letters"]["acc_letter"]
    assert acc["n"] == 18 and acc["groups"] == 3 and acc["chance"] == pytest.approx(1 / 3) and acc["verdict"]
    for text in ("acc_slln", acc["verdict"], "letters: acc_letter by group", "physics", "letters: wrong by acc_letter"):
        assert text in shown
        assert text.replace("_", "\\_") in (tmp_path / "e.md").read_text(encoding="utf-8")
        assert text in (tmp_path / "e.html").read_text(encoding="utf-8")
    settings: dict[str, Any] = {"tasks": [str(folder / "letters.yaml")], "permute": True, "cache": None}
    runtime = {"device": "cpu", "dtype": "float32", "threads": 1}
    assert evaluate_model(step, **settings, runtime=runtime)["letters"] == found["values"]["letters"]


def test_models_are_compared_on_the_same_items(
    run_dir: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two models side by side have a paired difference; a model beside its copy has none, and no item turns."""
    one, other = str(run_dir / "step_00000010"), tmp_path / "copy"
    shutil.copytree(one, other)
    task = f"--tasks={folder / 'pairs.yaml'}"
    corpus = tmp_path / "corpus.txt"
    pairs = map(json.loads, (folder / "pairs.jsonl").read_text(encoding="utf-8").splitlines())
    corpus.write_text("\n".join(pair["good"] for pair in pairs), encoding="utf-8")
    models = [one, str(run_dir / "step_00000030"), str(other)]
    found = evaluated(tmp_path, *models, task, "--cases=2", f"--corpus={corpus}")
    side_by_side, differences, overlaps = found["tables"]
    assert [name.split("/")[-1] for name in side_by_side["columns"][2:5]] == [Path(m).name for m in models]
    far, same = (dict(zip(differences["columns"], row, strict=True)) for row in differences["rows"])
    assert list(same.values())[3:] == ["0.0 ± 0.0", 1, "no difference shown", 0, 0]
    a, b = (found["values"][name]["pairs"]["acc"]["value"] for name in models[:2])
    assert far["difference"].partition(" ")[0] == f"{100 * (b - a):.1f}"
    assert far["turned right"] - far["turned wrong"] == pytest.approx(24 * (b - a))
    assert len(overlaps["rows"]) == 3
    turned = [group for group in found["examples"] if group["items"]]
    assert turned and any("training text (" in text for text in turned[0]["items"][0]["texts"])


def test_all_steps_of_a_run_make_a_curve(run_dir: Path, folder: Path, tmp_path: Path) -> None:
    """Each step has a row, and the highest step is compared with the last one."""
    found = evaluated(tmp_path, str(run_dir), "--all_steps=true", f"--tasks=[{folder / 'letters.yaml'}]", "--limit=9")
    curve, falls = found["tables"]
    assert [row[0] for row in curve["rows"]] == ["step 10", "step 20", "step 30"]
    top = max((row[1] for row in curve["rows"]), key=lambda cell: float(cell.partition(" ")[0]))
    assert dict(zip(falls["columns"], falls["rows"][0], strict=True))["result"] == top
    with pytest.raises(UserError, match="has no steps for --all_steps"):
        evaluated(tmp_path, str(run_dir / "step_00000010"), "--all_steps=true", f"--tasks=[{folder / 'letters.yaml'}]")


def test_mistakes_are_one_line(run_dir: Path, folder: Path, tmp_path: Path) -> None:
    """An unknown task, a missing folder, a model given twice and a folder in the cache's place are named."""
    step = str(run_dir / "step_00000010")
    (tmp_path / "file").touch()
    for arguments, message in (
        ([step, "--tasks=[mmmlu]"], r"--tasks: there is no task mmmlu; give a YAML file or one of .*cmmlu"),
        ([step, "--tasks=[no.yaml]"], "--tasks: no.yaml does not exist"),
        (
            [step, "--tasks=[xcopa]", f"--task_dir={tmp_path}"],
            r"has no file test.zh.jsonl for task xcopa; .*--task_dir",
        ),
        ([step, step, "--tasks=[xcopa]"], "RUN_DIR: a model is given twice"),
        ([step, run_dir.as_posix()], "several models are compared on --tasks or --texts"),
    ):
        with pytest.raises(UserError, match=message):
            run(["eval", *arguments, *CPU])
    with pytest.raises(UserError, match=r"--cache: .* cannot be written"):
        run(["eval", step, f"--tasks=[{folder / 'pairs.yaml'}]", f"--cache={tmp_path / 'file'}", *CPU])


def test_items_are_found_in_a_corpus(folder: Path, tmp_path: Path) -> None:
    """An item whose 13 words in a row are in a document is contaminated; the nearest document is the one with it."""
    items = read_items(load_task(str(folder / "pairs.yaml")), folder).items
    held = next(item for item in items if len(text_of(item)) > 13)
    lines = [json.dumps({"text": f"第{i}篇 完全不同的文章"}, ensure_ascii=False) for i in range(30)]
    lines[7] = json.dumps({"text": f"前面的话，{text_of(held)}，后面的话"}, ensure_ascii=False)
    (tmp_path / "c.jsonl").write_text("\n".join(lines), encoding="utf-8")
    found, others = overlaps([items[: len(items) - 1], items[-1:]], [tmp_path / "c.jsonl"], n_words=5)
    assert held.id in found.found and not found.found & found.too_short
    assert others.found | others.too_short <= {items[-1].id}
    (short,) = overlaps([items], [tmp_path / "c.jsonl"], n_words=500)
    assert short.too_short == {item.id for item in items}
    (near,) = nearest([held], [tmp_path / "c.jsonl"])[0]
    assert near.share == 1 and text_of(held) in near.text
