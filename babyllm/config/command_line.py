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
from dataclasses import MISSING, asdict, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import yaml

from babyllm.config.option_names import instead
from babyllm.config.option_names import nearest as nearest
from babyllm.config.values import check, described, is_path, type_hints
from babyllm.config.yaml_nodes import (
    NULLS,
    Leaf,
    arms_of,
    compose,
    content_of,
    flag_node,
    is_null,
    items_of,
    mistake,
    paths_of,
    typed,
)
from babyllm.errors import UserError

C = TypeVar("C")

MAX_FILE_BYTES = 1 << 20  # limit of a configuration file
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
    file = paths_of(flags["config"], "--config", MISSING) if "config" in flags else None
    values = {} if file is None else _values(read_node(file), leaves, file)
    for key, text in flags.items():
        if key in leaves:
            values[key] = typed(flag_node(text, leaves[key].kind, f"--{key}"), leaves[key], f"--{key}")
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
        style = '"' if not value.isprintable() else "'" if value.lower() in NULLS else None
        return self.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(list, _Dumper._list)
_Dumper.add_representer(str, _Dumper._text)


# ---- dataclasses


def _leaves(kind: Any, prefix: str = "", instance: Any = MISSING) -> dict[str, Leaf]:
    """Every key below `prefix`; `instance` holds the defaults that the owner of a section sets for it."""
    hints, docs, leaves = type_hints(kind), _docs(kind), dict[str, Leaf]()
    marked = type_hints(kind, is_marked=True)
    for field in fields(kind):
        default = field.default if field.default_factory is MISSING else field.default_factory()
        default = default if instance is MISSING else getattr(instance, field.name)
        key, hint = prefix + field.name, hints[field.name]
        if is_dataclass(hint):
            leaves |= _leaves(hint, f"{key}.", default)
        else:
            if float in arms_of(hint) and int not in arms_of(hint) and type(default) is int:
                default = float(default)  # as `load` would return it, so that a stored file reads back to the same text
            leaves[key] = Leaf(hint, default, docs.get(field.name, ""), is_path(marked[field.name]))
    return leaves


@cache
def _docs(kind: type) -> dict[str, str]:
    """The text on each field, inherited or not, in the "Attributes:" or "Args:" section of a Google-style docstring."""
    docs: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        doc = inspect.cleandoc(base.__doc__ or "")
        section = re.search(r"^(?:Attributes|Args):\n((?: .*\n?|\n)*)", doc, re.MULTILINE)
        entries = re.split(r"^(\w+)(?: \(.*?\))?:", textwrap.dedent(section[1]), flags=re.MULTILINE) if section else []
        docs |= {name: " ".join(text.split()) for name, text in zip(entries[1::2], entries[2::2], strict=True)}
    return docs


def _build(kind: Any, leaves: Mapping[str, Leaf], values: Mapping[str, Any], prefix: str = "") -> Any:
    hints, arguments = type_hints(kind), dict[str, Any]()
    for name in (field.name for field in fields(kind)):
        key = prefix + name
        if is_dataclass(hints[name]):
            arguments[name] = _build(hints[name], leaves, values, f"{key}.")
        else:
            arguments[name] = values.get(key, leaves[key].default)
            if arguments[name] is MISSING:
                raise UserError(f"--{key} is missing: give it a value, {described(hints[name])}")
    return kind(**arguments)


def _help(leaves: Mapping[str, Leaf], prog: str, description: str) -> str:
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


def _flags(argv: Iterable[str], leaves: Mapping[str, Leaf]) -> dict[str, str]:
    """The text of each flag by its name."""
    flags: dict[str, str] = {}
    rest = list(argv)
    while rest:
        argument = rest.pop(0)
        if not argument.startswith("--"):
            raise mistake(f"unexpected argument '{argument}': options are written --section.key=value")
        name, equals, text = argument[2:].partition("=")
        if name in _SWITCHES and equals:
            raise mistake(f"--{name} takes no value")
        if name in leaves or name == "config":
            if not equals and (not rest or rest[0].startswith("--")):
                if name in leaves and bool in arms_of(leaves[name].kind):
                    flags[name] = "true"
                    continue
                expected = described(leaves[name].kind) if name in leaves else "FILE.yaml"
                raise mistake(f"--{name} has no value: write --{name}=VALUE, it expects {expected}")
            if name == "config" and name in flags:
                raise mistake("--config is given twice: put all values into one file")
            text = text if equals else rest.pop(0)
        elif name not in _SWITCHES:
            raise mistake(f"unknown option --{name}: {instead(name, [*leaves, 'config', *_SWITCHES], leaves)}")
        flags[name] = text
    return flags


def read_node(path: str | Path) -> yaml.Node:
    """The content of a YAML file of settings, within limits of size and depth."""
    try:
        with Path(path).open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
        if len(content) > MAX_FILE_BYTES:
            raise mistake(f"{path}: larger than {MAX_FILE_BYTES >> 20} MiB, so not a configuration file")
        return compose(content.decode("utf-8-sig"), str(path))
    except OSError as error:
        raise mistake(f"{path}: this configuration file cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise mistake(f"{path}: a configuration file is UTF-8 text, this is something else") from None


def _values(root: yaml.Node, leaves: Mapping[str, Leaf], path: str | Path) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, node in _entries(root, leaves, str(path)):
        if key in values:
            raise mistake(f"{_line(path, node)}: duplicate key '{key}': keep one of them")
        values[key] = typed(node, leaves[key], f"{_line(path, node)}: '{key}'")
    return values


def _entries(node: yaml.Node, leaves: Mapping[str, Leaf], path: str, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The keys of the configuration below `prefix`, each with its node."""
    if is_null(node):
        return
    if not isinstance(node, yaml.MappingNode):
        place = f"'{prefix[:-1]}' is a section: it" if prefix else "a configuration file"
        raise mistake(f"{path}: {place} holds lines 'key: value', not {reprlib.repr(content_of(node, path))}")
    sections = dict.fromkeys(key[: dot.start()] for key in leaves for dot in re.finditer(r"\.", key))
    items = items_of(node, path, prefix)
    unknown = [repr(prefix + name) for name in items if prefix + name not in {*leaves, *sections}]
    for key, child in ((prefix + name, child) for name, child in items.items()):
        if key in leaves:
            yield key, child
        elif key in sections:
            yield from _entries(child, leaves, path, f"{key}.")
        else:
            advice = instead(key, [*leaves, *sections], leaves, is_flag=False)
            more = f" (also unknown: {', '.join(unknown[1:])})" if unknown[1:] else ""
            raise mistake(f"{_line(path, child)}: unknown key '{key}': {advice}{more}")


def _line(path: str | Path, node: yaml.Node) -> str:
    """A file with the line of a node; a flag is a node of its own, without a line."""
    return f"{path}:{node.start_mark.line + 1}" if node.start_mark else str(path)
