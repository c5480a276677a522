"""The file of a registry, and the data sets that a run names.

data.path=[firefly, chats.jsonl], data/datasets.yaml -> named_data -> [DataSet]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any

from babyllm.chat.formats import PreferenceFormat
from babyllm.chat.registry.data_set import DataSet
from babyllm.config import nearest
from babyllm.config.by_name import load_by_name
from babyllm.config.values import Count, Limits, PathText, Positive, expand_paths
from babyllm.errors import UserError

REGISTRY = "data/datasets.yaml"
"""The registry that is read where none is named."""


@dataclass(frozen=True)
class DataSetEntry:
    """A data set of a registry: its files, how they are read, and what they are.

    Attributes:
        path: files or folders, or a list of them, relative to the folder of the registry.
        format: settings of `data.format` that differ from those of the run; the fields below can also be given
            directly.
        prompt: field of the question, as format.prompt.
        answer: field of the answer, as format.answer.
        messages: field of a list of messages, as format.messages.
        role: field of a message that names its speaker, as format.role.
        content: field of a message that holds its text, as format.content.
        history: field of earlier exchanges, as format.history.
        task_field: field that names the task, as format.task_field.
        roles: role of each speaker's name in the data, as format.roles.
        chosen: field of the better answer, as format.chosen.
        rejected: field of the worse answer, as format.rejected.
        system: system message of chats without one, or a list of them, of which each chat gets one by a hash of its
            contents. The field of a record with a system message is format.system.
        task: task of all its records; null leaves it to the records and the names of the files.
        limit: largest number of different records, chosen by a hash, so that a smaller number is part of a larger one;
            null for no limit.
        share: share of the records, chosen by the same hash.
        weight: number of times that a chat comes where one of weight 1 comes once, such as 2 or 0.5. Chats with the
            same task need the same weight.
        licence: licence of the records, such as apache-2.0.
        source: place that the records are from, such as an address.
    """

    path: PathText | list[PathText]
    format: PreferenceFormat = field(default_factory=PreferenceFormat)
    prompt: str | None = None
    answer: str | None = None
    messages: str | None = None
    role: str | None = None
    content: str | None = None
    history: str | None = None
    task_field: str | None = None
    roles: dict[str, str] = field(default_factory=dict)
    chosen: str | None = None
    rejected: str | None = None
    system: str | list[str] = field(default_factory=list)
    task: str | None = None
    limit: Count | None = None
    share: Annotated[float, Limits(0, 1, above=True)] = 1.0
    weight: Positive = 1.0
    licence: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        """Expand `~` in paths.

        Raises:
            UserError: a field is named twice, or a setting is for the whole run.
        """
        expand_paths(self)
        if self.format.allow_special:
            raise UserError("format.allow_special: is for all data of a run; give it as data.format.allow_special")
        for name in _DIRECT:
            if getattr(self, name) and getattr(self.format, name):
                raise UserError(f"'{name}' and 'format.{name}' are given; leave one of them out")

    def given(self) -> dict[str, Any]:
        """The settings of `data.format` that are set in it."""
        usual = PreferenceFormat()
        names = [one.name for one in fields(usual) if getattr(self.format, one.name) != getattr(usual, one.name)]
        inner = {name: getattr(self.format, name) for name in names}
        return inner | {name: value for name in _DIRECT if (value := getattr(self, name))}


_DIRECT = ("prompt", "answer", "messages", "role", "content", "history", "task_field", "roles", "chosen", "rejected")


def read_registry(file: Path) -> dict[str, DataSet]:
    """The data sets of a registry by name.

    Raises:
        UserError: the file cannot be read, or an entry is malformed; the message names the file and the entry.
    """
    return {name: _data_set(name, entry, file) for name, entry in load_by_name(DataSetEntry, file).items()}


def _data_set(name: str, entry: DataSetEntry, file: Path) -> DataSet:
    paths = [entry.path] if isinstance(entry.path, str) else entry.path
    systems = [entry.system] if isinstance(entry.system, str) else entry.system
    if not paths:
        raise UserError(f"{file}: {name}: 'path' is empty; name its files or folders")
    if any(not text.strip() for text in systems) and len(systems) == 1:
        systems = []
    return DataSet(
        tuple(file.parent / path for path in paths),
        name,
        entry.given(),
        tuple(systems),
        (entry.task or "").strip(),
        *(entry.limit, entry.share, entry.weight, entry.licence, entry.source),
    )


def named_data(names: Sequence[str], registry: str | None, setting: str = "data.path") -> list[DataSet]:
    """The data sets that a run names, in order; each path is one of its own.

    Args:
        names: paths, and names of a registry; a path that exists is not looked up.
        registry: file of the registry; None takes `REGISTRY`, if it exists.
        setting: name of the setting with the names, for messages.

    Raises:
        UserError: the registry cannot be read, a name is neither a path nor in it, a name is given twice, or a file of
            a data set does not exist.
    """
    found: list[DataSet] = []
    known: Mapping[str, DataSet] = {}
    # A mistake in the usual registry does not matter to a run that needs none.
    is_needed = Path(REGISTRY).is_file() and not all(Path(name).exists() for name in names)
    if registry is not None or is_needed:
        known = read_registry(Path(registry or REGISTRY))
    for name in names:
        if Path(name).exists() or not known:
            found.append(DataSet((Path(name),)))
        elif name not in known:
            raise UserError(
                f"{setting}={name}: is neither a file or folder nor a data set of {registry or REGISTRY}: did you mean "
                f"'{nearest(name, known)}'?"
            )
        elif known[name] in found:
            raise UserError(f"{setting}: the data set {name} is given twice; leave it out once")
        else:
            found.append(_present(known[name], registry or REGISTRY))
    return found


def _present(data_set: DataSet, registry: str) -> DataSet:
    for path in data_set.paths:
        if not path.exists():
            raise UserError(
                f"{registry}: {data_set.name}: {path} does not exist; bring its files there, or change 'path'"
            )
    return data_set
