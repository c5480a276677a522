"""Two ways that readers take, with nothing but the pages: texts and chats to a model, and a YAML of LLaMA-Factory."""

import json
import os
import random
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from babyllm.config import command_line as config
from babyllm.schedule import learning_rate
from babyllm.store.corpus import open_corpus
from babyllm.training.stages.fine_tuning_config import FineTuneConfig

ROOT = Path(__file__).resolve().parents[2]
HOW_TO = ROOT / "docs/en/how-to"
# Characters of everyday words: texts made of few words would be cleaned away, as repetitions.
CHARACTERS = (
    "人天地山水火木金土日月年时分秒大小多少上下左右前后东西南北春夏秋冬风雨雪花草树叶鸟鱼虫马牛羊猫狗父母兄弟姐妹"
    "朋友老师学生工作生活吃喝玩乐走跑飞看听说读写画唱买卖开关进出来去高低长短快慢新旧好坏红黄蓝绿白黑家门窗桌椅书"
    "笔纸灯车船路桥城市村镇店铺饭菜茶酒米面糖盐油汤杯碗早晚今明昨周末节假旅行故事问题办法意思心情身体健康希望努力"
)
# Flags that make each command of a page short; the page's own come first.
SHORT = {
    "train-tokenizer": ["--vocab_size=1000"],
    "train_pretrain.py": [
        *("--plan.steps=20", "--data.seq_len=64", "--data.global_batch=4", "--model.n_layers=1", "--model.d_model=32"),
        *("--model.n_heads=2", "--model.n_kv_heads=1", "--runtime.processes=1", "--eval_every=10"),
    ],
    "train_sft.py": ["--plan.steps=20", "--data.seq_len=64", "--data.global_batch=8", "--runtime.processes=1"],
    "sft": ["--plan.steps=2", "--data.seq_len=64", "--runtime.processes=1", "--samples=0"],
    "generate": ["--max_new_tokens=10"],
    "chat": ["--max_new_tokens=10"],
}


def commands(page: Path) -> list[list[str]]:
    """The commands of a page's blocks that are not marked as not run, split into words."""
    text = re.sub(r"<!-- not run: .*?-->\n```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def run(words: list[str], folder: Path, said: str = "") -> str:
    """Run one command of a page in a folder, with flags that make it short; returns what it printed."""
    program = next(word for word in words[1:] if not word.startswith("-")) if words[0] == "python" else words[1]
    short = SHORT.get(program, [])
    changed = {flag.partition("=")[0] for flag in short}
    kept = [word for word in words[1:] if word.partition("=")[0] not in changed]
    start = [str(ROOT / kept[0]), *kept[1:]] if words[0] == "python" else ["-m", "babyllm", *kept]
    assert words[0] in ("python", "babyllm"), words
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
    done = subprocess.run(
        [sys.executable, *start, *short],
        cwd=folder,
        env=environment,
        input=said,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        timeout=600,
    )
    assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout[-3000:]}"
    return done.stdout


def sentence(rng: random.Random) -> str:
    """Made words of two characters, with the little words of Chinese between them."""
    words = ["".join(rng.choices(CHARACTERS, k=2)) for _ in range(rng.randint(4, 8))]
    return (
        "".join(word + rng.choice(["的", "了", "在", "是", "和", "，", "", ""]) for word in words).rstrip("，") + "。"
    )


def write_texts(folder: Path, rng: random.Random) -> None:
    """A folder of Chinese texts as people have them: some in UTF-8, some in GBK, one of them twice."""
    folder.mkdir()
    for i in range(60):
        text = "\n".join("".join(sentence(rng) for _ in range(6)) for _ in range(5))
        (folder / f"{i:02}.txt").write_bytes(text.encode("gbk" if i % 3 == 0 else "utf-8"))
    (folder / "copy.txt").write_bytes((folder / "01.txt").read_bytes())


