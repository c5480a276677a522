"""Types of configuration fields that limit numbers and mark paths.

    peak_lr: Rate = 3e-3          steps: Count | None = None          warmup: AnyCount | Share = 0.05
    run_dir: PathText = "runs"    path: PathText | list[PathText]

The type carries the limits, so parsing, `check` and a reader of the dataclass all see the same ones.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, is_dataclass
from functools import cache
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from babyllm.errors import UserError


@dataclass(frozen=True)
class Limits:
    """The numbers that a field accepts; they are always finite.

    Attributes:
        low: smallest number.
        high: largest number.
        above: whether `low` itself is excluded.
        below: whether `high` itself is excluded.
    """

    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    below: bool = False

    def demand(self, value: float) -> str | None:
        """The requirement that a number fails, such as "at least 1"; None if it is within the limits."""
        if not abs(value) < math.inf:  # NaN compares as false with everything
            return "a finite number"
        if value < self.low or (self.above and value == self.low):
            return f"{'above' if self.above else 'at least'} {_plain(self.low)}"
        if value > self.high or (self.below and value == self.high):
            return f"{'below' if self.below else 'at most'} {_plain(self.high)}"
        return None


def _plain(limit: float) -> str:
    return f"{limit:,}" if isinstance(limit, int) else f"{limit:g}"


PATH = "path"  # marks a text as the name of a file or a directory
PathText = Annotated[str, PATH]

MAX_COUNT = 2**53  # largest count that a float, a JSON number and a sum over ranks represent exactly
MAX_MEMBERS = 2**20  # for things that are stored or processed one by one: rows of a batch, tokens of a row
AnyCount = Annotated[int, Limits(0, MAX_COUNT)]
Count = Annotated[int, Limits(1, MAX_COUNT)]
Members = Annotated[int, Limits(1, MAX_MEMBERS)]
AnyMembers = Annotated[int, Limits(0, MAX_MEMBERS)]
MAX_WIDTH = 2**24  # of a layer or a table of positions, for which memory is allocated
Width = Annotated[int, Limits(1, MAX_WIDTH)]
VocabularySize = Annotated[int, Limits(1, 2**32)]
TokenId = Annotated[int, Limits(0, 2**32 - 1)]
Seed = Annotated[int, Limits(-(2**63), 2**63 - 1)]
Few = Annotated[int, Limits(1, 1024)]  # for what is costly: processes, beams, parallel answers
Finite = Annotated[float, Limits()]
Rate = Annotated[float, Limits(0)]
Positive = Annotated[float, Limits(0, above=True)]
Share = Annotated[float, Limits(0, 1)]
Epochs = Annotated[float, Limits(0, 10**6, above=True)]
ShareBelow1 = Annotated[float, Limits(0, 1, below=True)]
Seconds = Annotated[float, Limits(0, 10**8)]
PositiveSeconds = Annotated[float, Limits(0, 10**8, above=True)]


def check(config: Any, prefix: str = "") -> None:
    """Check that every number of a configuration is within the limits of its field.

    Args:
        config: a dataclass with limits in the types of its fields; its sections are checked too.
        prefix: prefix of the keys in the message, such as "plan.".

    Raises:
        UserError: a number is beyond its limits; the message names the key, the value and the limit.
    """
    hints = type_hints(type(config), is_marked=True)
    for field in fields(config):
        value = getattr(config, field.name)
        if is_dataclass(value):
            check(value, f"{prefix}{field.name}.")
        for number in _numbers_in(value):
            limits = _limits(hints[field.name], type(number))
            if limits and (demand := limits.demand(number)):
                raise UserError(f"{prefix}{field.name}={number}: must be {demand}")


def type_hints(kind: Any, *, is_marked: bool = False) -> dict[str, Any]:
    """The types of a dataclass's fields by name, with what `Annotated` adds to them if `is_marked`; not to be changed.

    Resolving the texts of annotations takes milliseconds, and every command reads those of its settings several times.
    """
    return _type_hints(kind, is_marked)


@cache
def _type_hints(kind: Any, is_marked: bool) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=is_marked)


def is_path(hint: Any) -> bool:
    """Whether the type of a field, with its annotations, is that of a path or of several paths."""
    return PATH in getattr(hint, "__metadata__", ()) or any(map(is_path, get_args(hint)))


def expand_paths(config: Any) -> None:
    """Expand `~` in the paths of a configuration, which Python code may write as in a shell.

    Args:
        config: a dataclass under construction, frozen or not. Its sections have expanded their own paths.
    """
    hints = type_hints(type(config), is_marked=True)
    for name in (field.name for field in fields(config) if is_path(hints[field.name])):
        value = getattr(config, name)
        if isinstance(value, str):
            object.__setattr__(config, name, os.path.expanduser(value))
        elif isinstance(value, list):
            object.__setattr__(config, name, [os.path.expanduser(path) for path in value])


def without_paths(config: Any) -> dict[str, Any]:
    """The values of a configuration by name, without paths, for comparisons in which only the files' contents count."""
    hints = type_hints(type(config), is_marked=True)
    return {name: value for name, value in asdict(config).items() if not is_path(hints[name])}


def expanded(path: str) -> str:
    """A path as the system knows it: `~` and `~name` at its beginning become home directories; `$` is not expanded.

    Raises:
        UserError: the path is empty or contains a NUL character; the message begins with the reason.
    """
    if not path.strip():
        raise UserError("is empty: give a path")
    if "\0" in path:
        raise UserError("holds a NUL character, which no path can")
    return os.path.expanduser(path)


def _numbers_in(value: Any) -> Iterator[int | float]:
    """The number that a value is, or the numbers inside it; true and false are not numbers."""
    if type(value) in (int, float):
        yield value
    elif isinstance(value, (list, tuple, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _numbers_in(item)


def _limits(hint: Any, kind: type) -> Limits | None:
    """The limits of a field, or of its items, for a number of type `kind`; None where its type has none."""
    found = dict(_limits_in(hint))
    return found.get(kind) or found.get(float)  # a field of floats accepts integers


def _limits_in(hint: Any) -> Iterator[tuple[type, Limits]]:
    """Each type of number in the type of a field, with its limits."""
    if get_origin(hint) is Annotated:
        yield from ((hint.__origin__, mark) for mark in hint.__metadata__ if isinstance(mark, Limits))
    else:
        for part in get_args(hint):
            yield from _limits_in(part)


def described(hint: Any) -> str:
    """A type as a user writes its values: `int | null`, `cosine | linear`, `[float, float]`."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return described(args[0])
    if origin is Literal:
        return " | ".join(map(str, args))
    if origin in (Union, UnionType):
        return " | ".join(map(described, args))
    inner = ["..." if arg is Ellipsis else described(arg) for arg in args]
    if origin is dict:
        return f"{{{inner[0]}: {inner[1]}, ...}}"
    if origin in (list, tuple):
        return f"[{', '.join(inner)}{', ...' if origin is list else ''}]"
    names: dict[Any, str] = {type(None): "null", bool: "true | false", str: "text"}
    return names.get(hint) or str(hint.__name__)
