"""Texts in YAML to values, and to the typed values of settings.

text -> YAML node, within limits of depth -> the value of a field, by its type
text -> plain values

libyaml reads the texts, where PyYAML was built with it: ten times as fast as Python.
"""

from __future__ import annotations

import reprlib
from contextlib import suppress
from dataclasses import MISSING
from functools import cache, reduce
from operator import or_
from types import NoneType, UnionType
from typing import Any, NamedTuple, Union, get_args, get_origin

import yaml

from babyllm.config.option_names import why_not
from babyllm.config.values import described, expanded
from babyllm.errors import UserError

NULLS = ("", "~", "null", "none")
MAX_NESTING = 20  # lists and sections within each other
_NODES: Any = getattr(yaml, "CBaseLoader", yaml.BaseLoader)  # leaves each scalar as it was written
_VALUES: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Leaf(NamedTuple):
    """A field of a configuration: its type, default and help text, and whether it is a path."""

    kind: Any
    default: Any  # MISSING where a value must be given
    doc: str
    is_path: bool = False


def mistake(message: str) -> UserError:
    """The error of a message in one line."""
    return UserError(" ".join(message.split()))  # what the user wrote may hold line breaks; a message is one line


def flag_node(text: str, kind: Any, where: str) -> yaml.Node:
    """The node of a flag's text: a list or mapping where its type `kind` has one and the text begins so, or a scalar.

    Raises:
        UserError: the text is not valid YAML; the message begins with `where`.
    """
    if text.startswith(("[", "{")) and any(map(is_container, arms_of(kind))):
        return compose(text, where)
    return yaml.ScalarNode("", text, style=None if text else "'")


def compose(text: str, where: str) -> yaml.Node:
    """The node of a text, within limits of depth and without aliases.

    Raises:
        UserError: it is not valid YAML, or beyond the limits; the message begins with `where`.
    """
    with suppress(yaml.YAMLError):  # its messages are not those that follow, which say more
        return _node(text, _NODES)
    try:
        return _node(text, yaml.BaseLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" in line {mark.line + 1}" if mark else ""
        raise mistake(f"{where}: not valid YAML{line}: {getattr(error, 'problem', None) or error}") from None


def _node(text: str, loader: Any) -> yaml.Node:
    depth = 0
    for event in yaml.parse(text, Loader=loader):
        if isinstance(event, yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not supported, write the value out")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_NESTING:
            raise yaml.YAMLError(f"more than {MAX_NESTING} lists and sections within each other")
    return yaml.compose(text, Loader=loader) or yaml.ScalarNode("", "")


def load_yaml(text: str) -> Any:
    """The plain values in a text.

    Raises:
        yaml.YAMLError: it is not valid YAML.
    """
    return yaml.load(text, Loader=_VALUES)


def is_null(node: yaml.Node) -> bool:
    """Whether a node is null, which an empty text without quotation marks is too."""
    return isinstance(node, yaml.ScalarNode) and not node.style and node.value.lower() in NULLS


def items_of(node: yaml.MappingNode, where: str, prefix: str = "") -> dict[str, yaml.Node]:
    """The nodes of a mapping by key.

    Raises:
        UserError: a key is not a word, or is there twice.
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


def typed(node: yaml.Node, leaf: Leaf, where: str) -> Any:
    """The value of a field; jsonargparse converts the text to numbers, choices and collections."""
    kind, content = leaf.kind, content_of(node, where)
    if leaf.is_path and not (is_null(node) and NoneType in arms_of(kind)):
        content = paths_of(content, where, leaf.default)
    if is_null(node) and NoneType in arms_of(kind):
        return None
    if isinstance(node, yaml.ScalarNode) and node.style and str in arms_of(kind):
        return content
    has_items = isinstance(node, yaml.CollectionNode)
    arms = [arm for arm in arms_of(kind) if arm is not NoneType and is_container(arm) == has_items]
    arms.sort(key=lambda arm: arm is str)  # anything is text, so text is the last resort
    if arms and not (is_null(node) and content in ("", "~", "null")):
        parse = _parsed_text if isinstance(content, str) else _parsed
        with suppress(Exception):  # odd text, such as 400 digits or "!!int ''", raises more than its ArgumentError
            return parse(reduce(or_, arms), content)
    reason = why_not(content, get_args(kind))
    raise mistake(f"{where} expects {described(kind)}, not {reprlib.repr(content)}{reason}")


def paths_of(content: Any, where: str, default: Any) -> Any:
    """Paths with `~` expanded, alone or in a list. An empty text means no path; it is valid only as the default."""
    if isinstance(content, list):
        return [paths_of(item, where, MISSING) for item in content]
    if not isinstance(content, str) or content == default == "":
        return content
    try:
        return expanded(content)
    except UserError as error:
        raise mistake(f"{where} {error}") from None


def _parsed(kind: Any, content: Any) -> Any:
    return _parser(kind).parse_object({"value": content}, defaults=False, env=False).value


_parsed_text = cache(_parsed)  # a scalar: the same settings are read several times in a command


@cache
def _parser(kind: Any) -> Any:
    from jsonargparse import ArgumentParser  # slow, and not needed to import this module

    parser = ArgumentParser(exit_on_error=False, default_env=False)
    parser.add_argument("--value", type=kind)
    return parser


def arms_of(kind: Any) -> tuple[Any, ...]:
    """The types of a union, or the type itself."""
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def is_container(kind: Any) -> bool:
    """Whether a type is that of lists, mappings or tuples."""
    return get_origin(kind) in (list, dict, tuple)
