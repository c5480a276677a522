"""Record documents that no later stage may use, in the takedowns.jsonl of a corpus, an index or a folder."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from babyllm.config.values import PathText
from babyllm.errors import UserError
from babyllm.text.takedowns import take_down

ARGUMENTS = "DIR"


@dataclass(frozen=True)
class Flags:
    """Flags of `babyllm takedown`.

    Attributes:
        id: ids of documents, as the corpora show them.
        url: addresses of pages.
        text: texts in full; only their hashes are recorded.
        files: files, each with one text in UTF-8, whose hashes are recorded.
        why: reason, which is recorded with each line; null records none.
    """

    id: list[str] = field(default_factory=list)
    url: list[str] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    files: list[PathText] = field(default_factory=list)
    why: str | None = None


def run(flags: Flags, directory: str) -> None:
    """Append the lines and say where."""
    texts = [*flags.text, *map(_content, flags.files)]
    named = [("id", value) for value in flags.id] + [("url", value) for value in flags.url]
    lines = [{key: value} for key, value in (*named, *(("text", text) for text in texts))]
    if not lines:
        raise UserError("--id: give --id, --url, --text or --files of a document to take down")
    path = take_down(Path(directory), [line | ({"why": flags.why} if flags.why else {}) for line in lines])
    print(f"{path}: {len(lines):,} line{'s' * (len(lines) > 1)} added; later stages that read {directory} obey them")


def _content(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UserError(f"--files={path}: cannot be read ({error}); give a text file in UTF-8") from None
