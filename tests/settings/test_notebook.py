"""Training, chat and evaluation from Python in a few lines, in one process."""

import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import babyllm
from babyllm.documents import Document
from babyllm.errors import naming_arguments

API = Path(__file__).resolve().parents[2] / "docs/en/reference/api.md"
SMALL = {
    "model": {"n_layers": 1, "d_model": 32, "n_heads": 2, "n_kv_heads": 1, "vocab_size": 400},
    "data": {"seq_len": 32, "global_batch": 4},
    "runtime": {"device": "cpu", "dtype": "float32", "threads": 1},
    "prompts": [],
}


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory, corpus: list[Document]) -> Path:
    """A folder with `texts/` and `chats.jsonl`."""
    folder = tmp_path_factory.mktemp("notebook")
    (folder / "texts").mkdir()
    lines = [json.dumps({"text": document.text}, ensure_ascii=False) for document in corpus]
    (folder / "texts" / "notes.jsonl").write_text("\n".join(lines), encoding="utf-8")
    said = [("天", "好"), ("书", "看"), ("a?", "one"), ("b?", "two")] * 10
    chats = [
        {"messages": [{"role": "user", "content": f"{i} {question}"}, {"role": "assistant", "content": answer}]}
        for i, (question, answer) in enumerate(said)
    ]
    (folder / "chats.jsonl").write_text("\n".join(json.dumps(chat) for chat in chats), encoding="utf-8")
    return folder


