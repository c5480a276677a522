"""Several configurations of one type in one YAML file, each below a name."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import yaml

from babyllm.config.command_line import from_node, read_node
from babyllm.errors import UserError

C = TypeVar("C")


def load_by_name(kind: type[C], path: str | Path) -> dict[str, C]:
    """The configurations in the YAML file at `path` by name.

    Raises:
        UserError: as `load` does, or for a name that is given twice or has nothing below it.
    """
    root, found = read_node(path), dict[str, C]()
    if not isinstance(root, yaml.MappingNode) or not root.value:
        raise UserError(f"{path}: holds no names with settings below them, such as 'name: {{path: FILE}}'")
    for key, node in root.value:
        place = f"{path}:{key.start_mark.line + 1}"
        if not isinstance(key, yaml.ScalarNode):
            raise UserError(f"{place}: a name is a word, not a list or settings")
        name = " ".join(key.value.split())
        if name in found:
            raise UserError(f"{place}: duplicate name '{name}': keep one of them")
        if not isinstance(node, yaml.MappingNode):
            raise UserError(f"{place}: '{name}' has no settings below it, such as 'path: FILE'")
        try:
            found[name] = from_node(kind, node, path)
        except UserError as error:
            text = str(error).removeprefix("--")
            raise UserError(text if text.startswith(f"{path}:") else f"{path}: {name}: {text}") from None
    return found
