"""The items of a task: records of local files, each rendered once as texts.

folder + Task.items -> files -> readers -> record -> each, where -> templates -> Item
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

from babyllm.errors import UserError
from babyllm.evaluate.tasks.task import TEMPLATES, Task, patterns
from babyllm.evaluate.tasks.task_templates import Unfit, compiled, one_line, rendered
from babyllm.files import json_digest, sha256
from babyllm.text.readers import WHOLE_FILES, ReadConfig, Rejected, Source, find_partitions
from babyllm.text.readers.formats.table import RECORDS, TABLES
from babyllm.text.readers.line_numbers import LineNumbers

_FALSE = ("", "false", "none", "0")


@dataclass(frozen=True)
class Item:
    """One question of a task, as texts.

    Attributes:
        id: file of the item relative to the task's folder, and its line or row, such as test/law.csv:12.
        group: name of its group; that of the item itself for a task without groups.
        description: text before the examples of its prompt.
        question: text of the question.
        options: texts of the options; empty for a generated answer.
        answer: index of the right option; -1 for a generated answer.
        reference: right answer of a task whose answers are generated; text that is scored after each option of a task
            with a `target`.
    """

    id: str
    group: str
    description: str
    question: str
    options: tuple[str, ...]
    answer: int
    reference: str = ""


class TaskItems(NamedTuple):
    """The items of a task and its examples.

    Attributes:
        task: the task.
        items: items in the order of their files.
        examples: examples by group, in the order of their files.
        sha256: hash of the task and of the bytes of all its files.
    """

    task: Task
    items: list[Item]
    examples: Mapping[str, list[Item]]
    sha256: str

    def examples_for(self, item: Item) -> list[Item]:
        """The examples of an item's prompt: the first of its group, or of all if its group has none."""
        found = self.examples.get(item.group) or chain.from_iterable(self.examples.values())
        return list(islice((example for example in found if example.id != item.id), self.task.shots))


def read_items(task: Task, folder: Path) -> TaskItems:
    """The items of a task from its files.

    Args:
        task: the task.
        folder: folder that the task's files lie in.

    Raises:
        UserError: a file is missing or damaged, or a record lacks what the task needs; the message names its line.
    """
    templates = _Templates(task)
    files = _files(task.items, task, folder)
    items = [item for file in files for item in _items(file, folder, templates)]
    if not items:
        raise UserError(f"{folder}: the files {_either(task.items)} of task {task.name} hold no items")
    examples: dict[str, list[Item]] = defaultdict(list)
    shown = _files(task.examples, task, folder) if task.examples and task.shots else []
    for item in (item for file in shown for item in _items(file, folder, templates)):
        examples[item.group].append(item)
    if task.shots and not examples:
        raise UserError(f"{folder}: the files {_either(task.examples or [])} of task {task.name} hold no examples")
    digest = json_digest([asdict(task), [[file.name, sha256(file)] for file in (*files, *shown)]])
    return TaskItems(task, items, examples, digest)


def _files(value: str | list[str], task: Task, folder: Path) -> list[Path]:
    for pattern in patterns(value):
        try:
            found = sorted(path for path in folder.glob(pattern) if path.is_file() and not path.name.startswith("."))
        except OSError as error:
            raise UserError(f"{folder}: cannot be searched for {pattern!r} ({error.strerror})") from error
        if found:
            return found
    raise UserError(f"{folder}: has no file {_either(value)} for task {task.name}; name its folder with --task_dir")


def _either(value: str | list[str]) -> str:
    return " or ".join(patterns(value))


# ---- records


class _AsRecord:
    """Makes (record, place) of each record of a source."""

    def document(self, record: Any, place: str) -> tuple[Any, str]:
        return record, place

    def columns(self, names: Sequence[str]) -> list[str]:
        return list(names)


def _records(file: Path, folder: Path, columns: str | None) -> Iterator[tuple[Any, str]]:
    """The records of a file, each with its file and line for messages, which is the item's id, too."""
    name = file.relative_to(folder).as_posix()
    for source in _sources(file, columns):
        config = ReadConfig(domain="file", columns=columns)
        is_table = source.format in TABLES
        lines = None if is_table else LineNumbers(source, config)
        for found in RECORDS[source.format](source, config, _AsRecord()):
            place = found.place if isinstance(found, Rejected) else found[1]
            offset = place.removeprefix(f"{source.name}:")
            line = str(lines.at(int(offset))) if lines and offset.isdecimal() else offset
            if isinstance(found, Rejected):
                where = file if offset == place else f"{file}:{line}"  # some faults are the whole file's
                raise UserError(f"{where}: {found.reason.partition(' (see --read.')[0]}; mend it or leave it out")
            yield found[0], f"{name}:{line}"


