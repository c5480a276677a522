"""A task as one value: where its items lie, how they are asked, and what counts as right.

    built_in/cmmlu.yaml, or a YAML file of one's own -> Task

Texts are Jinja templates over the fields of a record, and over `file` (the name of its file without suffix), `group`,
`options` and `parent` (the record that an item was taken from with `each`). An option or an answer sees `options`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import Literal

from babyllm.config import load
from babyllm.config.values import AnyCount, Count, Share
from babyllm.errors import UserError
from babyllm.evaluate.tasks.task_templates import Unfit, compiled

BUILT_IN = Path(__file__).parent / "built_in"
LETTERS = "ABCDEFGHIJKLMNOP"
Kind = Literal["options", "pairs", "generated"]


@dataclass(frozen=True)
class Task:
    r"""How the items of an evaluation are read, asked and scored.

    Attributes:
        about: description of the task for people, with its source.
        name: name of the task; empty takes that of the file.
        items: files with the items, relative to the task's folder, such as test/*.csv; of several patterns the first
            that matches.
        examples: files with examples for few-shot prompts, like `items`; null for a task without any.
        shots: number of examples in a prompt.
        columns: names of the columns of CSV and TSV files without a header, such as question,A,B,C,D,answer.
        each: path of a list in a record, whose elements are the items; several for lists within lists.
        where: condition that an item must meet, as a template that renders to true or false; empty takes all.
        group: name of the group an item belongs to, over which errors are computed; empty makes each item its own.
        description: text before the examples.
        question: text of the question.
        options: texts of the options, or the path of a list in the record, such as choices.text; empty for a task
            whose answers are generated.
        answer: letter of the right option, or its index from 0.
        labels: letters of the options in the prompt; empty asks without letters.
        cue: last line of a prompt, after which the answer begins.
        delimiter: text between a prompt and its answer.
        separator: text between examples.
        target: text after an option that is scored in place of the option, which then belongs to the question.
        alpha: exponent of the length by which the sum of a minimal pair is divided for acc_slln.
        reference: right answer of a task whose answers are generated; examples show it.
        max_new_tokens: largest number of tokens of a generated answer.
        stop: strings that end a generated answer.
        metrics: metrics of generated answers (`babyllm.evaluate.answer_metrics`).
        best: metric that stands for the task where one number is needed; empty takes the first.
    """

    items: str | list[str]
    about: str = ""
    name: str = ""
    examples: str | list[str] | None = None
    shots: AnyCount = 0
    columns: str | None = None
    each: list[str] = field(default_factory=list)
    where: str = ""
    group: str = ""
    description: str = ""
    question: str = ""
    options: str | list[str] = field(default_factory=list)
    answer: str = ""
    labels: str = LETTERS
    cue: str = ""
    delimiter: str = ""
    separator: str = "\n\n"
    target: str = ""
    alpha: Share = 0.5
    reference: str = ""
    max_new_tokens: Count = 256
    stop: list[str] = field(default_factory=list)
    metrics: list[str] = field(default_factory=list)
    best: str = ""

    @property
    def kind(self) -> Kind:
        """Whether answers are chosen among options after a question, are whole sentences, or are generated."""
        if not self.options:
            return "generated"
        return "options" if self.question or self.cue or self.description else "pairs"

    @property
    def has_letters(self) -> bool:
        """Whether the options can be listed with letters."""
        return bool(self.labels) and self.kind == "options" and not self.target


def built_in() -> list[str]:
    """The names of the built-in tasks, sorted."""
    return sorted(file.stem for file in BUILT_IN.glob("*.yaml"))


def load_task(name: str) -> Task:
    """The task of a YAML file, or a built-in one.

    Args:
        name: path of a YAML file, or the name of a built-in task.

    Raises:
        UserError: there is no such task, or the file is malformed; the message names file and line.
    """
    file = Path(name) if name.endswith((".yaml", ".yml")) else BUILT_IN / f"{name}.yaml"
    if not file.is_file():
        raise UserError(
            f"--tasks: there is no task {name}; give a YAML file or one of {', '.join(built_in())}"
            if file.parent == BUILT_IN
            else f"--tasks: {name} does not exist"
        )
    task = load(Task, file)
    _check(task, file)
    return replace(task, name=task.name or file.stem)


TEMPLATES = ("where", "group", "description", "question", "answer", "reference", "target")
"""The fields of a task that are templates, besides its options."""


def _check(task: Task, file: Path) -> None:
    def fail(key: str, message: str) -> None:
        raise UserError(f"{file}:{_line_of(key, file)}: '{key}' {message}")

    if not task.items:
        fail("items", "is empty; name the files with the items, such as test/*.csv")
    for key in ("items", "examples"):
        for pattern in patterns(getattr(task, key) or []):
            if not _is_pattern(pattern):
                fail(key, f"expects a pattern such as test/*.csv, not {pattern!r}")
    if task.kind == "generated":
        for key in ("reference", "metrics", "question"):
            if not getattr(task, key):
                fail(key, "is empty; a task without 'options' is generated and needs it")
    elif not task.answer:
        fail("answer", "is empty; write the letter of the right option or its index from 0, such as '{{ label }}'")
    if task.shots and not task.examples:
        fail("shots", "needs 'examples', the files with the examples")
    if len(set(task.labels)) < len(task.labels):
        fail("labels", "holds a letter twice")
    options = task.options if isinstance(task.options, list) else []
    for key, text in (*((name, getattr(task, name)) for name in TEMPLATES), *(("options", each) for each in options)):
        try:
            compiled(text)
        except Unfit as error:
            fail(key, f"is not a valid template: {error}")


def _is_pattern(text: str) -> bool:
    """Whether a text is a pattern of files below a folder."""
    if not text or PurePath(text).anchor:
        return False
    try:
        next(Path("none").glob(text), None)
    except (ValueError, IndexError):
        return False
    return True


def patterns(value: str | Sequence[str]) -> list[str]:
    """The patterns of files in a field of a task."""
    return [value] if isinstance(value, str) else list(value)


def _line_of(key: str, file: Path) -> int:
    """The line of a key in a file; the first line for a key that is not there."""
    lines = file.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    return next((n for n, line in enumerate(lines, 1) if line.lstrip("{\"' ").startswith(key)), 1)
