"""YAML as nodes with their lines: composed within limits, and read as texts, lists and mappings of texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from babyllm.errors import UserError

NULLS = ("", "~", "null", "none")
MAX_NESTING = 20  # of a configuration file


def place_of(path: str | Path, node: yaml.Node) -> str:
    """A file with the line of a node; a flag is a node of its own, without a line."""
    return f"{path}:{node.start_mark.line + 1}" if node.start_mark else str(path)


def mistake(message: str) -> UserError:
    """The error of a user's mistake, on one line."""
    return UserError(" ".join(message.split()))  # what the user wrote may hold line breaks; a message is one line


def compose(text: str, where: str) -> yaml.Node:
    """The node of a YAML text.

    Raises:
        UserError: the text is not valid, has aliases or is nested too deeply; the message begins with `where`.
    """
    depth = 0
    try:
        for event in yaml.parse(text, Loader=yaml.BaseLoader):
            if isinstance(event, yaml.AliasEvent):
                raise yaml.YAMLError("aliases are not supported, write the value out")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_NESTING:
                raise yaml.YAMLError(f"more than {MAX_NESTING} lists and sections within each other")
        return yaml.compose(text, Loader=yaml.BaseLoader) or yaml.ScalarNode("", "")
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" in line {mark.line + 1}" if mark else ""
        raise mistake(f"{where}: not valid YAML{line}: {getattr(error, 'problem', None) or error}") from None


def is_null(node: yaml.Node) -> bool:
    """Whether a node is an unquoted null."""
    return isinstance(node, yaml.ScalarNode) and not node.style and node.value.lower() in NULLS


def items_of(node: yaml.MappingNode, where: str, prefix: str = "") -> dict[str, yaml.Node]:
    """The nodes of a mapping by key.

    Raises:
        UserError: a key is not a text, or is given twice.
    """
    items: dict[str, yaml.Node] = {}
    for name, child in node.value:
        if not isinstance(name, yaml.ScalarNode):
            raise mistake(f"{where}: a key is a word, not {content_of(name, where)}")
        if name.value in items:
            raise mistake(f"{where}: duplicate key '{prefix}{name.value}': keep one of them")
        items[name.value] = child
    return items


def content_of(node: yaml.Node, where: str) -> Any:
    """The text of a scalar, or a list or mapping of texts."""
    if isinstance(node, yaml.MappingNode):
        return {key: content_of(child, where) for key, child in items_of(node, where).items()}
    return [content_of(child, where) for child in node.value] if isinstance(node, yaml.SequenceNode) else node.value
