"""Processor time of multiple choice, beside one forward pass for each choice.

    python -m benchmarks.evaluation.choices [--model DIRECTORY] [--subjects 20] [--questions 10] [--passes 20]

CMMLU with five examples, scored by letters, on one thread: `--questions` of each of `--subjects`. The tasks' own way
reads the examples of a subject once and each question once. The other reads examples, question and letter in one pass
for each letter, with a batch of one, for `--passes` of the questions, and is scaled. Both compute the same nats. The
questions lie in the folder eval/cmmlu of BABYLLM_DATA. Without `--model` the weights are random, in the shape of
SmolLM2-135M, with a vocabulary of 4,096 that is trained on the questions.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from benchmarks import figures

if TYPE_CHECKING:
    from babyllm.evaluate.tasks.prompts import Question
    from babyllm.model.transformer import Transformer
    from babyllm.runtime import Runtime
    from babyllm.tokenizer import Tokenizer

DATA = "eval/cmmlu"


class Timed(NamedTuple):
    """The nats of the options of each question, and the processor seconds that they took."""

    nats: list[list[float]]
    seconds: float


def main() -> None:
    parser = figures.parser(__doc__)
    parser.add_argument("--model", help="directory of the model")
    parser.add_argument("--subjects", type=int, default=20, help="number of subjects, in the order of their names")
    parser.add_argument("--questions", type=int, default=10, help="number of questions of each subject")
    parser.add_argument("--passes", type=int, default=20, help="number of questions with a pass for each choice")
    args = figures.parse(parser, subjects=2, questions=2, passes=1)
    folder = Path(os.environ.get("BABYLLM_DATA", "data"), DATA)
    if not (folder / "test").is_dir():
        figures.skip(f"set BABYLLM_DATA to a folder with {DATA}")
    from babyllm.runtime import RuntimeConfig, start

    with start(RuntimeConfig(device="cpu", dtype="float32", threads=1)) as runtime:
        model, tokenizer = _model(args.model, folder)
        questions = _questions(folder, tokenizer, model.config.max_seq_len, args.subjects, args.questions)
        few = questions[:: max(1, len(questions) // args.passes)][: args.passes]
        ours = _shared(model, questions, runtime)
        theirs = _passes(model, few, runtime)
    by_key = {question.key: nats for question, nats in zip(questions, ours.nats, strict=True)}
    pairs = [zip(by_key[question.key], nats, strict=True) for question, nats in zip(few, theirs.nats, strict=True)]
    apart = max(abs(a - b) for each in pairs for a, b in each)
    whole = theirs.seconds * len(questions) / len(few)
    measured = [
        figures.Figure("questions", len(questions), "questions"),
        figures.Figure("contexts read once", ours.seconds, "CPU s"),
        figures.Figure("a pass for each choice", whole, "CPU s"),
        figures.Figure("contexts read once over a pass for each choice", ours.seconds / whole, "ratio"),
    ]
    print(f"largest difference of two log-probabilities: {apart:.1e} nats")
    for name, value, unit in measured:
        print(f"{name:48} {value:9.3f} {unit}")
    figures.write(args, measured)


def _model(directory: str | None, folder: Path) -> tuple[Transformer, Tokenizer]:
    """The model of a directory, or one of random weights in the shape of SmolLM2-135M, and its tokenizer."""
    import torch

    from babyllm.loading import load
    from babyllm.model.config import ModelConfig
    from babyllm.model.transformer import Transformer
    from babyllm.tokenizer import Tokenizer

    if directory:
        return load(directory)
    texts = [file.read_text(encoding="utf-8") for file in sorted(folder.glob("*/*.csv"))]
    shape = ModelConfig(
        n_layers=30,
        d_model=576,
        n_heads=9,
        n_kv_heads=3,
        d_ff=1536,
        vocab_size=49_152,
        max_seq_len=8192,
        tie_embeddings=True,
    )
    torch.manual_seed(0)
    return Transformer(shape).eval(), Tokenizer.train(texts, 4096, n_threads=1)


def _questions(folder: Path, tokenizer: Tokenizer, context: int, n_subjects: int, n: int) -> list[Question]:
    """The questions that ask for a letter: the first of each subject."""
    from babyllm.evaluate.tasks.items import read_items
    from babyllm.evaluate.tasks.prompts import Prompter
    from babyllm.evaluate.tasks.task import load_task

    found = read_items(load_task("cmmlu"), folder)
    prompter = Prompter(found, tokenizer, context)
    subjects = sorted({item.group for item in found.items})[:n_subjects]
    chosen = [item for subject in subjects for item in [i for i in found.items if i.group == subject][:n]]
    return [next(question for question in prompter.questions(item) if "|letter" in question.key) for item in chosen]


def _shared(model: Transformer, questions: Sequence[Question], runtime: Runtime) -> Timed:
    """As tasks are scored: shared examples and contexts are read once."""
    from babyllm.evaluate.tasks.option_nats import OptionReader, units

    def read() -> list[list[float]]:
        planned = units(questions)
        reader = OptionReader(model, planned, runtime)
        found = {q.key: nats for unit in planned for q, nats in zip(unit, reader.nats(unit), strict=True)}
        return [found[question.key] for question in questions]

    return _timed(read)


def _passes(model: Transformer, questions: Sequence[Question], runtime: Runtime) -> Timed:
    """One forward pass for each choice, with a batch of one."""
    import numpy as np

    from babyllm.evaluate.scoring import Row, row_nats

    def read() -> list[list[float]]:
        found = []
        for question in questions:
            pairs = zip(question.contexts, question.options, strict=True)
            rows = [Row(np.array([*c, *o]), np.arange(len(c) + len(o)) >= len(c)) for c, o in pairs]
            found.append([float(row_nats(model, [row], runtime)[0]) for row in rows])
        return found

    return _timed(read)


def _timed(read: Callable[[], list[list[float]]]) -> Timed:
    begin = time.process_time()
    return Timed(read(), time.process_time() - begin)


if __name__ == "__main__":
    main()
