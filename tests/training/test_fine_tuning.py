"""Fine-tuning as a whole: losses and gradients in any layout, resuming, mixes, the script on real conversations."""

import json
import math
import os
import random
import runpy
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from training_fixtures import SCRIPT, Worker

import babyllm
from babyllm.chat.load import load_template
from babyllm.chat.messages import Message
from babyllm.config import parse
from babyllm.errors import UserError
from babyllm.files import locked
from babyllm.interop.huggingface import save_model
from babyllm.model.config import ModelConfig
from babyllm.model.transformer import Transformer
from babyllm.runtime import Runtime
from babyllm.tokenizer import Tokenizer
from babyllm.training.stages.fine_tuning import new_run
from babyllm.training.stages.fine_tuning_config import FineTuneConfig

N, SEQ_LEN = 24, 64
UNITS = ("token", "turn", "conversation")
TASKS = ("judge", "tell", "判断")
DEVICE = ("--runtime.device=cpu", "--runtime.dtype=float32", "--runtime.threads=1", "--data.work.workers=1")
LORA = ("--lora.rank=4", "--lora.dropout=0.1", "--lora.lora_plus=4")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer, tiny: Callable[..., ModelConfig]) -> Path:
    """A model directory to start from; tests must not change it."""
    directory = tmp_path_factory.mktemp("base")
    torch.manual_seed(1)
    save_model(directory, Transformer(tiny()), tokenizer)
    return directory