def write_chats(file: Path, rng: random.Random) -> None:
    """A file of chats, a line each, of one or two turns."""
    lines = []
    for i in range(200):
        turns = [("user", f"{sentence(rng)}第{i}个问题？"), ("assistant", sentence(rng))]
        turns += [("user", f"还有呢？{i}"), ("assistant", sentence(rng))] if i % 3 == 0 else []
        record = {"messages": [{"role": role, "content": content} for role, content in turns]}
        lines.append(json.dumps(record, ensure_ascii=False))
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture(scope="module")
def journey(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """The folder after own-corpus.md and own-chats.md were followed, and what each command printed."""
    folder, rng = tmp_path_factory.mktemp("journey"), random.Random(7)
    write_texts(folder / "texts", rng)
    write_chats(folder / "chats.jsonl", rng)
    printed = {}
    for page in ("own-corpus.md", "own-chats.md"):
        for words in commands(HOW_TO / page):
            said = "你好\n成都有什么好吃的？\n" if words[:2] == ["babyllm", "chat"] else ""
            printed[" ".join(words[:3])] = run(words, folder, said)
    return folder, printed


@pytest.mark.campaign
def test_a_folder_of_texts_and_a_file_of_chats_become_a_model_that_answers(
    journey: tuple[Path, dict[str, str]],
) -> None:
    """The two pages, followed to the letter, end in a run that chats, from texts in two encodings with a copy."""
    folder, printed = journey
    assert (folder / "data/clean/report.html").exists()
    assert len(list(open_corpus(folder / "data/unique").documents())) == 60, "the copy was dropped"
    assert (folder / "runs/mine/latest").exists() and (folder / "runs/chat/latest").exists()
    assert printed["babyllm generate runs/mine"].strip() and printed["babyllm chat runs/chat"].strip()
    assert "held out" in printed["babyllm eval runs/chat"] or "held-out" in printed["babyllm eval runs/chat"]
    metrics = [json.loads(line) for line in (folder / "runs/chat/metrics.jsonl").read_text("utf-8").splitlines()]
    losses = [record["loss"] for record in metrics if "loss" in record]
    assert losses[-1] < losses[0]
    assert any("val/all/loss" in record for record in metrics)


LLAMA_FACTORY = """
### model
model_name_or_path: runs/mine
### method
stage: sft
do_train: true
finetuning_type: lora
lora_rank: 8
lora_alpha: 16
lora_dropout: 0.05
lora_target: all
### dataset
dataset: chats.jsonl
template: qwen
cutoff_len: 64
overwrite_cache: true
preprocessing_num_workers: 16
val_size: 0.1
### output
output_dir: runs/moved
logging_steps: 1
save_steps: 500
plot_loss: true
overwrite_output_dir: true
### train
per_device_train_batch_size: 1
gradient_accumulation_steps: 8
learning_rate: 1.0e-4
num_train_epochs: 3.0
lr_scheduler_type: cosine
warmup_ratio: 0.1
bf16: false
"""


def table() -> dict[str, list[str]]:
    """The keys of babyllm by name of LLaMA-Factory, from the page."""
    text = (HOW_TO / "from-llama-factory.md").read_text(encoding="utf-8")
    lines = text.partition("## The keys")[2].partition("\n## ")[0].splitlines()
    found: dict[str, list[str]] = {}
    for line in lines:
        if line.startswith("| `"):
            theirs, ours, _ = (cell.strip() for cell in line.split("|")[1:-1])
            names, keys = re.findall(r"`([a-z_0-9]+)`", theirs), re.findall(r"`([a-z_0-9.]+)`", ours)
            for place, name in enumerate(names):
                found.setdefault(name, [])
                found[name] += keys if len(keys) != len(names) else [keys[place]]
    return found


def translated(theirs: dict[str, Any]) -> list[str]:
    """The flags that a reader writes, with the table and the remarks beside its keys."""
    keys, flags = table(), []
    batch = theirs["per_device_train_batch_size"] * theirs["gradient_accumulation_steps"]
    remarks = {
        "template": {"qwen": "chatml"},
        "gradient_accumulation_steps": {8: batch},
        "lora_target": {"all": "[all]"},
        "bf16": {False: "float32"},
    }
    for name, value in theirs.items():
        if name in ("stage", "do_train", "finetuning_type", "preprocessing_num_workers"):
            continue  # the command itself, and what a table of keys of a run does not have
        assert name in keys, f"the page does not mention {name}"
        if name == "lr_scheduler_type":
            flags += ["--plan.cosine=0.9", "--plan.stable=0", "--plan.decay=0", "--plan.min_lr=0"]
        elif keys[name]:
            flags.append(f"--{keys[name][0]}={remarks.get(name, {}).get(value, value)}")
    return flags


def test_a_yaml_of_llama_factory_means_the_same_with_the_table() -> None:
    """Each of its keys is on the page, the flags that the page names are accepted, and they mean the same."""
    ours = config.parse(FineTuneConfig, translated(yaml.safe_load(LLAMA_FACTORY)), prog="sft")
    assert (ours.lora.rank, ours.lora.alpha, ours.lora.dropout, ours.lora.targets) == (8, 16, 0.05, ["all"])
    assert (ours.init_from, ours.run_dir, ours.data.template) == ("runs/mine", "runs/moved", "chatml")
    assert (ours.data.seq_len, ours.data.held_out, ours.data.micro_batch, ours.data.global_batch) == (64, 0.1, 1, 8)
    plan = replace(ours.plan, steps=100)
    assert learning_rate(plan, 9) == pytest.approx(1e-4) and learning_rate(plan, 99) == pytest.approx(0, abs=1e-9)
    assert learning_rate(plan, 54) == pytest.approx(0.5e-4), "half of the cosine"


@pytest.mark.campaign
def test_a_yaml_of_llama_factory_runs_with_the_table(journey: tuple[Path, dict[str, str]]) -> None:
    """The same flags train two steps of an adapter on the model of the other journey."""
    folder, _ = journey
    run(["babyllm", "sft", *translated(yaml.safe_load(LLAMA_FACTORY))], folder)
    assert (folder / "runs/moved/latest").exists()


def test_names_of_llama_factory_in_a_file_lead_to_ours(tmp_path: Path) -> None:
    """Whoever hands over the YAML as it is gets one line that names the key to write."""
    folder = tmp_path
    (folder / "theirs.yaml").write_text(LLAMA_FACTORY, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "babyllm", "sft", "--config", "theirs.yaml"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
    )
    assert done.returncode == 1 and "init_from" in done.stderr and "Traceback" not in done.stderr
