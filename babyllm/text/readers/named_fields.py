"""A check that the fields named by settings exist: a wrong name would change nothing, or reject every record.

settings -> names -> the first records of the first files -> each name is in one of them, or a `UserError`
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any

from babyllm.errors import UserError
from babyllm.text.readers.archives import read_files
from babyllm.text.readers.find import Partition
from babyllm.text.readers.formats.document_fields import Names, lookup
from babyllm.text.readers.formats.table import ARCHIVES, RECORDS
from babyllm.text.readers.records import ReadConfig, Rejected, Source

FILES, PER_FILE = 200, 200  # files, and records of each, that are searched for the fields
SHOWN = 20  # fields that the message lists


def require_fields(partitions: Sequence[Partition], config: ReadConfig) -> None:
    """Refuse a setting that names a field which none of the first records has.

    Raises:
        UserError: a field is missing; the message names the setting and the fields there are.
    """
    missing = _named(config)
    if not missing:
        return
    there: dict[str, None] = {}
    n = 0
    for record in _first_records(partitions, config):
        n += 1
        names = Names(tuple(record))
        there |= dict.fromkeys(record)
        missing = {name: flag for name, flag in missing.items() if lookup(record, names.alike(name)) is None}
        if not missing:
            return
    for name, flag in missing.items() if n else ():
        shown = ", ".join(list(there)[:SHOWN]) + ", ..." * (len(there) > SHOWN)
        raise UserError(f"{flag}: none of the first {n:,} records has a field {name}; the fields there are: {shown}")


def _named(config: ReadConfig) -> dict[str, str]:
    """The fields that settings name, each with its flag."""
    named = {}
    if config.text is not None:
        named = {name: f"--read.text={config.text}" for name in config.text.split("+") if not name.endswith("?")}
    if config.title not in (None, ReadConfig.title):
        named[str(config.title)] = f"--read.title={config.title}"
    if config.domain.startswith("field:"):
        named[config.domain[6:]] = f"--read.domain={config.domain}"
    return named


class _Whole:
    """Returns records unchanged."""

    def document(self, record: Any, place: str) -> Any:
        return record

    def columns(self, names: Sequence[str]) -> list[str]:
        return list(names)


def _first_records(partitions: Sequence[Partition], config: ReadConfig) -> Iterator[dict[str, Any]]:
    sources: dict[str, Source] = {}
    for source in (source for partition in partitions for source in partition.sources):
        if source.format in (*RECORDS, *ARCHIVES):
            sources.setdefault(source.name, source)
    for source in islice(sources.values(), FILES):
        for record in islice(read_files(source, config, partial(_whole, config=config)), PER_FILE):
            if isinstance(record, dict) and not isinstance(record, Rejected):
                yield record


def _whole(source: Source, config: ReadConfig) -> Iterator[Any]:
    """The unchanged records of a file; none for a format without named fields."""
    read = RECORDS.get(source.format)
    return read(source, config, _Whole()) if read else iter(())
