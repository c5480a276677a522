"""What models are evaluated on: conversations of a closed task and an open one, and tasks from files."""

import json
import random
from pathlib import Path
from typing import Any

from babyllm.chat.messages import ASSISTANT, SYSTEM, USER, Conversation, Message

KINDS = ["有意思", "the end"]


def talk(*texts: str, task: str = "kind", system: str = "") -> Conversation:
    messages = [Message(USER if i % 2 == 0 else ASSISTANT, text) for i, text in enumerate(texts)]
    return Conversation((*([Message(SYSTEM, system)] if system else []), *messages), task)


def some_conversations() -> list[Conversation]:
    """40 of the closed task "kind", some with two turns, and 20 of the open task "write"."""
    rng = random.Random(5)

    def words() -> str:
        return "".join(rng.choices("今天气很好我们去公园看书", k=rng.randint(2, 12)))

    kinds = [talk(words(), rng.choice(KINDS), system=rng.choice(["", "判断"])) for _ in range(24)]
    kinds += [talk(words(), rng.choice(KINDS), words(), rng.choice(KINDS)) for _ in range(8)]
    kinds += [talk(words(), words(), words(), rng.choice(KINDS)) for _ in range(8)]
    return [*kinds, *(talk(words(), words(), task="write") for _ in range(20))]


LETTERS_TASK = """
items: test/*.csv
examples: dev/*.csv
shots: 2
group: "{{ file }}"
description: "考试。\\n\\n"
question: "{{ Question }}"
options: ["{{ A }}", "{{ B }}", "{{ C }}"]
answer: "{{ Answer }}"
cue: 答案：
"""
PAIRS_TASK = """
items: pairs.jsonl
group: "{{ paradigm }}"
options: ["{{ good }}", "{{ bad }}"]
answer: "0"
"""


def write_tasks(folder: Path) -> Path:
    """A folder with the tasks `letters.yaml` (three groups of options, two examples each) and `pairs.yaml`."""
    (folder / "letters.yaml").write_text(LETTERS_TASK, encoding="utf-8")
    (folder / "pairs.yaml").write_text(PAIRS_TASK, encoding="utf-8")
    words = ["今天", "天气", "很好", "news", "公司", "the price", "发布", "学校", "12", "老师说"]
    draw = random.Random(5)

    def text(n: int) -> str:
        return "".join(draw.choice(words) for _ in range(n))

    for split, n in (("test", 6), ("dev", 2)):
        (folder / split).mkdir()
        for name in ("law", "art", "physics"):
            rows = [[text(3), text(1), text(2), text(3), draw.choice("ABC")] for _ in range(n)]
            lines = [",".join(row) for row in (["Question", "A", "B", "C", "Answer"], *rows)]
            (folder / split / f"{name}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    pairs = [{"good": text(4), "bad": text(3 + i % 3), "paradigm": f"p{i % 4}"} for i in range(24)]
    lines = [json.dumps(pair, ensure_ascii=False) for pair in pairs]
    (folder / "pairs.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def task_values(model_dir: str, tasks: list[str], out: str, **options: Any) -> None:
    """Write the scores of every item, as `evaluate_task` computes them on this rank, to the file `out` + rank."""
    from babyllm.evaluate.tasks.evaluation import Evaluator, evaluate_task, find_items
    from babyllm.evaluate.tasks.task_options import TaskOptions
    from babyllm.loading import load
    from babyllm.runtime import RuntimeConfig, start

    with start(RuntimeConfig(device="cpu", dtype="float32", threads=1)) as runtime:
        model, tokenizer = load(model_dir)
        evaluator, settings = Evaluator(model, tokenizer, None, runtime), TaskOptions(**options)
        found = [evaluate_task(evaluator, find_items(name, settings), settings) for name in tasks]
        values = [[scored.item.id, scored.scores, scored.nats] for each in found for scored in each.scored]
        Path(f"{out}{runtime.rank}").write_text(json.dumps(values), encoding="utf-8")


JOBS = {"task_values": task_values}
