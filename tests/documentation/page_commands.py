"""The pages of the documentation, and the commands in them, as plain values.

A block of commands is fenced with ```bash. The line before may say how it is tested:
`<!-- quickstart: NAME -->` (by another test) or `<!-- not run: REASON -->`.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
_FENCE = re.compile(
    r"^(?:<!-- (?P<mark>[^\n]*?) -->\n)?```(?P<language>\w+)\n(?P<text>.*?)^```", re.DOTALL | re.MULTILINE
)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Attributes:
        page: the page's file.
        line: the number of its first line.
        language: the word after the fence.
        mark: what the comment before it says, or "".
        text: its lines.
    """

    page: Path
    line: int
    language: str
    mark: str
    text: str

    @property
    def commands(self) -> list[list[str]]:
        """Its commands as a shell would split them into words, without comments."""
        found, begun = list[list[str]](), ""
        for line in self.text.replace("\\\n", " ").splitlines(keepends=True):
            begun += line
            try:
                words = shlex.split(begun, comments=True)
            except ValueError:  # a quotation goes on in the next line
                continue
            found += [words] if words else []
            begun = ""
        return found

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def english_pages() -> list[Path]:
    """README.md and the pages of docs/en, without those that a program draws."""
    return [ROOT / "README.md", *(page for page in sorted((DOCS / "en").rglob("*.md")) if page.name != "benchmarks.md")]


def in_chinese(page: Path) -> Path:
    """Where the Chinese page of an English one is."""
    return ROOT / "README.zh.md" if page.parent == ROOT else DOCS / "zh" / page.relative_to(DOCS / "en")


def blocks(page: Path, language: str | None = None) -> list[Block]:
    """The fenced blocks of a page, of one language or all."""
    text = page.read_text(encoding="utf-8")
    found = [
        Block(page, text.count("\n", 0, match.start("text")) + 1, match["language"], match["mark"] or "", match["text"])
        for match in _FENCE.finditer(text)
    ]
    return [block for block in found if language in (None, block.language)]
