"""The settings of a store of chats, and the records of a partition as these settings read them.

partition -> the data set of each file, its way of reading -> Record: what it is, whether it is held out or left out
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from babyllm.chat.formats import FormatConfig
from babyllm.chat.limits import MessageLimits
from babyllm.chat.load import ChatTemplate
from babyllm.chat.registry.data_set import DataSet
from babyllm.prepare.rendered.chat_blocks import load_once
from babyllm.prepare.rendered.record_keys import ALL_KEYS, half_key
from babyllm.prepare.rendered.repetitions import repeats_of
from babyllm.text.readers import Partition, Rejected

FROM_FILES = ("data", "files", "directory", "first_kept", "cuts", "repeats")
"""Settings that follow from others and from the files, or are recorded in another way."""


@dataclass(frozen=True, kw_only=True)
class RenderSettings:
    """The settings that, with the files, decide the result; sent to worker processes.

    Attributes:
        format: rules by which records are read.
        seq_len: largest number of inputs of a chat.
        limits: largest lengths of messages.
        held_out: share of the records that are held out or, as an integer, their number.
        repetitions: whether records that repeat another one exactly are dropped.
        held_out_files: names of files that are held out in any case.
        data: data sets that are read, held-out ones included.
        files: the index in `data` of each file, by its name.
        directory: directory of the tokenizer.
        template: text of the chat template.
        tokenizer_sha256: sha256 of the tokenizer.
        first_kept: smallest hash that is not held out, where `held_out` is a number.
        cuts: limit of each data set; its records are read if the first halves of their keys are below it.
        repeats: directory of the repetitions that are dropped; None if they are kept.
    """

    format: FormatConfig
    seq_len: int
    limits: MessageLimits
    held_out: float
    repetitions: Literal["drop", "keep"] = "keep"
    held_out_files: tuple[str, ...] = ()
    data: tuple[DataSet, ...] = ()
    files: tuple[tuple[str, int], ...] = ()
    directory: Path = Path()
    template: str = ""
    tokenizer_sha256: str = ""
    first_kept: bytes = b""
    cuts: tuple[int, ...] = ()
    repeats: Path | None = None

    def makes(self) -> dict[str, Any]:
        """The settings as JSON values, without the template's location and without what follows from the files."""
        values = {name: value for name, value in asdict(self).items() if name not in FROM_FILES}
        values["held_out_files"] = list(self.held_out_files)
        # Stores made before there were these settings stay as they are.
        if self.repetitions == "keep":
            del values["repetitions"]
        if any(one.name for one in self.data):
            values["data_sets"] = [one.deciding() for one in self.data]
            values["files"] = [list(pair) for pair in self.files]
        return values

    def loaded(self) -> ChatTemplate:
        """The template, with its tokenizer."""
        return load_once(self.directory, self.template, self.tokenizer_sha256, tuple(self.format.allow_special))

    def reading(self) -> list[FormatConfig]:
        """The rules by which the records of each data set are read.

        Raises:
            UserError: settings of a data set contradict those of all data.
        """
        return [one.reading(self.format) for one in self.data]


Read = Callable[[Partition, FormatConfig], Iterator[Any]]
"""A function that returns the records of a partition, or the reasons why they cannot be used."""


class Record(NamedTuple):
    """A record of a file.

    Attributes:
        item: what was read, or the reason why it cannot be used.
        data_index: index of its data set.
        is_held: whether its file is held out.
        is_drawn: whether it is among the part of its data set that is read.
        original: place of the record that it repeats; empty if it is read.
    """

    item: Any
    data_index: int
    is_held: bool
    is_drawn: bool = True
    original: str = ""

    @property
    def is_read(self) -> bool:
        """Whether it becomes part of the store, if nothing else is wrong with it."""
        return self.is_drawn and not self.original and not isinstance(self.item, Rejected)


def records_of(
    partition: Partition, settings: RenderSettings, read: Read, identity: Callable[[Any], str]
) -> Iterator[Record]:
    """Every record of a partition, in order.

    Args:
        partition: partition to read.
        settings: settings, with what follows from the files.
        read: function that reads the records.
        identity: function that returns a text that only equal records share.
    """
    repeats, number = repeats_of(settings.repeats, partition), -1
    files, formats = dict(settings.files), settings.reading()
    for source in partition.sources:
        index, is_held = files[source.name], source.name in settings.held_out_files
        cut = settings.cuts[index] if settings.cuts else ALL_KEYS
        for item in read(Partition((source,), source.size_bytes), formats[index]):
            if isinstance(item, Rejected):
                yield Record(item, index, is_held)
                continue
            number += 1
            is_drawn = cut >= ALL_KEYS or half_key(identity(item)) < cut
            yield Record(item, index, is_held, is_drawn, repeats.get(number, "") if is_drawn else "")


def places_of(
    partition: Partition, settings: RenderSettings, read: Read, identity: Callable[[Any], str]
) -> Iterator[tuple[str, str]]:
    """The place of each usable record of a partition, and a text that only equal records share."""
    for record in records_of(partition, settings, read, identity):
        if not isinstance(record.item, Rejected):
            yield record.item.id, identity(record.item)


def undecided(
    partition: Partition,
    settings: RenderSettings,
    read: Read,
    identity: Callable[[Any], str],
    contents: Callable[[Any], str],
) -> Iterator[str]:
    """The texts that decide the split of those records of a partition that are read and not held out in any case."""
    for record in records_of(partition, settings, read, identity):
        if record.is_read and not record.is_held:
            yield contents(record.item)


def files_of(data: Sequence[DataSet], files: Sequence[tuple[Path, str]]) -> tuple[tuple[str, int], ...]:
    """The name of each file, with the index of the data set that it belongs to.

    Args:
        data: data sets.
        files: path and name of each file.
    """
    at = {path: index for index, one in enumerate(data) for path in one.paths}
    return tuple((name, next(at[p] for p in (path, *path.parents) if p in at)) for path, name in files)
