"""A study as one value: the stage, the flags of its arms, the seeds, and what is compared.

STUDY.yaml -> keys known and of the right kind -> sweep points as arms -> Study
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from babyllm.config import nearest
from babyllm.config.values import expanded
from babyllm.errors import UserError
from babyllm.studies.run_values import STAGES

BASE = "base"
"""The key of `before` whose commands serve all arms."""
DIRECTIONS = {"lower": True, "higher": False}
_MOST_ARMS = 1000
_LOWER = ("loss", "bpb", "perplexity")


@dataclass(frozen=True)
class Study:
    """The runs of a study: each arm with each seed.

    Attributes:
        stage: name of the command that trains, such as pretrain or sft.
        out: directory of the runs, their logs and the report.
        base: flags of every run, as in a configuration; keys may be nested or dotted. The key config names a YAML
            configuration to begin with.
        seeds: seeds of the runs of each arm; runs of one seed are compared with each other.
        control: name of the arm that the others are compared with.
        arms: flags of each arm by its name, over those of base.
        before: shell-like commands that are run once before the runs of an arm, or of all arms under the name base;
            {out} in them, and in the flags of the arm or of base, is a directory for their results, and {base} that of
            base.
        results: names of the results on held-out data, such as all/bpb, and whether a lower value is better.
    """

    stage: str
    out: Path
    base: Mapping[str, Any]
    seeds: Sequence[int]
    control: str
    arms: Mapping[str, Mapping[str, Any]]
    before: Mapping[str, Sequence[str]] = field(default_factory=dict)
    results: Mapping[str, bool] = field(default_factory=lambda: {"all/loss": True})

    def folder(self, name: str) -> Path:
        """The directory of an arm, or of what is made for all of them under the name base."""
        return self.out / folder_name(name)


def folder_name(name: str) -> str:
    """The name of an arm as that of a folder: what a path cannot hold becomes an underscore."""
    return re.sub(r"[^\w.,=+%-]+", "_", name).strip("._") or "_"


def read_study(path: Path, out: str | None = None) -> Study:
    """The study in a YAML file.

    Args:
        path: the file; its keys are the attributes of `Study`, and sweep: lists of values by key, in place of arms.
        out: directory for the study, in place of that in the file.

    Raises:
        UserError: the file cannot be read, or a key is unknown or of the wrong kind; the message names both.
    """
    keys = read_yaml(path)
    known = [*(each.name for each in fields(Study)), "sweep"]
    for key in keys:
        if key not in known:
            raise UserError(f"{path}: unknown key '{key}': did you mean '{nearest(key, known)}'?")
    stage = keys.get("stage", "pretrain")
    if stage not in STAGES:
        raise UserError(f"{path}: 'stage' is one of {', '.join(STAGES)}, not {stage!r}")
    arms = _arms(path, keys)
    control = str(keys.get("control", next(iter(arms))))
    if control not in arms:
        raise UserError(f"{path}: 'control' is one of the arms ({', '.join(arms)}), not {control!r}")
    return Study(
        stage=stage,
        out=Path(out or _path(path, keys.get("out", f"runs/studies/{path.stem}"))),
        base=_mapping(path, BASE, keys.get(BASE)),
        seeds=_seeds(path, keys.get("seeds", [1])),
        control=control,
        arms=arms,
        before=_before(path, keys.get("before"), arms),
        results=_results(path, keys.get("results", ["all/loss"])),
    )


class _Loader(yaml.SafeLoader):
    """Reads YAML as PyYAML does, but refuses a key that is given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """The mapping of a node."""
        names = [key.value for key, _ in node.value]
        if twice := [name for name in names if names.count(name) > 1]:
            raise yaml.constructor.ConstructorError(None, None, f"duplicate key '{twice[0]}'", node.start_mark)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        UserError: the file cannot be read, or holds something else.
    """
    try:
        value = _Loader(path.read_text(encoding="utf-8-sig")).get_single_data()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise UserError(f"{path}{line}: not valid YAML: {getattr(error, 'problem', None) or error}") from None
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise UserError(f"{path}: holds lines 'key: value', and each key is a word")
    return value


def _mapping(path: Path, key: str, value: Any) -> dict[str, Any]:
    """A mapping whose keys are texts; an empty one for nothing.

    Raises:
        UserError: the value is something else.
    """
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise UserError(f"{path}: '{key}' holds lines 'name: value', not {value!r}")
    return {str(name): each for name, each in value.items()}


def _path(path: Path, value: Any) -> str:
    if not isinstance(value, str):
        raise UserError(f"{path}: 'out' is the path of a directory, not {value!r}")
    try:
        return expanded(value)
    except UserError as error:
        raise UserError(f"{path}: 'out' {error}") from None


def _seeds(path: Path, value: Any) -> list[int]:
    seeds = value if isinstance(value, list) else [value]
    if not seeds or not all(type(seed) is int and 0 <= seed < 2**63 for seed in seeds) or len(set(seeds)) < len(seeds):
        raise UserError(f"{path}: 'seeds' is a list of different whole numbers, such as [1, 2, 3], not {value!r}")
    return seeds


def _arms(path: Path, keys: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The flags of each arm, given by name or as the points of a sweep."""
    named, sweep = _mapping(path, "arms", keys.get("arms")), _mapping(path, "sweep", keys.get("sweep"))
    if bool(named) == bool(sweep):
        raise UserError(f"{path}: give the flags of each arm in 'arms', or lists of values in 'sweep', and not both")
    arms = {name: _mapping(path, f"arms.{name}", flags) for name, flags in named.items()} or _points(path, sweep)
    folders: dict[str, str] = {}
    for name in arms:
        other = folders.setdefault(folder_name(name), name)
        if other != name or name == BASE:
            reason = f"has the folder of {other!r}" if other != name else "is the name of what all arms share"
            raise UserError(f"{path}: the arm {name!r} {reason}; choose another name")
    return arms


