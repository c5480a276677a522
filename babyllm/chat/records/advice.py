"""Advice on a record of unknown shape: a guess at the settings that would name its fields.

fields of a record -> settings_for -> {"prompt": "标题", "answer": "回复"} | {"messages": "log", "role": "who", ...}
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from babyllm.chat.messages import Unusable

MOST = 40  # largest number of fields that are considered
_ASKING = re.compile(r"quest|prompt|query|ask|instruct|input|request|user|human|problem|src|source|[问提令]|(?<!标)题")
_ANSWERING = re.compile(r"answer|repl|respon|output|target|complet|assistant|bot|solution|model|gpt|tgt|[答复应出]")
_ELSE = re.compile(
    r"(^|[_.-])(u?u?id|url|link|time|date|lang|language|hash|score|split|license|author|name|task|type|category|topic|keyword|tag)s?$"
)
_PLAIN = re.compile(r"[\w.+?-]+")


class Unrecognised(Unusable):
    """A record whose fields are not recognised.

    Attributes:
        settings: settings of `FormatConfig` that probably name its fields.
    """

    def __init__(self, reason: str, settings: Mapping[str, str]) -> None:
        super().__init__(reason)
        self.settings = dict(settings)


def settings_for(values: Mapping[str, Any], spelled: Callable[[str], str], fewest: int = 2) -> dict[str, str]:
    """A guess at the settings that fit this record, as {setting: field}; empty if there is no guess.

    Args:
        values: the fields of the record.
        spelled: a function that returns a field's name as the file spells it.
        fewest: smallest number of texts for a guess; with 1, both settings may name the same field.
    """
    for name, value in list(values.items())[:MOST]:
        if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            keys = [str(key) for key, text in value[0].items() if isinstance(text, str)]
            if len(keys) >= 2:
                role = min(keys, key=lambda key: len({str(item.get(key)) for item in value}))
                content = max((key for key in keys if key != role), key=lambda key: len(str(value[0][key])))
                return {"messages": spelled(name), "role": role, "content": content}
    texts = {name: text for name, text in _texts(values, spelled) if not _ELSE.search(name.lower())}
    names = list(texts)[:MOST]
    if len(names) < fewest:
        return {}
    answers = [name for name in names if _ANSWERING.search(name.lower()) and not _ASKING.search(name.lower())]
    answer = answers[0] if answers else max(reversed(names), key=lambda name: len(texts[name]))
    others = [name for name in names if name != answer] or names
    asking = [name for name in others if _ASKING.search(name.lower())]
    return {"prompt": next(iter(asking), others[0]), "answer": answer}


def as_flags(settings: Mapping[str, str], section: str) -> str:
    """The settings as flags for the command line, such as `--data.format.prompt=ask --data.format.answer=reply`."""
    return " ".join(
        f"--{section}.{name}={field}" if _PLAIN.fullmatch(field) else f"--{section}.{name}={_quoted(field)}"
        for name, field in settings.items()
    )


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _texts(values: Mapping[str, Any], spelled: Callable[[str], str], before: str = "") -> Iterator[tuple[str, str]]:
    """The names of fields that hold text, and their texts; nested fields have the dotted name."""
    for key, value in values.items():
        name = f"{before}{spelled(key)}"
        if isinstance(value, str) and value.strip():
            yield name, value
        elif isinstance(value, list) and value and isinstance(value[0], str) and value[0].strip():
            yield f"{name}.0", value[0]
        elif isinstance(value, dict) and not before:
            yield from _texts({str(inner): text for inner, text in value.items()}, str, f"{name}.")
