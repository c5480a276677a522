"""The texts that a judge reads: plain files in `prompts/`, which a person can read and replace.

Names in braces are replaced once, so that braces in answers stay as they are. `{reference}` becomes a tagged block, or
nothing where there is no reference answer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from pkgutil import get_data
from typing import Literal

from babyllm.errors import UserError

Language = Literal["en", "zh"]
Kind = Literal["pair", "score"]
_NEEDED = {"pair": ("prompt", "answer_a", "answer_b"), "score": ("prompt", "answer")}


def judge_prompt(kind: Kind, language: Language, file: Path | None) -> str:
    """The text with names in braces.

    Args:
        kind: whether two answers are compared or one is scored.
        language: language of the built-in text.
        file: text of one's own; None takes the built-in one.

    Raises:
        UserError: the file cannot be read or lacks a name.
    """
    if file is None:
        return _built_in(f"{kind}.{language}.txt")
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UserError(f"--prompt_file: {file} cannot be read ({why})") from None
    if missing := [f"{{{name}}}" for name in _NEEDED[kind] if f"{{{name}}}" not in text]:
        raise UserError(f"--prompt_file: {file} lacks {', '.join(missing)}, where the texts to judge are put")
    return text


def filled(text: str, values: Mapping[str, str], reference: str | None) -> str:
    """A text with its names replaced by values; other braces stay.

    Args:
        text: text with names in braces.
        values: value of each name.
        reference: reference answer; None for none.
    """
    block = "" if reference is None else f"\n<reference_answer>\n{reference}\n</reference_answer>\n"
    known = {**values, "reference": block}
    return re.sub(r"\{(\w+)\}", lambda found: known.get(found[1], found[0]), text)


def dimension_lines(dimensions: Mapping[str, float], language: Language) -> dict[str, str]:
    """The values of `{dimensions}`, what each means where that is known, and `{form}`, the lines of the verdict."""
    known = dict(line.split(": ", 1) for line in _built_in(f"dimensions.{language}.txt").splitlines())
    colon = "：" if language == "zh" else ": "
    lines = [f"- {name}{colon}{known[name]}" if name in known else f"- {name}" for name in dimensions]
    number = "（1 到 10 的整数）" if language == "zh" else "(a whole number from 1 to 10)"
    return {"dimensions": "\n".join(lines), "form": "\n".join(f"{name}{colon}{number}" for name in dimensions)}


def _built_in(name: str) -> str:
    return (get_data("babyllm.judging", f"prompts/{name}") or b"").decode()
