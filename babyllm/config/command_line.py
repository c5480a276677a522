"""Configuration: frozen dataclasses <-> YAML <-> command line.

    defaults of the dataclass  <  one --config FILE.yaml  <  --section.key=value
                |                              |                   |
                |                              +--- YAML nodes ----+
                |                                        | read by the type of the field
                +-------- values by dotted key ----------+
                                    |
                      one frozen dataclass per section

A flag and a line of a file mean the same. A scalar is read from its text by the type of its field: `1e-3` is a float,
`007` stays unchanged in a text field, an unquoted `null` or `none` empties an optional field. Lists and mappings on a
flag are written in YAML's short form: `--data.mix='{zh: 0.7, en: 0.3}'`. In a path `~` is the home directory. A field's
type also says which numbers are allowed and whether it is a path: see `babyllm.config.values`.
"""

import inspect
import json
import re
import reprlib
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING, asdict, fields, is_dataclass
from functools import cache, reduce
from operator import or_
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from babyllm.config.option_names import instead, why_not
from babyllm.config.option_names import nearest as nearest
from babyllm.config.values import check, described, expanded, is_path
from babyllm.errors import UserError

C = TypeVar("C")

_NULLS = ("", "~", "null", "none")
MAX_FILE_BYTES, MAX_NESTING = 1 << 20, 20  # limits of a configuration file
_SWITCHES = {
    "print_config": "Print the resolved configuration as YAML and exit.",
    "debug": "Show a traceback with a user's error.",
    "help": "Print this text and exit.",
}


def parse(
    kind: type[C], argv: Sequence[str], *, prog: str, description: str = "", resolve: Callable[[C], C] | None = None
) -> C:
    """The configuration that `argv` asks for: defaults < one `--config` file < `--section.key=value`.

    Args:
        kind: a frozen dataclass; each field is a key, or a section if its type is a dataclass.
        argv: flags, without the program's name; if a flag is given twice, the last one counts.
        prog: name of the program, for `--help`.
        description: purpose of the program, for `--help`.
        resolve: function that fills in values that depend on other keys. Its result is returned, and printed by
            `--print_config`.

    Raises:
        UserError: for an unknown key, a value of the wrong type or beyond its limits, a missing value or an unreadable
            file.
        SystemExit: with status 0 after `--help` or `--print_config`.
    """
    leaves = _leaves(kind)
    if "--help" in argv or "-h" in argv:
        print(_help(leaves, prog, description))
        raise SystemExit(0)
    flags = _flags(argv, leaves)
    file = _paths(flags["config"], "--config", MISSING) if "config" in flags else None
    values = {} if file is None else _values(read_node(file), leaves, file)
    for key, text in flags.items():
        if key in leaves:
            values[key] = _typed(_flag_node(text, leaves[key].kind, f"--{key}"), leaves[key], f"--{key}")
    config: C = _build(kind, leaves, values)
    check(config)
    if resolve:
        config = resolve(config)
    if "print_config" in flags:
        print(dump(config), end="")
        raise SystemExit(0)
    return config


def load(kind: type[C], path: str | Path) -> C:
    """The configuration in the YAML file at `path`; a key that is absent has its default.

    Raises:
        UserError: for an unknown key, a value of the wrong type or beyond its limits, a missing value or an unreadable
            file.
    """
    return from_node(kind, read_node(path), path)


def from_node(kind: type[C], node: yaml.Node, path: str | Path) -> C:
    """The configuration in a node of the YAML file at `path`, as `load` reads a whole file."""
    leaves = _leaves(kind)
    config: C = _build(kind, leaves, _values(node, leaves, path))
    check(config)
    return config


def keys(kind: Any) -> list[str]:
    """The dotted keys of a configuration of type `kind`, in the order of its fields."""
    return list(_leaves(kind))


def to_dict(config: Any) -> dict[str, Any]:
    """A configuration as JSON values, nested by section, in the order of its fields."""
    values: dict[str, Any] = json.loads(json.dumps(asdict(config)))
    return values


