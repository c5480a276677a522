"""Scorers of texts that the user writes: `module:function`, called with a batch of texts in the worker processes.

texts -> module:function -> one finite number for each
source of the module, its VERSION -> identity, by which a result knows the scorer that made it
"""

from __future__ import annotations

import hashlib
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from babyllm.errors import UserError, in_one_line

_SHOWN = 40  # characters of a text in a message


@dataclass(frozen=True)
class TextScorer:
    """A function of the user that scores texts.

    Attributes:
        name: the setting and its value, such as "--quality.function=scorers:quality", for messages.
        function: function from a list of texts to a number for each.
        identity: value that changes when the file of the module or its `VERSION` does.
    """

    name: str
    function: Callable[[list[str]], Any]
    identity: str

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """(len(texts),) float64 scores.

        Raises:
            UserError: the function raises, or does not return one finite number for each text.
        """
        if not texts:
            return np.empty(0)
        try:
            found = self.function(list(texts))
        except Exception as error:
            what = f"raised {type(error).__name__}: {in_one_line(error)}"
            raise UserError(f"{self.name}: {what}; correct it and start again") from error
        try:
            scores = np.asarray(found, np.float64)
        except (TypeError, ValueError):
            raise self._wrong(f"returned {type(found).__name__} that is not of numbers", len(texts)) from None
        if scores.shape != (len(texts),):
            raise self._wrong(f"returned an array of shape {scores.shape}", len(texts))
        if len(wrong := np.flatnonzero(~np.isfinite(scores))):
            text = texts[wrong[0]]
            shown = repr(text[:_SHOWN]) + "..." * (len(text) > _SHOWN)
            raise self._wrong(f"returned {scores[wrong[0]]} for {shown}", len(texts))
        return scores

    def _wrong(self, what: str, n: int) -> UserError:
        return UserError(f"{self.name}: {what}; return a list of {n:,} finite numbers for {n:,} texts")


@cache
def load_text_scorer(setting: str, name: str) -> TextScorer:
    """The function `module:function`, of a module that Python finds in the present folder or elsewhere.

    Args:
        setting: setting that names it, such as "--quality.function", for messages.
        name: `module:function`.

    Raises:
        UserError: the name is not of this form, or the function cannot be imported.
    """
    place, _, function = name.partition(":")
    if not place or not function:
        raise UserError(f"{setting}={name}: write module:function, such as scorers:quality for quality in scorers.py")
    if os.getcwd() not in sys.path:  # worker processes have the same path
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(place)
        found = getattr(module, function)
    except Exception as error:
        what = f"cannot be imported ({type(error).__name__}: {in_one_line(error)})"
        raise UserError(f"{setting}={name}: {what}; start in the folder of {place}.py, or set PYTHONPATH") from error
    if not callable(found):
        raise UserError(f"{setting}={name}: is not a function; name one that takes a list of texts")
    file = getattr(module, "__file__", None)
    source = hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else ""
    version = getattr(module, "VERSION", "")
    return TextScorer(f"{setting}={name}", found, f"{name} {source} {version}".rstrip())
