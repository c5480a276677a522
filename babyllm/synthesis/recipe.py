"""Recipes: YAML files that say what is asked, how replies are read, what is kept, and what a record is.

about: {en: one line, zh: 一行}
source: prompts                       # what the inputs are: tasks, prompts, documents, topics or tools
options: {rounds: 2}                  # numbers and texts that --set replaces
steps:
- name: answer
  ask: {en: "...{prompt}", zh: "..."} # names in braces are values of the item
  into: answer                        # or `reply:`, the fields of a JSON object
  keep: {length: {answer: [1, 8000]}, refusal: [answer], new: "{prompt}"}
record: {messages: [{role: user, content: "{prompt}"}, {role: assistant, content: "{answer}"}]}
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from pkgutil import get_data
from typing import Any, Literal, TypeVar, cast

import yaml

from babyllm.errors import UserError

Language = Literal["en", "zh"]
SOURCES = ("tasks", "prompts", "documents", "topics", "tools")
BUILT_IN = (
    *("self_instruct", "evolve", "rewrite", "topics", "answer", "turns", "long_prompts", "tools", "document_qa"),
    *("code", "pairs", "triples", "repair", "distil"),
)
MAX_RECIPE_BYTES = 1 << 20
C = TypeVar("C")


@dataclass(frozen=True)
class Variant:
    """One of several ways to do a step.

    Attributes:
        name: name of the variant, which becomes the value `variant` of the item.
        weight: how often it is chosen, in proportion to the weights of the others; a number or the name of an option.
        ask: prompt in place of that of the step; None takes that one.
        values: further values of the item, by name; a value with a text for each language becomes that text.
    """

    name: str
    weight: float | str = 1.0
    ask: str | Mapping[str, str] | None = None
    values: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Step:
    """A request for each item and what becomes of the reply; or a function; or steps that are repeated.

    Attributes:
        name: name of the step in reports.
        ask: prompt with names in braces, or one for each language.
        system: system message, likewise; None for none.
        history: whether the messages of the item come before the prompt; without a prompt, they are the request.
        into: name of the value that the text of the reply becomes.
        append: role with which the text is appended to the messages of the item; None appends nothing.
        reply: fields of a JSON object that is wanted, each with its type; None for a text.
        each: field with a list, each element of which becomes an item.
        expect: number of elements in `each` that a dry run assumes; a number or the name of an option.
        n: number of replies for each item; a number or the name of an option.
        by: endpoints that answer: any of them, each of them, or those of this name.
        variants: ways to do the step, one of which is chosen for each item.
        all_variants: whether each item is done in every way.
        temperature: randomness of the replies where the settings of the endpoints name none.
        unless: name of a value; items that have it skip the step.
        keep: rules that items must fulfil, by name.
        set: values that are set after that, as texts with names in braces.
        do: name of a function of `changes` that is called with all items, in place of a request.
        rounds: number of times that `steps` are repeated; a number or the name of an option.
        steps: steps that are repeated.
        all_rounds: whether the items after every round go on, and not those after the last alone.
    """

    name: str
    ask: str | Mapping[str, str] | None = None
    system: str | Mapping[str, str] | None = None
    history: bool = False
    into: str = "text"
    append: str | None = None
    reply: Mapping[str, Any] | None = None
    each: str | None = None
    expect: int | str = 1
    n: int | str = 1
    by: str = "any"
    variants: Sequence[Variant] = ()
    all_variants: bool = False
    temperature: float | None = None
    unless: str | None = None
    keep: Mapping[str, Any] = field(default_factory=dict)
    set: Mapping[str, str] = field(default_factory=dict)
    do: str | None = None
    rounds: int | str = 0
    steps: Sequence[Step] = ()
    all_rounds: bool = False


@dataclass(frozen=True)
class Record:
    """The form of a record; texts have names in braces.

    Attributes:
        messages: messages with role and content, or the name of a value with messages.
        prompt: prompt of a preference pair, or the name of a value with messages.
        chosen: better answer of the pair.
        rejected: worse answer of the pair.
        fields: further fields; a text that is one name in braces becomes the value itself.
        keep: rules that items must fulfil to become records.
    """

    messages: Any = None
    prompt: str | None = None
    chosen: str | None = None
    rejected: str | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)
    keep: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Recipe:
    """A recipe.

    Attributes:
        about: what it makes, in one line of each language.
        source: kind of the inputs.
        steps: steps in their order.
        record: form of a record.
        options: values that `--set` replaces; prompts and numbers of steps name them.
        defaults: values that items have if their inputs lack them, by name; one text, or one for each language.
        rest: whether the inputs that are not drawn are written to a file.
        name: name of the recipe, that of its file.
    """

    about: Mapping[str, str]
    source: str
    steps: Sequence[Step]
    record: Record
    options: Mapping[str, Any] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    rest: bool = False
    name: str = ""


def read_recipe(name: str) -> tuple[Recipe, str]:
    """A recipe and its text.

    Args:
        name: name of a built-in recipe, or path of a file.

    Raises:
        UserError: there is no such recipe, or it is not one; the message names the file and the key.
    """
    if name in BUILT_IN:
        content = get_data("babyllm.synthesis", f"recipes/{name}.yaml") or b""
    else:
        try:
            with Path(name).open("rb") as file:
                content = file.read(MAX_RECIPE_BYTES + 1)
        except OSError as error:
            close = difflib.get_close_matches(name, BUILT_IN, 1)
            hint = f"did you mean {close[0]}?" if close else "see `babyllm synth --list`, or give a YAML file"
            raise UserError(f"{name}: cannot be read as a recipe ({error.strerror}); {hint}") from None
    if len(content) > MAX_RECIPE_BYTES:
        raise UserError(f"{name}: larger than {MAX_RECIPE_BYTES >> 20} MiB, so not a recipe")
    try:
        text = content.decode("utf-8-sig")
        value = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{name}: is not YAML ({' '.join(str(error).split())[:200]})") from None
    return _recipe(value, name), text


def _recipe(value: Any, file: str) -> Recipe:
    found = _made(Recipe, value, file)
    if found.source not in SOURCES:
        raise UserError(f"{file}: source: is {found.source!r}, not one of {', '.join(SOURCES)}")
    steps = _steps(found.steps, f"{file}: steps")
    record = _made(Record, found.record, f"{file}: record")
    if (record.messages is None) == (record.prompt is None):
        raise UserError(f"{file}: record: needs either messages, or prompt, chosen and rejected")
    about = found.about if isinstance(found.about, dict) else {"en": str(found.about)}
    return replace(found, about=about, steps=steps, record=record, name=Path(file).stem)


def _steps(values: Any, where: str) -> list[Step]:
    if not isinstance(values, list) or not values:
        raise UserError(f"{where}: is not a list of steps")
    steps = []
    for number, value in enumerate(values, 1):
        step = _made(Step, value, f"{where}.{number}")
        place = f"{where}.{step.name}"
        kinds = [bool(step.ask or step.history or step.variants), bool(step.do), bool(step.steps)]
        if sum(kinds) != 1:
            raise UserError(f"{place}: needs one of ask, history, variants, do and steps")
        variants = [_made(Variant, one, f"{place}.variants") for one in step.variants]
        inner = _steps(step.steps, place) if step.steps else []
        given = {field.name: getattr(step, field.name) for field in fields(Step)}
        steps.append(Step(**{**given, "variants": variants, "steps": inner}))
    return steps


def _made(kind: type[C], value: Any, where: str) -> C:
    """A dataclass of the values of a mapping.

    Raises:
        UserError: a key is unknown or missing.
    """
    known = [one.name for one in fields(cast(Any, kind)) if (kind is not Recipe or one.name != "name")]
    if not isinstance(value, dict):
        raise UserError(f"{where}: is not a section with {', '.join(known[:4])} ...")
    for name in value:
        if name not in known:
            close = difflib.get_close_matches(str(name), known, 1)
            raise UserError(f"{where}: unknown key {name!r}{f'; did you mean {close[0]}?' if close else ''}")
    try:
        made = kind(**value)
    except TypeError as error:
        raise UserError(f"{where}: {str(error).partition('() ')[2] or error}") from None
    for one in fields(cast(Any, made)):
        if one.default_factory is dict and not isinstance(getattr(made, one.name), dict):
            raise UserError(f"{where}: {one.name}: is not a section with names and values")
    return made