@pytest.fixture(scope="module")
def chats(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Path:
    """24 conversations with one or two answers of very different lengths; three of them fill a row of 64 tokens."""
    rng = random.Random(3)
    template = load_template("plain", tokenizer)
    records: list[dict[str, Any]] = []
    while len(records) < N:
        messages = []
        for _ in range(rng.randint(1, 2)):
            messages.append({"role": "user", "content": rng.choice(["天", "a?", "好 b"])})
            answer = "".join(rng.choices("今天气很好abc", k=rng.choice([1, 6])))
            messages.append({"role": "assistant", "content": answer})
        n_inputs = len(template.render([Message(**m) for m in messages]).ids) - 1
        if 16 < n_inputs <= 21:
            records.append({"messages": messages, "task": TASKS[len(records) % 3]})
    file = tmp_path_factory.mktemp("chats") / "chats.jsonl"
    file.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    return file


def flags(base: Path, chats: Path, run_dir: Path, *more: str) -> list[str]:
    """The flags of a run whose global batch has all conversations."""
    return [
        *(f"--init_from={base}", f"--data.path={chats}", f"--run_dir={run_dir}", "--data.template=plain"),
        *(f"--data.seq_len={SEQ_LEN}", "--data.held_out=0", "--plan.peak_lr=0.01", "--samples=0", *DEVICE, *more),
    ]


LAYOUTS = {
    "single conversations": (1, ("--data.global_batch=24", "--data.micro_batch=1")),
    "padded": (1, ("--data.global_batch=24", "--data.micro_batch=24")),
    "padded, 2 ranks": (2, ("--data.global_batch=24", "--data.micro_batch=4")),
    "padded, 4 ranks": (4, ("--data.global_batch=24", "--data.micro_batch=3")),
    "packed": (1, ("--data.pack", "--data.global_batch=8", "--data.micro_batch=8")),
    "packed, 2 ranks": (2, ("--data.pack", "--data.global_batch=8", "--data.micro_batch=2")),
    "packed, 4 ranks": (4, ("--data.pack", "--data.global_batch=8", "--data.micro_batch=1")),
}


def by_hand(base: Path, chats: Path, unit: str) -> tuple[float, np.ndarray]:
    """Loss in nats and gradient (parameters,) by definition: one conversation at a time, one mean per unit."""
    model, tokenizer = babyllm.load(base)
    template = load_template("plain", tokenizer)
    units = []
    for line in chats.read_text(encoding="utf-8").splitlines():
        rendered = template.render([Message(**message) for message in json.loads(line)["messages"]])
        ids = torch.from_numpy(rendered.ids.astype(np.int64))[None]
        nats, turns = model(ids[:, :-1], ids[:, 1:])[0], torch.from_numpy(rendered.turns[1:].astype(np.int64))
        if unit == "token":
            units += list(nats[turns > 0])
        elif unit == "turn":
            units += [nats[turns == turn].mean() for turn in range(1, int(turns.max()) + 1)]
        else:
            units.append(nats[turns > 0].mean())
    loss = torch.stack(units).mean()
    loss.backward()
    gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    return loss.item(), gradient.numpy()


@pytest.fixture(scope="module")
def steps(worker: Worker, base: Path, chats: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the results of one step for each normalisation and layout."""
    folder = tmp_path_factory.mktemp("steps")
    for ranks in (1, 2, 4):
        runs = {
            str(folder / f"{unit}, {name}.npz"): flags(base, chats, folder / "run", f"--normalise={unit}", *layout)
            for unit in UNITS
            for name, (n, layout) in LAYOUTS.items()
            if n == ranks
        }
        if ranks == 1:
            n_turns = chats.read_text(encoding="utf-8").count('"assistant"')
            each = ("--normalise=conversation", "--data.turns=each", f"--data.global_batch={n_turns}")
            runs[str(folder / "each.npz")] = flags(base, chats, folder / "each", *each)
        worker.run("fine_tuning_steps", ranks=ranks, runs=runs)
    return folder


@pytest.mark.parametrize("unit", UNITS)
def test_losses_and_gradients_do_not_depend_on_the_layout(base: Path, chats: Path, steps: Path, unit: str) -> None:
    """Single, padded or packed, in any micro-batches, on 1, 2 or 4 ranks, they equal the definition within 1e-5."""
    loss, gradient = by_hand(base, chats, unit)
    for name in LAYOUTS:
        found = np.load(steps / f"{unit}, {name}.npz")
        assert abs(float(found["loss"]) - loss) < 1e-5, name
        np.testing.assert_allclose(found["gradient"], gradient, atol=1e-5, err_msg=name)
        assert float(found["padding"]) < (0.3 if "single" in name or "packed" in name else 0.5)


def test_the_loss_of_each_task_is_exact_over_ranks(base: Path, chats: Path, steps: Path, tmp_path: Path) -> None:
    """Each task's loss is the mean over its own tokens, on whichever ranks they are."""
    for task in TASKS:
        lines = [line for line in chats.read_text(encoding="utf-8").splitlines() if json.loads(line)["task"] == task]
        (tmp_path / "part.jsonl").write_text("\n".join(lines), encoding="utf-8")
        expected = by_hand(base, tmp_path / "part.jsonl", "token")[0]
        for name in LAYOUTS:
            assert abs(float(np.load(steps / f"token, {name}.npz")[f"loss/{task}"]) - expected) < 1e-5, (name, task)


@pytest.mark.parametrize("unit", UNITS)
def test_the_loss_of_end_tokens_is_exact(base: Path, chats: Path, steps: Path, unit: str) -> None:
    """It is a mean per token, whatever the loss is a mean over and the layout is; here no other token is special."""
    model, tokenizer = babyllm.load(base)
    template, ends = load_template("plain", tokenizer), []
    for line in chats.read_text(encoding="utf-8").splitlines():
        rendered = template.render([Message(**message) for message in json.loads(line)["messages"]])
        ids = torch.from_numpy(rendered.ids.astype(np.int64))[None]
        is_end = (rendered.turns[1:] > 0) & np.isin(rendered.ids[1:], template.end_ids)
        ends.append(model(ids[:, :-1], ids[:, 1:])[0].detach()[torch.from_numpy(is_end)])
    expected = float(torch.cat(ends).mean())
    for name in LAYOUTS:
        found = np.load(steps / f"{unit}, {name}.npz")
        assert abs(float(found["loss/end"]) - expected) < 1e-5, name
        assert found["loss/special"] == found["loss/end"], name


def test_by_turn_is_each_turn_as_a_sample_of_its_own(chats: Path, steps: Path) -> None:
    """The mean over turns equals the mean over conversations if each answer is its own conversation."""
    whole, each = np.load(steps / "turn, padded.npz"), np.load(steps / "each.npz")
    assert chats.read_text(encoding="utf-8").count('"assistant"') > N
    assert abs(float(whole["loss"]) - float(each["loss"])) < 1e-5
    np.testing.assert_allclose(whole["gradient"], each["gradient"], atol=1e-5)


def files(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


KINDS = ("full", "lora", "new tokens", "frozen", "packed")


@pytest.mark.parametrize(
    ("kind", "ranks"),
    [
        *((kind, 2 if kind == "lora" else 1) for kind in KINDS),
        *(pytest.param(kind, 2, marks=pytest.mark.campaign) for kind in KINDS if kind != "lora"),
    ],
)
def test_a_resumed_run_is_the_straight_run(
    worker: Worker, base: Path, chats: Path, tmp_path: Path, kind: str, ranks: int
) -> None:
    """Steps that are resumed from the fourth of eight write the same files as without that, bit for bit."""
    more = {
        "full": ("--model.dropout=0.1",),
        "lora": LORA,
        "new tokens": (*LORA, "--lora.base=nf4", "--lora.double_quant", "--data.template=llama3"),
        "frozen": ("--freeze.last_n_layers=1",),
        "packed": ("--data.pack",),
    }[kind]
    common = [*more, "--data.global_batch=4", "--log_every=1", "--save_every=4", "--eval_every=0", "--keep=9"]
    schedule = ["--plan.schedule=constant", "--plan.warmup=2"]
    straight, parts = tmp_path / "straight", tmp_path / "parts"
    arguments = flags(base, chats, parts, *common, *schedule, "--plan.steps=8")
    for _ in range(2):
        worker.run("script", ranks=ranks, name="train_sft.py", arguments=arguments)
        if not straight.exists():
            shutil.copytree(parts, straight)  # an adapter stores its base's path, so both runs need the same name
            shutil.rmtree(parts / "step_00000008")
            (parts / "latest").write_text("step_00000004\n", encoding="utf-8")
    assert "step_00000004" in worker.output.read_text()  # which the second one goes on from
    whole, resumed = (files(run / "step_00000008") for run in (straight, parts))
    assert whole.keys() == resumed.keys()
    assert [name for name in whole if whole[name] != resumed[name]] == []
    weights = "adapter_model.safetensors" if kind in ("lora", "new tokens") else "model.safetensors"
    assert weights in whole and "chat_template" in json.loads(whole["tokenizer_config.json"])
    assert files(straight / "step_00000004")[weights] != whole[weights]


def test_only_what_is_trained_is_in_the_resume_state(worker: Worker, base: Path, chats: Path, tmp_path: Path) -> None:
    """A LoRA step is an adapter and its optimizer's state: a fraction of the model's size."""
    arguments = flags(base, chats, tmp_path / "run", *LORA, "--data.global_batch=8", "--plan.steps=2", "--eval_every=0")
    worker.run("script", name="train_sft.py", arguments=arguments)
    step = tmp_path / "run" / "step_00000002"
    sizes = {path.name: path.stat().st_size for path in step.iterdir()}
    assert "model.safetensors" not in sizes
    assert sizes["optimizer.safetensors"] < 0.6 * (base / "model.safetensors").stat().st_size
    model, _ = babyllm.load(tmp_path / "run")
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert trained and all("lora_" in name for name in trained)


def test_mixes_stages_and_replay(worker: Worker, base: Path, chats: Path, token_dir: Path, tmp_path: Path) -> None:
    """Tasks follow the configured stages, mixed with pretraining text; each is logged while it occurs."""
    stages = "[{until: 0.5, mix: {judge: 1}}, {until: 1.0, mix: {tell: 3, judge: 1, replay: 4}}]"
    more = (f"--data.stages={stages}", f"--data.replay={token_dir}", "--data.global_batch=8", "--plan.steps=8")
    for kind in ((), ("--data.pack",)):
        run_dir = tmp_path / f"run{len(kind)}"
        arguments = flags(base, chats, run_dir, *more, *kind, "--log_every=1", "--eval_every=0")
        worker.run("script", name="train_sft.py", arguments=arguments)
        records = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
        assert [record["step"] for record in records] == list(range(1, 9))
        tasks = [
            {k.removeprefix("loss/") for k in record if k.startswith("loss/")} - {"special", "end"}
            for record in records
        ]
        assert tasks[:4] == [{"judge"}] * 4
        assert set().union(*tasks[4:]) == {"judge", "tell", "replay"}
        assert all(0 <= record["padding"] < 0.8 for record in records)


def test_replay_needs_a_share(runtime: Runtime, base: Path, chats: Path, token_dir: Path, tmp_path: Path) -> None:
    """Replay without a mix that sets its share is refused."""
    arguments = flags(base, chats, tmp_path / "run", f"--data.replay={token_dir}")
    with pytest.raises(UserError, match="say how much of it, with"):
        new_run(parse(FineTuneConfig, arguments, prog="test"), runtime)


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--init_from=nowhere", "nowhere.*babyllm pretrain"),
        ("--data.path=nowhere.jsonl", "nowhere.jsonl"),
        ("--model.n_layers=3", "has 2 layers, of which the first can be kept"),
        ("--model.d_model=64", "model.d_model: the shape is that of"),
        ("--data.seq_len=65", "was made for at most 64 tokens"),
        ("--data.seq_len=0", "must be at least 1"),
        ("--lora.targets=[q_prog]", "lora.targets|lora.rank"),
        ("--data.mix={judge: 1, tel: 1}", "no domain 'tel': did you mean 'tell'"),
        ("--data.template=chatmi", "chatmi"),
        ("--data.weights={user: 2}", "user=2: a role is trained on, 1, or not, 0"),
        ("--freeze.parts=[layer]", "did you mean"),
    ],
)
def test_a_mistake_is_one_line(
    runtime: Runtime, base: Path, chats: Path, tmp_path: Path, flag: str, message: str
) -> None:
    """Settings that do not fit are refused at the start, with the flag or file at fault."""
    arguments = flags(base, chats, tmp_path / "run", "--lora.rank=2" if "lora" in flag else "--plan.steps=1", flag)
    with pytest.raises(UserError, match=message) as found:
        new_run(parse(FineTuneConfig, arguments, prog="test"), runtime)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--lora.targets=[q_prog]", "q_prog"),
        ("--freeze.parts=[layer]", "did you mean"),
        ("--plan.warmup=-1", "plan.warmup=-1: must be at least 0"),
        ("--plan.cosine_cycle=0.5", "plan.cosine_cycle=0.5"),
        ("--plan.peak_lr=-1", "plan.peak_lr=-1"),
        ("--data.micro_batch=7", "data.micro_batch=7: does not divide"),
    ],
)
def test_a_mistake_is_told_before_data_are_prepared(
    runtime: Runtime, base: Path, tmp_path: Path, flag: str, message: str
) -> None:
    """Mistakes that show without the data are reported first, since preparing the data may take long."""
    (tmp_path / "broken.jsonl").write_text("what preparing would stumble over")
    arguments = flags(base, tmp_path / "broken.jsonl", tmp_path / "run", "--lora.rank=2", "--plan.epochs=2", flag)
    with pytest.raises(UserError, match=message):
        new_run(parse(FineTuneConfig, arguments, prog="test"), runtime)
    assert not (tmp_path / "run").exists()


