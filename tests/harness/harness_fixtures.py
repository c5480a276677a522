"""The same local questions as tasks of this project and of lm-evaluation-harness, and the answers of both.

A folder has cmmlu/{test,dev}/*.csv, xcopa/*.jsonl and sling/*.jsonl, as the built-in tasks read them; each file is also
written as JSON lines, which `datasets` reads without guessing types.
"""

import csv
import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from serve_fixtures import talkative

from babyllm.chat.load import load_template
from babyllm.evaluate.tasks.evaluation import Evaluator, evaluate_task
from babyllm.evaluate.tasks.items import TaskItems, read_items
from babyllm.evaluate.tasks.task import Task, load_task
from babyllm.evaluate.tasks.task_options import TaskOptions
from babyllm.interop.huggingface import save_model
from babyllm.loading import load
from babyllm.model.config import ModelConfig
from babyllm.runtime import Runtime
from babyllm.tokenizer import Tokenizer

LETTERS = list("ABCD")
COLUMNS = ["", "Question", *LETTERS, "Answer"]
SUBJECTS = ("law", "arts")
SHOTS = 3
METRICS = {"acc": "acc", "acc_norm": "acc_norm", "acc_bytes": "acc_bytes", "acc_pmi": "acc_mutual_info"}
Record = dict[str, Any]


def save_random(directory: Path, config: ModelConfig, tokenizer: Tokenizer, *, has_template: bool = True) -> Path:
    """The directory of a random model whose next token depends on all it reads, and is a whole character or more."""
    model, template = talkative(config), load_template("chatml", tokenizer)
    partial = [i for i in range(config.vocab_size) if "\ufffd" in (text := tokenizer.decode([i])) or not text]
    with torch.no_grad():
        model.lm_head.weight[partial] = 0
    source = template.source if has_template else None
    save_model(directory, model, template.tokenizer, chat_template=source, end_ids=template.end_ids)
    return directory


def reference(directory: Path, **more: Any) -> Any:
    """The model of a directory by transformers, as lm-evaluation-harness runs it."""
    from lm_eval.models.huggingface import HFLM

    begin = Tokenizer.load(directory).begin_id
    return HFLM(str(directory), device="cpu", dtype="float32", prefix_token_id=begin, batch_size=4, **more)


def adapted(directory: Path, **more: Any) -> Any:
    """The same model as this project offers it to lm-evaluation-harness."""
    from babyllm.evaluate.harness.adapter import BabyLM

    return BabyLM(str(directory), device="cpu", dtype="float32", threads=1, **more)


def request(*arguments: Any, kind: str = "loglikelihood") -> Any:
    from lm_eval.api.instance import Instance

    return Instance(kind, {}, arguments, 0)


class Numbers(NamedTuple):
    """What a program says of one item: the log-probability of each option in nats, and the scores by metric."""

    logprobs: list[float]
    scores: dict[str, float]


def write_made(folder: Path) -> None:
    """A dozen records of each form, of random words."""
    rng = random.Random(3)

    def words() -> str:
        some = rng.choices("今天气很好我们去公园看书这本小说有意思，", k=rng.randint(2, 14))
        return "".join(some) + rng.choice(["", "", " 2024", "A"])

    for subject in SUBJECTS:
        for split, n in (("dev", SHOTS + 1), ("test", 6)):
            rows = [[i, words(), *(words() for _ in LETTERS), rng.choice(LETTERS)] for i in range(n)]
            write_cmmlu(folder / "cmmlu" / split / f"{subject}.csv", [dict(zip(COLUMNS, r, strict=True)) for r in rows])
    pairs = [{"premise": words() + "。", "choice1": words(), "choice2": words()} for _ in range(12)]
    kinds = [{"question": rng.choice(["cause", "effect"]), "label": rng.randrange(2)} for _ in pairs]
    write_lines(folder / "xcopa" / "test.zh.jsonl", [p | k for p, k in zip(pairs, kinds, strict=True)])
    write_lines(
        folder / "sling" / "Some__pairs.jsonl", [{"sentence_good": words(), "sentence_bad": words()} for _ in range(12)]
    )


def write_subset(source: Path, folder: Path) -> None:
    """The first records of some of the files of a folder with real questions."""
    for name in ("agronomy", "college_law"):
        for split, n in (("dev", SHOTS), ("test", 6)):
            with (source / "cmmlu" / split / f"{name}.csv").open(encoding="utf-8", newline="") as file:
                rows = [row for row, _ in zip(csv.DictReader(file), range(n), strict=False)]
            write_cmmlu(folder / "cmmlu" / split / f"{name}.csv", rows)
    for file in (source / "xcopa" / "test.zh.jsonl", *sorted((source / "sling").glob("*.jsonl"))[::13]):
        lines = file.read_text(encoding="utf-8").splitlines()[:20]
        write_lines(folder / file.relative_to(source), [json.loads(line) for line in lines])


def write_cmmlu(path: Path, rows: Sequence[Record]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    write_lines(path.with_suffix(".jsonl"), [{name: str(row[name]) for name in COLUMNS[1:]} for row in rows])


def write_lines(path: Path, records: Iterable[Record]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records), encoding="utf-8")


# ---- of this project


