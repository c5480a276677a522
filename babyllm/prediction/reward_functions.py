"""Rewards by name: those that are built in, and functions of a user's own module, written `module:function`."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from babyllm.chat.formats import FormatConfig
from babyllm.errors import UserError
from babyllm.prediction.questions import references
from babyllm.prediction.sample_file import Reward, Rewarding
from babyllm.prediction.sample_rules import Turns


def exact_match(
    prompts: Sequence[Turns], answers: Sequence[str], records: Sequence[Mapping[str, Any]]
) -> list[float | None]:
    """1 for an answer that equals a reference of its record, blanks at both ends aside, else 0; None without any."""
    right = [{text.strip() for text in references(record)} for record in records]
    return [float(answer.strip() in texts) if texts else None for answer, texts in zip(answers, right, strict=True)]


def length(prompts: Sequence[Turns], answers: Sequence[str], records: Sequence[Mapping[str, Any]]) -> list[float]:
    """The number of characters of each answer."""
    return [float(len(answer)) for answer in answers]


BUILT_IN: dict[str, Reward] = {"exact_match": exact_match, "length": length}


def load_rewarding(name: str, format: FormatConfig) -> Rewarding:
    """The reward of a name.

    Args:
        name: name of a built-in reward, or `module:function` of a module that Python finds here.
        format: settings for reading records as conversations.

    Raises:
        UserError: there is no such reward.
    """
    if name in BUILT_IN:
        return Rewarding(BUILT_IN[name], name, format=format)
    module, _, function = name.partition(":")
    if not function:
        raise UserError(
            f"--reward={name}: write one of {', '.join(BUILT_IN)}, module:function or the directory of a reward model"
        )
    if (here := os.getcwd()) not in sys.path:  # `babyllm` itself is run from another folder
        sys.path.insert(0, here)
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise UserError(f"--reward={name}: cannot be imported ({error}); name a function of a module here") from error
    try:
        source = inspect.getsource(inspect.getmodule(found) or found)
    except (OSError, TypeError):
        source = ""
    return Rewarding(found, name, {"reward function": hashlib.sha256(source.encode()).hexdigest()}, format)