def test_a_refused_run_leaves_the_running_one_alone(
    base: Path, chats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A second process in a run directory is refused before it prepares its conversations there."""
    monkeypatch.setattr("babyllm.training.beginning.LOCK_PATIENCE_S", 0.0)
    monkeypatch.setattr(sys, "argv", ["train_sft.py", *flags(base, chats, tmp_path / "run", "--plan.steps=1")])
    (tmp_path / "run").mkdir()
    with locked(tmp_path / "run" / ".lock", 0.0), pytest.raises(SystemExit) as exit:
        runpy.run_path(str(SCRIPT.with_name("train_sft.py")), run_name="__main__")
    assert exit.value.code == 1
    assert "run: another process is training there" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]


def test_before_and_after(worker: Worker, base: Path, tmp_path: Path) -> None:
    """The run prints held-out loss and accuracy at step 0 and at the end, and the model has learned to classify."""
    rng = random.Random(1)
    good, bad = "很好 good 开心", "很差 bad 生气"
    records = []
    for i in range(300):
        word = rng.choice((good if i % 2 else bad).split())
        noise = "".join(rng.choices("天地人abc", k=4))
        records.append({"prompt": f"{noise}{word}", "answer": "好" if i % 2 else "坏", "task": "judge"})
    file = tmp_path / "judge.jsonl"
    file.write_text("\n".join(json.dumps(record, ensure_ascii=False) for record in records), encoding="utf-8")
    more = ("--data.held_out=0.2", "--data.global_batch=16", "--plan.epochs=8", "--samples=1", "--data.template=chatml")
    worker.run("script", name="train_sft.py", arguments=flags(base, file, tmp_path / "run", *more))
    told = worker.output.read_text()
    assert "step 0: held-out loss" in told and "held-out accuracy" in told and "babyllm chat" in told
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    accuracies = {r["step"]: r["val/judge/accuracy"] for r in records if "val/judge/accuracy" in r}
    assert accuracies[0] < 0.75 and accuracies[max(accuracies)] > 0.9
    # The best step is the one to chat with.
    model, tokenizer = babyllm.load(tmp_path / "run")
    template = load_template(None, tokenizer, tmp_path / "run" / (tmp_path / "run" / "latest").read_text().strip())
    ids = template.prompt([Message("user", "abc很好")])
    logits = model.logits(torch.tensor([ids]))[0, -1]
    assert tokenizer.decode([int(logits.argmax())]) in ("好", "")


def test_each_held_out_conversation_is_shown_once(worker: Worker, base: Path, tmp_path: Path) -> None:
    """With fewer held-out conversations than samples, none is shown twice."""
    file = tmp_path / "few.jsonl"
    records = [{"prompt": f"{'天地人'[i % 3]}{i}", "answer": "好", "task": "judge"} for i in range(30)]
    file.write_text("\n".join(json.dumps(record, ensure_ascii=False) for record in records), encoding="utf-8")
    more = ("--data.held_out=0.1", "--data.global_batch=4", "--plan.steps=1", "--samples=20")
    worker.run("script", name="train_sft.py", arguments=flags(base, file, tmp_path / "run", *more))
    lines = [json.loads(line) for line in (tmp_path / "run" / "samples.jsonl").read_text("utf-8").splitlines()]
    shown = [(line["step"], line["text"]) for line in lines]
    assert shown
    assert len(shown) == len(set(shown)), shown


SETS = ("alpaca_zh_demo.json", "alpaca_en_demo.json", "sharegpt_zh_1k.jsonl", "identity.json")


@pytest.mark.parametrize("name", SETS)
def test_real_conversations(worker: Worker, base: Path, tmp_path: Path, name: str) -> None:
    """Training on a real data set works: every record is used or counted as rejected, and the held-out loss falls."""
    if "BABYLLM_DATA" not in os.environ:
        pytest.skip("needs BABYLLM_DATA")
    file = Path(os.environ["BABYLLM_DATA"]) / "sft" / name
    more = ("--data.held_out=0.1", "--data.too_long=truncate", "--data.global_batch=16", "--plan.steps=40")
    arguments = flags(base, file, tmp_path / "run", *more, "--data.template=chatml", "--normalise=turn")
    worker.run("script", name="train_sft.py", arguments=arguments)
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [record["val/all/loss"] for record in records if "val/all/loss" in record]
    assert losses[-1] < 0.8 * losses[0] and math.isfinite(losses[-1])
