"""A catalogue of tasks on two levels, with a few seeds each: a YAML file that one can read and replace.

- name: writing
  types:
  - name: letters
    about: {en: letters and mails, zh: 书信和邮件}
    seeds: {en: [Write ..., ...], zh: [写一封……, ……]}
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from pkgutil import get_data
from typing import Any

import yaml

from babyllm.errors import UserError
from babyllm.synthesis.made_items import Item, draw
from babyllm.synthesis.recipe import MAX_RECIPE_BYTES, Language

CATALOGUE = "recipes/catalogue.yaml"


@dataclass(frozen=True)
class Task:
    """A type of task.

    Attributes:
        name: name of the group and of the type in it, such as writing/letters.
        about: what it is, by language.
        seeds: instructions of this type, by language.
    """

    name: str
    about: dict[str, str]
    seeds: dict[str, list[str]]


def built_in() -> list[Task]:
    """The tasks of the catalogue that comes with babyllm."""
    return _tasks((get_data("babyllm.synthesis", CATALOGUE) or b"").decode(), CATALOGUE)


def read_catalogue(path: Path) -> list[Task]:
    """The tasks of a file.

    Raises:
        UserError: it cannot be read, or is not a catalogue.
    """
    try:
        with path.open("rb") as file:
            return _tasks(file.read(MAX_RECIPE_BYTES).decode("utf-8-sig"), str(path))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not UTF-8 text") from None


def task_items(tasks: Sequence[Task], n: int | None, language: Language, seed: int, n_shown: int) -> list[Item]:
    """An item for each task in turn, with some of its seeds as examples.

    Args:
        tasks: types of tasks.
        n: number of items; None for one of each type.
        language: language of the seeds.
        seed: seed of the choice of examples.
        n_shown: number of examples.

    Raises:
        UserError: no task has seeds in the language.
    """
    usable = [task for task in tasks if task.seeds.get(language)]
    if not usable:
        raise UserError(f"--language={language}: the catalogue has no such tasks with seeds in it")
    items = []
    for i in range(n or len(usable)):
        task, k = usable[i % len(usable)], i // len(usable)
        seeds = sorted(task.seeds[language], key=lambda text: draw(seed, "seeds", task.name, k, text))[:n_shown]
        values = {"task": task.name, "about": task.about.get(language, task.name), "seeds": seeds}
        items.append(Item(f"{task.name}-{k}", values, (f"{task.name}: {len(seeds)} seeds",), sample=k))
    return items


def _tasks(text: str, where: str) -> list[Task]:
    try:
        groups = yaml.safe_load(text)
        return [
            Task(f"{group['name']}/{one['name']}", dict(one["about"]), {k: _texts(v) for k, v in one["seeds"].items()})
            for group in groups
            for one in group["types"]
        ]
    except (yaml.YAMLError, RecursionError) as error:
        raise UserError(f"{where}: is not YAML ({' '.join(str(error).split())[:200]})") from None
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(
            f"{where}: is not a catalogue: a list of groups with name and types, and types with name, about and seeds "
            f"({error})"
        ) from None


def _texts(value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise ValueError("seeds are lists of texts")
    return value
