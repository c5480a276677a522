"""A job as bytes, for a process of another machine: it runs in the directory and with the modules of this one."""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Callable, Sequence
from typing import Any


def packed(
    function: Callable[..., Any], arguments: Sequence[Any], dumps: Callable[[Any], bytes] = pickle.dumps
) -> bytes:
    """A job as bytes, which `dumps` makes from the function and its arguments."""
    return pickle.dumps((os.getcwd(), sys.path, dumps((function, arguments))))


def run_packed(job: bytes) -> Any:
    """The result of a job."""
    directory, path, call = pickle.loads(job)
    os.chdir(directory)
    sys.path.extend(place for place in path if place not in sys.path)
    function, arguments = pickle.loads(call)
    return function(*arguments)