def _sources(file: Path, columns: str | None) -> list[Source]:
    found = [
        s for p in find_partitions([file], ReadConfig(domain="file", columns=columns), WHOLE_FILES) for s in p.sources
    ]
    if any(source.format not in RECORDS for source in found):
        raise UserError(f"{file}: items are read from {', '.join(RECORDS)}, also compressed")
    return found


def _items(file: Path, folder: Path, templates: _Templates) -> Iterator[Item]:
    name = file.name.partition(".")[0]
    for record, place in _records(file, folder, templates.task.columns):
        try:
            for number, fields in enumerate(_elements(_named(record), templates.task.each)):
                item_id = f"{place}#{number}" if templates.task.each else place
                if item := templates.item({"file": name, **fields}, item_id):
                    yield item
        except (Unfit, ValueError, RecursionError) as error:
            where = folder / place
            raise UserError(f"{where}: does not fit task {templates.task.name}: {one_line(error)}") from None


def _named(record: Any) -> dict[str, Any]:
    """The fields of a record by name; those of a list by number."""
    if isinstance(record, list):
        return {str(number): value for number, value in enumerate(record)}
    if not isinstance(record, dict):
        raise Unfit("it is not an object with fields")
    return {str(key): value for key, value in record.items()}


def _elements(fields: dict[str, Any], each: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The fields of each element of the lists that `each` names one within the other, with those around it."""
    if not each:
        yield fields
        return
    elements = _at_path(fields, each[0])
    if not isinstance(elements, list):
        raise Unfit(f"'each': {each[0]} is not a list")
    for element in elements:
        inner = _named(element) if isinstance(element, (dict, list)) else {"element": element}
        yield from _elements({**fields, "parent": fields, **inner}, each[1:])


def _at_path(fields: Mapping[str, Any], path: str) -> Any:
    value: Any = fields
    for key in path.split("."):
        if not isinstance(value, Mapping) or key not in value:
            raise Unfit(f"it has no field {path}")
        value = value[key]
    return value


# ---- texts


class _Templates:
    """The templates of a task, compiled."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self._templates = {name: compiled(getattr(task, name)) for name in TEMPLATES}
        self._options = [compiled(text) for text in task.options] if isinstance(task.options, list) else []

    def item(self, fields: dict[str, Any], item_id: str) -> Item | None:
        """The item made of the fields of a record; None if it does not meet the task's condition."""
        if self.task.where and self._text("where", fields).strip().lower() in _FALSE:
            return None
        options = self._option_texts(fields)
        group = self._text("group", fields) or item_id
        fields = {**fields, "group": group, "options": list(options)}
        question = self._text("question", fields)
        if self.task.kind == "generated":
            reference = self._text("reference", fields)
            return Item(item_id, group, self._text("description", fields), question, (), -1, reference)
        answer = self._answer(self._text("answer", fields).strip(), len(options))
        target = self._text("target", fields)
        return Item(item_id, group, self._text("description", fields), question, options, answer, target)

    def _option_texts(self, fields: dict[str, Any]) -> tuple[str, ...]:
        task = self.task
        if not task.options:
            return ()
        if isinstance(task.options, str):
            found = _at_path(fields, task.options)
            if not isinstance(found, list) or not all(isinstance(text, (str, int, float)) for text in found):
                raise Unfit(f"{task.options} is not a list of texts")
            options = tuple(str(text) for text in found)
        else:
            options = tuple(rendered(template, fields) for template in self._options)
        if len(options) < 2:
            raise Unfit(f"it has {len(options)} options, fewer than two")
        if task.has_letters and len(options) > len(task.labels):
            raise Unfit(f"it has {len(options)} options, more than the {len(task.labels)} letters of 'labels'")
        if any(not text.strip() for text in options):
            raise Unfit("an option is empty")
        return options

    def _answer(self, text: str, n_options: int) -> int:
        labels = self.task.labels or "ABCDEFGHIJKLMNOP"
        index = labels.find(text) if len(text) == 1 and text in labels else int(text) if text.isdecimal() else -1
        if not 0 <= index < n_options:
            raise Unfit(f"the answer {text[:40]!r} is neither a letter nor the index of one of {n_options} options")
        return index

    def _text(self, name: str, fields: Mapping[str, Any]) -> str:
        return rendered(self._templates[name], fields)