def our_items(folder: Path, name: str, delimiter: str) -> TaskItems:
    """The items of a built-in task."""
    task = load_task(name)
    return read_items(replace(task, delimiter=delimiter, shots=min(task.shots, SHOTS)), folder / name)


def our_numbers(model: Path, found: TaskItems, form: str, runtime: Runtime, cache: Path) -> dict[str, list[Numbers]]:
    """What `evaluate_task` says of each item, by its file, in the order of the records."""
    transformer, tokenizer = load(model)
    evaluator = Evaluator(transformer.to(runtime.device), tokenizer, None, runtime, cache)
    evaluated = evaluate_task(evaluator, found, TaskOptions())
    (stored,) = cache.glob("*.jsonl")
    nats = dict(json.loads(line) for line in stored.read_text(encoding="utf-8").splitlines()[1:])
    numbers: dict[str, list[Numbers]] = {}
    for each in evaluated.scored:
        logprobs = [-loss for loss in nats[f"{each.item.id}|{form}"]]
        file = Path(each.item.id.rpartition(":")[0])
        numbers.setdefault(file.stem, []).append(Numbers(logprobs, dict(each.scores)))
    return numbers


def scores_of(ours: Numbers, form: str) -> dict[str, float]:
    """Our scores under the names of lm-evaluation-harness, of a form of the question."""
    if form.startswith("letter"):
        return {"acc": ours.scores["acc_letter"]}
    return {theirs: ours.scores[name] for name, theirs in METRICS.items() if name in ours.scores}


# ---- of lm-evaluation-harness


def their_tasks(folder: Path, name: str, form: str, task: Task) -> list[Record]:
    """The same questions as tasks of lm-evaluation-harness, one for each file, under the file's name."""
    metrics = ["acc"] if form.startswith("letter") or name == "sling" else list(METRICS.values())
    common = {
        "dataset_path": "json",
        "output_type": "multiple_choice",
        "test_split": "test",
        "num_fewshot": 0,
        "target_delimiter": task.delimiter,
        "metric_list": [{"metric": metric, "aggregation": "mean", "higher_is_better": True} for metric in metrics],
    }
    files = sorted((folder / name).glob("test/*.jsonl" if name == "cmmlu" else "*.jsonl"))
    return [common | _THEIRS[name](folder, file, form, task) | {"task": file.stem} for file in files]


def _cmmlu(folder: Path, file: Path, form: str, task: Task) -> Record:
    listed = "".join(f"\n{letter}. {{{{{letter}}}}}" for letter in LETTERS) if form.startswith("letter") else ""
    return {
        "dataset_kwargs": {"data_files": {"test": str(file), "dev": str(folder / "cmmlu" / "dev" / file.name)}},
        "fewshot_split": "dev",
        "fewshot_config": {"sampler": "first_n"},
        "num_fewshot": task.shots,
        "description": task.description,
        "doc_to_text": "{{Question.strip()}}" + listed + "\n" + task.cue,
        "doc_to_choice": LETTERS if form.startswith("letter") else "{{[A, B, C, D]}}",
        "doc_to_target": "{{['A', 'B', 'C', 'D'].index(Answer)}}",
    }


def _xcopa(folder: Path, file: Path, form: str, task: Task) -> Record:
    return {
        "dataset_kwargs": {"data_files": {"test": str(file)}},
        "doc_to_text": "{{premise[:-1]}}{{'因为' if question == 'cause' else '所以'}}",
        "doc_to_choice": "{{[choice1, choice2]}}",
        "doc_to_target": "label",
    }


def _sling(folder: Path, file: Path, form: str, task: Task) -> Record:
    return {
        "dataset_kwargs": {"data_files": {"test": str(file)}},
        "doc_to_text": "",
        "doc_to_choice": "{{[sentence_good, sentence_bad]}}",
        "doc_to_target": "0",
    }


_THEIRS = {"cmmlu": _cmmlu, "xcopa": _xcopa, "sling": _sling}


def their_numbers(model: Any, tasks: Sequence[Record], **more: Any) -> dict[str, list[Numbers]]:
    """What lm-evaluation-harness says of each document, by task, in the order of the records."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_defaults=False)
    # It changes its configurations.
    copies = [json.loads(json.dumps(task)) for task in tasks]
    done = simple_evaluate(model, tasks=copies, task_manager=manager, bootstrap_iters=0, **more)
    numbers = {}
    for name, samples in done["samples"].items():
        samples.sort(key=lambda sample: sample["doc_id"])
        numbers[name] = [_numbers(sample) for sample in samples]
    return numbers


def _numbers(sample: Record) -> Numbers:
    logprobs = [float(response[0][0]) for response in sample["resps"]]
    scores = {name: float(value) for name, value in sample.items() if name in METRICS.values()}
    # Those of the options without their question come second.
    n = len(logprobs) // 2 if "acc_mutual_info" in scores else len(logprobs)
    return Numbers(logprobs[:n], scores)


def furthest(ours: dict[str, list[Numbers]], theirs: dict[str, list[Numbers]]) -> float:
    """The largest difference of two log-probabilities, in nats."""
    return max(
        float(np.abs(np.subtract(a.logprobs, b.logprobs)).max())
        for name in theirs
        for a, b in zip(ours[name], theirs[name], strict=True)
    )