def dump(config: Any) -> str:
    """A configuration as YAML, in the order of its fields; `load` reads it back as an equal one."""
    text: str = yaml.dump(to_dict(config), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=2**20)
    return text


def differences(a: Any, b: Any) -> list[str]:
    """The differences of two configurations: a line `section.key: old -> new` for each key, from `a` to `b`."""
    old, new = _flat(to_dict(a)), _flat(to_dict(b))
    pairs = {key: (old.get(key, MISSING), new.get(key, MISSING)) for key in old | new}
    return [f"{key}: {_show(before)} -> {_show(after)}" for key, (before, after) in pairs.items() if before != after]


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


def _show(value: Any) -> str:
    if value is MISSING:
        return "(absent)"
    return value if isinstance(value, str) and value.isprintable() else json.dumps(value, ensure_ascii=False)


class _Dumper(yaml.SafeDumper):
    """Writes sections as blocks, lists on one line, and texts that would be read as null in quotes."""

    def _list(self, value: list[Any]) -> yaml.Node:
        return self.represent_sequence("tag:yaml.org,2002:seq", value, flow_style=True)

    def _text(self, value: str) -> yaml.Node:
        # YAML would fold Unicode's line breaks into spaces; only double quotes escape them.
        style = '"' if not value.isprintable() else "'" if value.lower() in _NULLS else None
        return self.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(list, _Dumper._list)
_Dumper.add_representer(str, _Dumper._text)


# ---- dataclasses


class _Leaf(NamedTuple):
    kind: Any
    default: Any  # MISSING where a value must be given
    doc: str
    is_path: bool = False


def _leaves(kind: Any, prefix: str = "", instance: Any = MISSING) -> dict[str, _Leaf]:
    """Every key below `prefix`; `instance` holds the defaults that the owner of a section sets for it."""
    hints, docs, leaves = get_type_hints(kind), _docs(kind), dict[str, _Leaf]()
    marked = get_type_hints(kind, include_extras=True)
    for field in fields(kind):
        default = field.default if field.default_factory is MISSING else field.default_factory()
        default = default if instance is MISSING else getattr(instance, field.name)
        key, hint = prefix + field.name, hints[field.name]
        if is_dataclass(hint):
            leaves |= _leaves(hint, f"{key}.", default)
        else:
            if float in _arms(hint) and int not in _arms(hint) and type(default) is int:
                default = float(default)  # as `load` would return it, so that a stored file reads back to the same text
            leaves[key] = _Leaf(hint, default, docs.get(field.name, ""), is_path(marked[field.name]))
    return leaves


def _docs(kind: type) -> dict[str, str]:
    """The text on each field, inherited or not, in the "Attributes:" or "Args:" section of a Google-style docstring."""
    docs: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        doc = inspect.cleandoc(base.__doc__ or "")
        section = re.search(r"^(?:Attributes|Args):\n((?: .*\n?|\n)*)", doc, re.MULTILINE)
        entries = re.split(r"^(\w+)(?: \(.*?\))?:", textwrap.dedent(section[1]), flags=re.MULTILINE) if section else []
        docs |= {name: " ".join(text.split()) for name, text in zip(entries[1::2], entries[2::2], strict=True)}
    return docs


def _build(kind: Any, leaves: Mapping[str, _Leaf], values: Mapping[str, Any], prefix: str = "") -> Any:
    hints, arguments = get_type_hints(kind), dict[str, Any]()
    for name in (field.name for field in fields(kind)):
        key = prefix + name
        if is_dataclass(hints[name]):
            arguments[name] = _build(hints[name], leaves, values, f"{key}.")
        else:
            arguments[name] = values.get(key, leaves[key].default)
            if arguments[name] is MISSING:
                raise UserError(f"--{key} is missing: give it a value, {described(hints[name])}")
    return kind(**arguments)


