"""The first part of all files, for a quick try: a number of documents, megabytes of text or files, in order of names.

The selection depends only on the files, not on how they are cut or which process reads them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from itertools import islice

from babyllm.documents import Document
from babyllm.errors import UserError
from babyllm.text.readers.read import read_source
from babyllm.text.readers.records import ReadConfig, Source

LIMIT = re.compile(r"([1-9]\d{0,15}) ?(|documents?|files?|[kmg]?b)", re.IGNORECASE)
SIZES = {"b": 1, "kb": 1 << 10, "mb": 1 << 20, "gb": 1 << 30}


def limit_of(config: ReadConfig) -> tuple[int, str]:
    """The number of units to read and the unit: "files", "documents" or "bytes"; (0, "") for all.

    Raises:
        UserError: the limit is not valid.
    """
    if config.limit is None:
        return 0, ""
    found = LIMIT.fullmatch(config.limit.strip())
    if not found:
        raise UserError(f"--read.limit={config.limit}: give a number of documents, such as 1000, or 10MB, or 3files")
    number, unit = int(found[1]), found[2].lower()
    if unit in SIZES:
        return number * SIZES[unit], "bytes"
    return number, "files" if unit.startswith("file") else "documents"


def taken(sources: Iterator[Source], config: ReadConfig) -> list[Source]:
    """The files up to the limit, of which the last may be read in part; no further files are looked for.

    Raises:
        UserError: the limit is not valid, or a file cannot be read.
    """
    number, unit = limit_of(config)
    if unit == "files":
        return list(islice(sources, number))
    if not unit:
        return list(sources)
    first = []
    for source in sources:
        n, left = _counted(source, config, number, unit)
        first.append(source if left else replace(source, documents=n))
        number = left
        if not left:
            break
    return first


@lru_cache(4096)
def _counted(source: Source, config: ReadConfig, number: int, unit: str) -> tuple[int, int]:
    """The number of documents that a file contributes to the limit, and how many units are left after it."""
    n = 0
    for item in read_source(source, config):
        if isinstance(item, Document):
            n += 1
            number = max(0, number - (1 if unit == "documents" else len(item.text.encode())))
            if not number:
                break
    return n, number