def _points(path: Path, sweep: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The points of a grid as arms, each named by its values."""
    for key, values in sweep.items():
        if not isinstance(values, list) or not values:
            raise UserError(f"{path}: 'sweep.{key}' is a list of values, not {values!r}")
    points = list(product(*sweep.values()))
    if len(points) > _MOST_ARMS:
        raise UserError(f"{path}: 'sweep' has {len(points):,} points; at most {_MOST_ARMS:,} can be compared")
    arms = {}
    for values in points:
        names = [f"{key.rpartition('.')[2]}={_short(value)}" for key, value in zip(sweep, values, strict=True)]
        arms[", ".join(names)] = dict(zip(sweep, values, strict=True))
    if len(arms) < len(points):
        raise UserError(f"{path}: 'sweep' has a value twice")
    return arms


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text.replace('"', "")


def _before(path: Path, value: Any, arms: Mapping[str, Any]) -> dict[str, list[str]]:
    before = _mapping(path, "before", value)
    for name, commands in before.items():
        if name != BASE and name not in arms:
            raise UserError(f"{path}: 'before.{name}' names no arm; arms are {', '.join(arms)}, and base for all")
        if not isinstance(commands, list) or not all(isinstance(each, str) and each.strip() for each in commands):
            raise UserError(f"{path}: 'before.{name}' is a list of commands, such as [\"babyllm select ... {{out}}\"]")
    return before


def _results(path: Path, value: Any) -> dict[str, bool]:
    """Whether a lower value is better, by result; by its name where the file does not say."""
    if isinstance(value, str):
        value = [value]
    if isinstance(value, list) and value and all(isinstance(name, str) for name in value):
        return {name: name.endswith(_LOWER) for name in value}
    if isinstance(value, dict) and value and all(direction in DIRECTIONS for direction in value.values()):
        return {str(name): DIRECTIONS[direction] for name, direction in value.items()}
    raise UserError(
        f"{path}: 'results' is a list of names, such as [all/bpb], or says which values are better, such as "
        f"{{all/accuracy: higher}}, not {value!r}"
    )