@pytest.fixture
def here(material: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The same folder, as the one to work in; what follows finds this process as it was."""
    before = torch.get_num_threads()
    monkeypatch.chdir(material)
    yield material
    torch.set_num_threads(before)


@pytest.mark.slow
def test_the_examples_of_the_page_run(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The code of reference/api.md runs, here with a smaller model and fewer steps."""
    blocks = re.findall(r"```python\n(.*?)```", API.read_text(encoding="utf-8"), re.DOTALL)
    code = "\n".join(blocks).replace("steps=20", "steps=2, **small").replace('"model": {"preset": "nano"}', "**small")
    code = code.replace("steps=10", "steps=1, samples=0, data=small['data']")
    namespace: dict[str, Any] = {"small": SMALL}
    exec(code, namespace)
    run, chat = namespace["run"], namespace["chat"]
    assert run.is_finished and run.step == run.n_steps == 2 and run.stop_reason is None
    assert run.metrics["val/all/bpb"] > 0 and "loss" in run.metrics
    assert [message["role"] for message in chat.messages] == ["user", "assistant"] * 2
    assert chat.messages[1]["content"] in capsys.readouterr().out
    assert babyllm.evaluate_model("runs/mine")["all/bpb"] == pytest.approx(run.metrics["val/all/bpb"])


def both(name: str, data: Path) -> tuple[Any, Any, str]:
    """A model trained on token data and on conversations, and what it answers."""
    pretrained = babyllm.pretrain(data, f"{name}/base", steps=2, **{**SMALL, "model": {"d_model": 32, "n_layers": 1}})
    tuned = babyllm.finetune(
        ["chats.jsonl"],
        f"{name}/chat",
        init_from=f"{name}/base",
        steps=2,
        data={"seq_len": 32, "global_batch": 4},
        runtime=babyllm.RuntimeConfig(device="cpu", dtype="float32", threads=1),
        samples=0,
    )
    chat = babyllm.load_chat(f"{name}/chat", device="cpu", max_new_tokens=4, seed=5)
    return pretrained, tuned, chat.say("天")


TIMES = ("tokens_per_s", "data_wait", "memory_bytes", "mfu")


def of_training(run: Any) -> dict[str, Any]:
    return {name: value for name, value in run.metrics.items() if name not in TIMES}


def test_a_call_leaves_nothing_behind(here: Path, data: Path) -> None:
    """The same lines twice in one process make the same runs; settings and generators of torch stay as they were."""
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    handler = signal.getsignal(signal.SIGINT)
    first, second = both("first", data), both("second", data)
    assert torch.equal(torch.rand(3), expected)
    assert signal.getsignal(signal.SIGINT) is handler
    assert first[2] == second[2]
    assert [of_training(run) for run in first[:2]] == [of_training(run) for run in second[:2]]
    again = babyllm.pretrain(data, "first/base", steps=2, **{**SMALL, "model": {"d_model": 32, "n_layers": 1}})
    assert (again.step, again.tokens, again.is_finished) == (2, first[0].tokens, True)


def test_ctrl_c_ends_a_run_and_the_same_call_goes_on(here: Path, data: Path) -> None:
    """A run that Ctrl-C stops returns with what it saved; the next call is not stopped, and finishes the plan."""
    metrics = here / "stopped" / "metrics.jsonl"

    def interrupt() -> None:
        deadline = time.monotonic() + 60
        while not (metrics.is_file() and metrics.stat().st_size) and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    def call(steps: int) -> babyllm.TrainedRun:
        model = {"d_model": 32, "n_layers": 1}
        return babyllm.pretrain(data, "stopped", steps=steps, **{**SMALL, "model": model}, log_every=1, eval_every=0)

    thread = threading.Thread(target=interrupt)
    thread.start()
    stopped = call(100_000)
    thread.join()
    assert 0 < stopped.step < 100_000 and not stopped.is_finished and stopped.stop_reason
    finished = call(stopped.step + 2)
    assert finished.is_finished and finished.step == stopped.step + 2 and finished.stop_reason is None


MISTAKES: dict[str, tuple[Callable[[], Any], str]] = {
    "unknown key": (lambda: babyllm.pretrain("texts", plan={"stepz": 1}), r"unknown option plan\.stepz.*plan\.steps"),
    "short name": (lambda: babyllm.pretrain("texts", "run", steps=-1), r"^steps(=|: )-1.*must be"),
    "no texts": (lambda: babyllm.pretrain("nowhere", "run"), r"^nowhere: "),
    "processes": (
        lambda: babyllm.pretrain("texts", "run", runtime={"processes": 2}),
        r"^runtime\.processes=2: a call trains in its own process; .* torchrun",
    ),
    "no model": (lambda: babyllm.finetune("chats.jsonl", "run", init_from="nowhere"), r"^init_from: nowhere: "),
    "sampling": (lambda: babyllm.load_chat("run", temperature=-1), r"^temperature=-1: "),
    "evaluation": (lambda: babyllm.evaluate_model(".", max_tokenz=3), r"max_tokenz.*did you mean max_tokens"),
    "corpus": (
        lambda: babyllm.tokenize([Path("texts")], None, Path("run"), shard_tokens=0),  # type: ignore[arg-type]
        r"^shard_tokens=0: must be at least 1$",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_an_error_names_the_argument(name: str, here: Path) -> None:
    """What a Python caller reads names arguments and dotted keys, never a flag; nothing is written."""
    call, message = MISTAKES[name]
    with pytest.raises(babyllm.UserError, match=message) as caught:
        call()
    assert "--" not in str(caught.value) and "\n" not in str(caught.value)
    assert not (here / "run").exists()


def test_flags_become_keys() -> None:
    """Flags in a message lose their dashes, keys with an argument of their own take its name; other dashes stay."""
    names = {"data.path": "texts", "plan.steps": "steps"}
    message = "--data.path=a--b: give data.path.x, plan.steps or --run_dir (a -- b)"
    with pytest.raises(babyllm.UserError) as caught, naming_arguments(names):
        raise babyllm.UserError(message)
    assert str(caught.value) == "texts=a--b: give data.path.x, steps or run_dir (a -- b)"


def test_the_page_lists_every_public_name() -> None:
    """reference/api.md has a line for each of fewer than forty names, and each says what it is."""
    page = API.read_text(encoding="utf-8").partition("## Public names")[2].partition("## Public modules")[0]
    listed = re.findall(r"^\| `(\w+)", page, re.MULTILINE)
    assert sorted(listed) == babyllm.__all__
    assert 25 <= len(listed) < 40
    assert [name for name in listed if not (getattr(babyllm, name).__doc__ or "").strip()] == []