def _help(leaves: Mapping[str, _Leaf], prog: str, description: str) -> str:
    rows = {"config FILE.yaml": "Read values from this file; flags override them."} | _SWITCHES
    for key, leaf in leaves.items():
        default = "required" if leaf.default is MISSING else f"default {_show(leaf.default) or repr('')}"
        rows[key] = f"{leaf.doc} ({described(leaf.kind)}; {default})".lstrip()
    head = f"usage: {prog} [--config FILE.yaml] [--section.key=value ...]\n\n{description}".rstrip() + "\n"
    return "\n".join(
        [head]
        + [
            textwrap.fill(doc, 110, initial_indent=f"  --{flag:<24}  ", subsequent_indent=" " * 30)
            for flag, doc in rows.items()
        ]
    )


# ---- flags and files


def _flags(argv: Iterable[str], leaves: Mapping[str, _Leaf]) -> dict[str, str]:
    """The text of each flag by its name."""
    flags: dict[str, str] = {}
    rest = list(argv)
    while rest:
        argument = rest.pop(0)
        if not argument.startswith("--"):
            raise _mistake(f"unexpected argument '{argument}': options are written --section.key=value")
        name, equals, text = argument[2:].partition("=")
        if name in _SWITCHES and equals:
            raise _mistake(f"--{name} takes no value")
        if name in leaves or name == "config":
            if not equals and (not rest or rest[0].startswith("--")):
                if name in leaves and bool in _arms(leaves[name].kind):
                    flags[name] = "true"
                    continue
                expected = described(leaves[name].kind) if name in leaves else "FILE.yaml"
                raise _mistake(f"--{name} has no value: write --{name}=VALUE, it expects {expected}")
            if name == "config" and name in flags:
                raise _mistake("--config is given twice: put all values into one file")
            text = text if equals else rest.pop(0)
        elif name not in _SWITCHES:
            raise _mistake(f"unknown option --{name}: {instead(name, [*leaves, 'config', *_SWITCHES], leaves)}")
        flags[name] = text
    return flags


