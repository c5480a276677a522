"""The text of a wiki page: what its markup says to a reader, without templates, tables, notes, files and categories.

wikitext -> variants of Chinese resolved -> nodes (mwparserfromhell) -> lines -> headings without a text left out
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

from babyllm.errors import UserError
from babyllm.text.readers.records import BadRecord

SIMPLIFIED, TRADITIONAL = ("zh-hans", "zh-cn", "zh-sg", "zh-my"), ("zh-hant", "zh-tw", "zh-hk", "zh-mo")
VARIANT = re.compile(r"-\{(?!\{)((?:(?!-\{|\}-).)*?)\}-", re.DOTALL)  # innermost
VARIANT_DEPTH = 4
RULE = re.compile(r"\s*(?:[^;=<>]*=>)?\s*(zh(?:-[a-z]+)?)\s*:(.*)", re.DOTALL)
NEXT_RULE = re.compile(r";(?=\s*(?:[^;=<>]*=>)?\s*zh(?:-[a-z]+)?\s*:)")
SHOWN_FLAGS = ("", "S", "A", "R")  # of the rules that show a text where they stand
DROPPED_TAGS = frozenset(
    (
        *("table", "tr", "td", "th", "caption", "ref", "references", "gallery", "timeline", "score", "imagemap"),
        *("templatestyles", "mapframe", "maplink", "graph", "categorytree", "style", "script", "indicator", "inputbox"),
    )
)
MARKERS = {"*": "- ", "#": "- "}  # other items, ":" and ";", are paragraphs
LANGUAGE = re.compile(r"[a-z]{2,3}(?:-[a-z]+)*|simple")
SWITCH = re.compile(r"__[A-Z]{3,}__")
EMPTY = re.compile(r"[（(][\s，,；;、：:]*[)）]")  # where a template stood
SPACE = " \t\xa0"
DEEPEST = 7
HEADING = "\0"  # begins the line of a heading, with its level

Line = tuple[int, str]  # level of a heading, or 0, and the text


def plain_text(wikitext: str, variant: str, dropped: frozenset[str]) -> str:
    """The text of a page.

    Args:
        wikitext: source of the page.
        variant: variant of Chinese that is chosen where the source has several, such as "zh-hans".
        dropped: names of namespaces, in lower case, whose links are left out: those of files and categories.

    Raises:
        BadRecord: the parser fails.
        UserError: the library mwparserfromhell is not installed.
    """
    source = wikitext.replace("\0", "")
    try:
        parsed = _library().parse(chosen(source, variant))
        text = "".join(_texts(parsed.nodes, dropped))
    except (RecursionError, ValueError, _library().parser.ParserError) as error:
        raise BadRecord("its markup cannot be parsed") from error
    lines = [_line(line) for line in EMPTY.sub("", SWITCH.sub("", text)).split("\n")]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(_with_text(lines))).strip("\n")


@cache
def _library() -> Any:
    try:
        return importlib.import_module("mwparserfromhell")
    except ImportError as error:
        raise UserError(f'wiki dumps need mwparserfromhell ({error}); pip install "babyllm[wiki]"') from error


def chosen(wikitext: str, variant: str) -> str:
    """The source with one variant of Chinese: `-{zh-hans:计算机;zh-hant:電腦}-` becomes 计算机."""
    for _ in range(VARIANT_DEPTH):
        wikitext, n = VARIANT.subn(lambda found: _chosen(found[1], variant), wikitext)
        if not n:
            break
    return wikitext


def _chosen(rule: str, variant: str) -> str:
    flags, bar, content = rule.partition("|")
    flag = flags.strip()
    if bar and re.fullmatch(r"[A-Z\-](?:;[A-Z])*|", flag):
        if flag not in SHOWN_FLAGS:  # a title, a rule for other places, a comment
            return ""
        rule = content
    texts: dict[str, str] = {}
    for part in NEXT_RULE.split(rule):
        if not (found := RULE.fullmatch(part.rstrip().removesuffix(";"))):
            return rule  # a text that stays as it is
        texts.setdefault(found[1], found[2].strip())
    family = TRADITIONAL if variant in TRADITIONAL else SIMPLIFIED
    return next((texts[name] for name in (variant, *family, "zh") if name in texts), next(iter(texts.values())))


# ---- nodes


def _texts(nodes: Sequence[Any], dropped: frozenset[str]) -> Iterator[str]:
    for node in nodes:
        kind = type(node).__name__
        if kind == "Text":
            yield str(node.value)
        elif kind == "Wikilink":
            yield _link(node, dropped)
        elif kind == "Tag":
            yield _tag(node, dropped)
        elif kind == "ExternalLink":
            shown = node.title if node.brackets else node.url
            yield "".join(_texts(shown.nodes, dropped)) if shown else ""
        elif kind == "HTMLEntity":
            yield str(node.normalize())
        elif kind == "Heading":
            yield f"\n{HEADING}{node.level}{''.join(_texts(node.title.nodes, dropped)).strip()}\n"
        elif kind == "Template":
            yield _template(node, dropped)


def _link(node: Any, dropped: frozenset[str]) -> str:
    target = str(node.title).strip()
    prefix, colon, _ = target.partition(":")
    prefix = prefix.strip().lower()
    if colon and (prefix in dropped or (LANGUAGE.fullmatch(prefix) and not node.text)):
        return ""
    return "".join(_texts((node.text or node.title).nodes, dropped)).removeprefix(":")


def _tag(node: Any, dropped: frozenset[str]) -> str:
    name = str(node.tag).strip().lower()
    if name in DROPPED_TAGS:
        return ""
    if name in ("li", "dt", "dd") and node.wiki_markup:
        return MARKERS.get(str(node.wiki_markup), "")
    if name in ("br", "hr"):
        return "\n"
    if not node.contents:
        return ""
    if name in ("math", "chem"):
        return f"${str(node.contents).strip()}$"
    return "".join(_texts(node.contents.nodes, dropped))


def _template(node: Any, dropped: frozenset[str]) -> str:
    """The text of a template that marks a language or a link to another wiki; nothing of others."""
    name = str(node.name).strip().lower()
    number = "2" if name == "lang" else "1" if name == "le" or name.startswith(("lang-", "link-")) else ""
    if number and node.has(number):
        return "".join(_texts(node.get(number).value.nodes, dropped)).strip()
    return ""


# ---- lines


def _line(text: str) -> Line:
    if text.startswith(HEADING):
        return int(text[1]), " ".join(text[2:].split())
    return 0, re.sub(" {2,}", " ", text).strip(SPACE) if text.strip(f"{SPACE}-") else ""


def _with_text(lines: Sequence[Line]) -> list[str]:
    """The lines without headings that nothing stands below."""
    kept: list[str] = []
    after = 0  # level of the next heading that is kept; that of a text is below all headings
    for level, text in reversed(lines):
        if not level:
            kept.append(text)
            after = DEEPEST if text else after
        elif text and after > level:
            kept += ["", text, ""]
            after = level
    return kept[::-1]
