"""Choices that a short measurement decides, remembered on this machine so that equal runs choose alike.

key -> ~/.cache/babyllm/measured.json -> the choice, measured where it is not there yet
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from babyllm.files import write_json


def cache_directory() -> Path:
    """The folder for what can be computed again: `~/.cache/babyllm`, or inside of `XDG_CACHE_HOME`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "babyllm"


def remembered(key: str, measure: Callable[[], str]) -> str:
    """The choice made for `key` before on this machine, or that of `measure`, which is then stored.

    Where the cache cannot be read or written, each call measures.

    Args:
        key: everything that the choice depends on, such as processor, versions and shape.
        measure: function that measures and returns the choice.
    """
    file = cache_directory() / "measured.json"
    choices: dict[str, str] = {}
    with suppress(OSError, ValueError, TypeError):
        choices = dict(json.loads(file.read_text(encoding="utf-8")))
    if isinstance(found := choices.get(key), str):
        return found
    choice = measure()
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, {**choices, key: choice})
    return choice