def read_node(path: str | Path) -> yaml.Node:
    """The content of a YAML file of settings, within limits of size and depth."""
    try:
        with Path(path).open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
        if len(content) > MAX_FILE_BYTES:
            raise _mistake(f"{path}: larger than {MAX_FILE_BYTES >> 20} MiB, so not a configuration file")
        return _compose(content.decode("utf-8-sig"), str(path))
    except OSError as error:
        raise _mistake(f"{path}: this configuration file cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise _mistake(f"{path}: a configuration file is UTF-8 text, this is something else") from None


def _values(root: yaml.Node, leaves: Mapping[str, _Leaf], path: str | Path) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, node in _entries(root, leaves, str(path)):
        if key in values:
            raise _mistake(f"{_line(path, node)}: duplicate key '{key}': keep one of them")
        values[key] = _typed(node, leaves[key], f"{_line(path, node)}: '{key}'")
    return values


def _entries(node: yaml.Node, leaves: Mapping[str, _Leaf], path: str, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The keys of the configuration below `prefix`, each with its node."""
    if _is_null(node):
        return
    if not isinstance(node, yaml.MappingNode):
        place = f"'{prefix[:-1]}' is a section: it" if prefix else "a configuration file"
        raise _mistake(f"{path}: {place} holds lines 'key: value', not {reprlib.repr(_content(node, path))}")
    sections = dict.fromkeys(key[: dot.start()] for key in leaves for dot in re.finditer(r"\.", key))
    items = _items(node, path, prefix)
    unknown = [repr(prefix + name) for name in items if prefix + name not in {*leaves, *sections}]
    for key, child in ((prefix + name, child) for name, child in items.items()):
        if key in leaves:
            yield key, child
        elif key in sections:
            yield from _entries(child, leaves, path, f"{key}.")
        else:
            advice = instead(key, [*leaves, *sections], leaves, is_flag=False)
            more = f" (also unknown: {', '.join(unknown[1:])})" if unknown[1:] else ""
            raise _mistake(f"{_line(path, child)}: unknown key '{key}': {advice}{more}")


def _line(path: str | Path, node: yaml.Node) -> str:
    """A file with the line of a node; a flag is a node of its own, without a line."""
    return f"{path}:{node.start_mark.line + 1}" if node.start_mark else str(path)


def _mistake(message: str) -> UserError:
    return UserError(" ".join(message.split()))  # what the user wrote may hold line breaks; a message is one line


# ---- YAML nodes to typed values


def _flag_node(text: str, kind: Any, where: str) -> yaml.Node:
    if text.startswith(("[", "{")) and any(map(_is_container, _arms(kind))):
        return _compose(text, where)
    return yaml.ScalarNode("", text, style=None if text else "'")


def _compose(text: str, where: str) -> yaml.Node:
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
        raise _mistake(f"{where}: not valid YAML{line}: {getattr(error, 'problem', None) or error}") from None


def _is_null(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and not node.style and node.value.lower() in _NULLS


def _items(node: yaml.MappingNode, where: str, prefix: str = "") -> dict[str, yaml.Node]:
    items: dict[str, yaml.Node] = {}
    for name, child in node.value:
        if not isinstance(name, yaml.ScalarNode):
            raise _mistake(f"{where}: a key is a word, not {_content(name, where)}")
        if name.value in items:
            raise _mistake(f"{where}: duplicate key '{prefix}{name.value}': keep one of them")
        items[name.value] = child
    return items


def _content(node: yaml.Node, where: str) -> Any:
    """The text of a scalar, or a list or mapping of texts."""
    if isinstance(node, yaml.MappingNode):
        return {key: _content(child, where) for key, child in _items(node, where).items()}
    return [_content(child, where) for child in node.value] if isinstance(node, yaml.SequenceNode) else node.value


def _typed(node: yaml.Node, leaf: _Leaf, where: str) -> Any:
    """The value of a field; jsonargparse converts the text to numbers, choices and collections."""
    kind, content = leaf.kind, _content(node, where)
    if leaf.is_path and not (_is_null(node) and NoneType in _arms(kind)):
        content = _paths(content, where, leaf.default)
    if _is_null(node) and NoneType in _arms(kind):
        return None
    if isinstance(node, yaml.ScalarNode) and node.style and str in _arms(kind):
        return content
    is_container = isinstance(node, yaml.CollectionNode)
    arms = [arm for arm in _arms(kind) if arm is not NoneType and _is_container(arm) == is_container]
    arms.sort(key=lambda arm: arm is str)  # anything is text, so text is the last resort
    if arms and not (_is_null(node) and content in ("", "~", "null")):
        parser = _parser(reduce(or_, arms))
        with suppress(Exception):  # odd text, such as 400 digits or "!!int ''", raises more than its ArgumentError
            return parser.parse_object({"value": content}, defaults=False, env=False).value
    reason = why_not(content, get_args(kind))
    raise _mistake(f"{where} expects {described(kind)}, not {reprlib.repr(content)}{reason}")


def _paths(content: Any, where: str, default: Any) -> Any:
    """Paths with `~` expanded, alone or in a list. An empty text means no path; it is valid only as the default."""
    if isinstance(content, list):
        return [_paths(item, where, MISSING) for item in content]
    if not isinstance(content, str) or content == default == "":
        return content
    try:
        return expanded(content)
    except UserError as error:
        raise _mistake(f"{where} {error}") from None


@cache
def _parser(kind: Any) -> Any:
    from jsonargparse import ArgumentParser  # slow, and not needed to import this module

    parser = ArgumentParser(exit_on_error=False, default_env=False)
    parser.add_argument("--value", type=kind)
    return parser


def _arms(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def _is_container(kind: Any) -> bool:
    return get_origin(kind) in (list, dict, tuple)
