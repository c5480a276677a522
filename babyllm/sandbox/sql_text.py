"""What a text says without running it: its tokens, whether a query orders its rows, where an answer has the query."""

from __future__ import annotations

import re
from collections.abc import Iterator

_TOKEN = re.compile(
    r"""
    (?P<space>\s+ | --[^\n]* | /\*.*?(?:\*/|\Z))
    | (?P<quoted>'(?:[^']|'')*' | "(?:[^"]|"")*" | `(?:[^`]|``)*` | \[[^\]]*\])
    | (?P<word>[^\W\d]\w* | \d+(?:\.\d*)?(?:[eE][+-]?\d+)? | \.\d+(?:[eE][+-]?\d+)?)
    | (?P<sign><= | >= | <> | != | == | \|\| | .)
    """,
    re.VERBOSE | re.DOTALL,
)
_FENCE = re.compile(r"```[ \t]*\w*[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL)


def normalised(sql: str) -> str:
    """The query with one space between tokens, in lower case outside quotes, without comments and final semicolons."""
    return " ".join(_tokens(sql)).rstrip("; ")


def is_ordered(sql: str) -> bool:
    """Whether the outermost query has an ORDER BY; those of subqueries and windows do not order the result."""
    depth, before = 0, ""
    for token in _tokens(sql):
        depth += (token == "(") - (token == ")")
        if depth == 0 and (before, token) == ("order", "by"):
            return True
        before = token
    return False


def sql_in(answer: str) -> str:
    """The query in a model's answer: the first fenced block if there is one, else the whole, without outer spaces."""
    fenced = _FENCE.search(answer)
    return (fenced.group(1) if fenced else answer).strip()


def _tokens(sql: str) -> Iterator[str]:
    for match in _TOKEN.finditer(sql):
        if match.lastgroup != "space":
            yield match.group() if match.lastgroup == "quoted" else match.group().lower()
