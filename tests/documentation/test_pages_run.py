"""The commands of every page, run in order in a folder of their own, by the programs of `page_program.py`."""

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from page_commands import ROOT, blocks, english_pages

pytestmark = pytest.mark.campaign
PAGES = [page for page in english_pages() if any(not block.mark for block in blocks(page, "bash"))]
PROGRAM = Path(__file__).with_name("page_program.py")
CITIES = ["北京", "上海", "杭州", "成都", "西安", "南京", "武汉", "广州", "苏州", "青岛", "大连", "厦门"]
THINGS = ["天气", "早点", "公园", "地铁", "书店", "饭馆", "茶馆", "夜市", "湖水", "老街", "博物馆", "大学"]
WORDS = ["很好", "热闹", "安静", "便宜", "干净", "有名", "好吃", "漂亮", "拥挤", "一般", "新鲜", "古老"]
SMALL = "runs/small/"  # small versions of recipes have sizes of their own and run with tests/recipes
RUN = re.compile(r"(?:train_pretrain\.py|babyllm pretrain) .*--run_dir=(\S+)")
_SECONDS = 300


def sentences(n: int, seed: int = 0) -> str:
    """A text of `n` sentences, none of which is there twice in a few hundred."""
    parts = []
    for i in range(n):
        k = i * 7 + seed * 131
        city, thing, word = CITIES[k % 12], THINGS[(k // 12 + k) % 12], WORDS[(k // 5 + seed) % 12]
        parts.append(
            f"{city}的{thing}{word}，第{k}次来的人说，这里和{CITIES[(k + 5) % 12]}的{THINGS[(k // 7) % 12]}不一样。"
        )
    return "".join(parts)


def write_jsonl(path: Path, records: list[dict[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")


def write_texts(folder: Path, documents: Iterator[str]) -> None:
    """Folders of texts, ten documents a file; none is in two files, and they pass the default filters."""
    for name in ("texts", "raw", "new", "my_texts", "good"):
        (folder / name).mkdir()
        for i in range(40):
            text = "\n".join(itertools.islice(documents, 10))
            (folder / name / f"{i:02}.txt").write_text(text + "\n", encoding="utf-8")


def write_records(folder: Path) -> None:
    """What else a reader has: chats, pairs, prompts, questions."""
    chats: list[dict[str, object]] = []
    for i in range(120):
        turns = [("user", f"{CITIES[i % 12]}有什么{THINGS[i % 11]}？{i}"), ("assistant", sentences(1, seed=i))]
        turns += (
            [("user", f"那{CITIES[(i + 1) % 12]}呢？{i}"), ("assistant", sentences(1, seed=i + 500))] if i % 2 else []
        )
        chats.append({"messages": [{"role": role, "content": content} for role, content in turns]})
    write_jsonl(folder / "chats.jsonl", chats)
    write_jsonl(folder / "all.jsonl", chats)
    write_jsonl(folder / "more.jsonl", chats[:10])
    write_jsonl(folder / "chats" / "a.jsonl", chats)
    write_jsonl(folder / "eval" / "a.jsonl", chats[:2])
    asked = [f"{city}的{thing}怎么样？" for city in CITIES for thing in THINGS[:5]]
    write_jsonl(folder / "pairs.jsonl", [{"prompt": q, "chosen": f"{q}很好。", "rejected": "不知道。"} for q in asked])
    write_jsonl(folder / "prompts.jsonl", [{"prompt": q} for q in asked])
    write_jsonl(folder / "problems.jsonl", [{"prompt": f"{a} + {a} = ", "answer": str(2 * a)} for a in range(10, 60)])
    write_jsonl(folder / "questions.jsonl", [{"question": q, "answer": f"{q}很好。"} for q in asked[:8]])
    schema = {"type": "object", "properties": {"score": {"type": "integer"}}, "required": ["score"]}
    (folder / "score.schema.json").write_text(json.dumps(schema), encoding="utf-8")


def environment(folder: Path, endpoint: str = "") -> dict[str, str]:
    """That of a shell in which the programs of pages are those of `page_program.py`."""
    programs = folder.parent / "programs"
    programs.mkdir(exist_ok=True)
    for name in ("babyllm", "python", "pip", "tensorboard"):
        program = programs / name
        program.write_text(f'#!/bin/sh\nexec {sys.executable} {PROGRAM} {name} "$@"\n', encoding="utf-8")
        program.chmod(0o755)
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "PAGE_ENDPOINT": endpoint, "OMP_NUM_THREADS": "1"}


def shell(script: str, folder: Path, env: dict[str, str]) -> None:
    """Run lines of a shell and stop at the first that fails, with what it printed."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env=env,
        timeout=_SECONDS,
        text=True,
        encoding="utf-8",
        errors="replace",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, f"{script}\n{done.stdout[-3000:]}"


SAMPLE = "python train_pretrain.py --model.preset=nano"
MODELS = """
python train_sft.py
python train_reward.py
python train_pretrain.py --data.path=texts --run_dir=runs/mine
python train_sft.py --data.path=chats.jsonl --init_from=runs/mine --run_dir=runs/chat
for name in base warm seed round1 a b; do cp -r runs/mine runs/$name; done
cp -r runs/sft current
"""


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what commands of pages name: texts, records and trained models, all small."""
    folder = tmp_path_factory.mktemp("pages") / "stand_ins"
    folder.mkdir()
    write_records(folder)
    shutil.copytree(ROOT / "configs", folder / "configs")
    shutil.copytree(ROOT / "examples", folder / "examples")
    shell(SAMPLE, folder, environment(folder))
    with (folder / "data/sample/raw.jsonl").open(encoding="utf-8") as lines:
        write_texts(folder, (json.loads(line)["text"] for line in lines))
    shell(MODELS, folder, environment(folder))
    return folder


@pytest.fixture(scope="module")
def endpoint(stand_ins: Path) -> Iterator[str]:
    """The address of a server of runs/chat."""
    command = [sys.executable, "-m", "babyllm", "serve", "runs/chat", "--port=0"]
    with subprocess.Popen(
        command, cwd=stand_ins, env=environment(stand_ins), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as server:
        assert server.stdout is not None
        address = next(found[0] for line in server.stdout if (found := re.search(r"http://[\d.]+:\d+", line)))
        yield address
        server.terminate()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_commands_of_a_page_run(page: Path, stand_ins: Path, endpoint: str, tmp_path: Path) -> None:
    folder = tmp_path / "here"
    shutil.copytree(stand_ins, folder, symlinks=True)
    if data := os.environ.get("BABYLLM_DATA"):
        (folder / "data").mkdir(exist_ok=True)
        (folder / "data" / "eval").symlink_to(Path(data) / "eval")
    env, made = environment(folder, endpoint), set[str]()
    for block in blocks(page, "bash"):
        if not block.mark and SMALL not in block.text:
            for run in RUN.findall(block.text):
                if run not in made:  # a reader's page makes it, so what stands for it elsewhere goes
                    shutil.rmtree(folder / run, ignore_errors=True)
                    made.add(run)
            shell(block.text, folder, env)
