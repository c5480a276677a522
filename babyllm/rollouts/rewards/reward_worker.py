"""The process in which a user's reward function runs; it reads and writes lines of JSON."""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable
from typing import Any


def _plain(value: Any) -> float | None:
    """A reward as a number of Python; tensors and arrays of one element too."""
    return None if value is None else float(value)


def _found(name: str) -> Callable[..., Any]:
    module, _, function = name.partition(":")
    sys.path.insert(0, os.getcwd())
    found: Callable[..., Any] = getattr(importlib.import_module(module), function)
    return found


def _rewards(function: Callable[..., Any], line: bytes) -> dict[str, Any]:
    try:
        return {"rewards": [_plain(reward) for reward in function(*json.loads(line))]}
    except BaseException as error:
        return {"error": f"raised {type(error).__name__}: {error}"}


def main(name: str) -> None:
    """Answer requests until the standard input ends.

    Args:
        name: `module:function`.
    """
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the function prints must not be taken for an answer

    def write(answer: dict[str, Any]) -> None:
        out.write(json.dumps(answer).encode() + b"\n")
        out.flush()

    lines = os.fdopen(os.dup(0), "rb")
    try:
        function = _found(name)
    except BaseException as error:
        write({"error": f"cannot be imported ({type(error).__name__}: {error})"})
        return
    write({})
    for line in lines:
        write(_rewards(function, line))


if __name__ == "__main__":
    main(sys.argv[1])
