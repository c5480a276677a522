"""What the site needs beyond mkdocs: formulas without a script, files of the project that pages link to, public names.

A page links to a file of the project by a relative path, so that the link works where the pages are read as files. The
site has no such file; it gets a copy below `project/`.
"""

from __future__ import annotations

import ast
import html
import posixpath
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
COPIES = "project"
_LINK = re.compile(r"(\]\()([^)\s#]+)(#[^)\s]*)?\)")
_FORMULA = re.compile(r'<(span|div) class="arithmatex">(.*?)</\1>', re.DOTALL)
_CJK = r"[\u3000-\u303f\u4e00-\u9fff\uff00-\uffef“”‘’—…]"
_NAMES = "<!-- public names -->"


@event_priority(-100)  # after the languages have been sorted
def on_files(files: Files, config: Any) -> Files:
    """Add a copy of each file outside of docs/ that a page links to."""
    wanted: set[str] = set()
    for file in [file for file in files if file.src_uri.endswith(".md")]:
        text = Path(str(file.abs_src_path)).read_text(encoding="utf-8")
        wanted.update(path for _, target, _ in _LINK.findall(text) if (path := _outside(file.src_uri, target)))
    for path in sorted(wanted):
        files.append(File.generated(config, f"{COPIES}/{path}.txt", content=(ROOT / path).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Page, config: Any, files: Files) -> str:
    """Point links to files of the project at their copies; write the public names in place of their mark."""

    def to_copy(match: re.Match[str]) -> str:
        path = _outside(page.file.src_uri, match[2])
        return f"{match[1]}{_climb(page.file.src_uri)}{COPIES}/{path}.txt)" if path else match[0]

    if _NAMES in markdown:
        markdown = markdown.replace(_NAMES, "\n".join(f"::: {name}\n" for name in public_names()))
    return _join_chinese_lines(_LINK.sub(to_copy, markdown))


def on_page_content(content: str, page: Page, config: Any, files: Files) -> str:
    """Set formulas in MathML, which browsers show without a script."""

    def to_mathml(match: re.Match[str]) -> str:
        formula = html.unescape(match[2]).strip()
        block = formula.startswith(r"\[")
        return convert(formula[2:-2].strip(), display="block" if block else "inline")

    return _FORMULA.sub(to_mathml, content)


def public_names() -> list[str]:
    """The public functions and classes of babyllm, as `module.name`: those that it imports for types."""
    tree = ast.parse((ROOT / "babyllm" / "__init__.py").read_text(encoding="utf-8"))
    imports = (node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module != "__future__")
    names = {alias.name: node.module for node in imports for alias in node.names if node.module != "typing"}
    return [f"{module}.{name}" for name, module in sorted(names.items()) if module != "babyllm"]


def _climb(uri: str) -> str:
    return "../" * uri.count("/")


def _outside(uri: str, target: str) -> str | None:
    """The path of a link's target from the root of the project, where that is an existing file outside of docs/."""
    if re.match(r"[a-z]+:|/", target):
        return None
    path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(uri), target))
    return path if not path.startswith(("docs/", "..")) and (ROOT / path).is_file() else None


def _join_chinese_lines(markdown: str) -> str:
    """Lines that break between two Chinese characters, joined: a browser would show a space there."""
    blocks = re.split(r"(^```.*?^```[^\n]*$)", markdown, flags=re.DOTALL | re.MULTILINE)
    joined = [part if n % 2 else re.sub(rf"(?<={_CJK})\n(?={_CJK})", "", part) for n, part in enumerate(blocks)]
    return "".join(joined)
