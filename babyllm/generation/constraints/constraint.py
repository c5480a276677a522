"""What an answer may say: a JSON schema, a regular expression, a list of choices, or a grammar, as a plain value."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

from babyllm.errors import UserError

Kind = Literal["json_schema", "regex", "choice", "grammar"]
OPTIONS: dict[Kind, str] = {"json_schema": "schema", "regex": "regex", "choice": "choices", "grammar": "grammar"}
"""Kinds with the names of their options."""
LARGEST = 1 << 16
"""Largest number of characters of a constraint."""
ANY_OBJECT: dict[str, Any] = {"type": "object"}
"""The schema of any JSON object."""


class ConstraintOptions(Protocol):
    """Options of which one at most says what an answer may say.

    Attributes:
        schema: JSON schema, as a file or as JSON.
        regex: regular expression.
        choices: list of texts.
        grammar: file of a grammar.
    """

    @property
    def schema(self) -> str | None: ...  # noqa: D102  # described above
    @property
    def regex(self) -> str | None: ...  # noqa: D102
    @property
    def choices(self) -> list[str]: ...  # noqa: D102
    @property
    def grammar(self) -> str | None: ...  # noqa: D102


@dataclass(frozen=True)
class Constraint:
    """What an answer may say.

    Attributes:
        kind: "json_schema", "regex", "choice" or "grammar".
        text: the schema as JSON; the regular expression, which the whole answer matches (syntax of Rust's regex,
            without look-around); the choices as a JSON list of strings; or the grammar in llguidance's dialect of Lark,
            which starts at the rule `start`. Objects of a schema are closed (`babyllm.chat.tools.json_rule.closed`).
        lead: text before the answer, which the model writes first; empty for none.

    Raises:
        UserError: the text is too long, or not of its kind.
    """

    kind: Kind
    text: str
    lead: str = ""

    def __post_init__(self) -> None:
        """Check the text, as far as it can be checked without a tokenizer."""
        if self.kind not in OPTIONS:
            raise UserError(f"constraint {self.kind!r}: must be one of {', '.join(OPTIONS)}")
        if len(self.text) > LARGEST:
            raise UserError(
                f"the {self.name} has {len(self.text):,} characters; at most {LARGEST:,} are possible: make it smaller"
            )
        if self.kind in ("json_schema", "choice"):
            self._check_value()

    @classmethod
    def of_schema(cls, schema: Mapping[str, Any]) -> Constraint:
        """An answer that is JSON and fits a JSON schema; separators are ", " and ": ", as `json.dumps` writes them."""
        return cls("json_schema", json.dumps(schema, ensure_ascii=False))

    @classmethod
    def of_choices(cls, choices: Sequence[str]) -> Constraint:
        """An answer that is one of these texts."""
        return cls("choice", json.dumps(list(choices), ensure_ascii=False))

    def after(self, lead: str) -> Constraint:
        """The same constraint of an answer before which the model writes a text, as some chat templates do."""
        return replace(self, lead=lead)

    @property
    def name(self) -> str:
        """The name of its kind in messages."""
        names = {"json_schema": "JSON schema", "regex": "regular expression", "choice": "list of choices"}
        return names.get(self.kind, self.kind)

    @property
    def value(self) -> Any:
        """The schema or the choices as a JSON value."""
        return json.loads(self.text)

    @classmethod
    def of_options(cls, options: ConstraintOptions, prefix: str) -> Constraint | None:
        """What an answer may say, by the options of a command or of a configuration; None if none of them is set.

        Args:
            options: options.
            prefix: text before the name of an option in messages, such as "--".

        Raises:
            UserError: a file cannot be read, an option is not valid, or several of them are given.
        """
        given = [name for name in OPTIONS.values() if getattr(options, name)]
        if len(given) > 1:
            raise UserError(
                f"{prefix}{given[0]} and {prefix}{given[1]} both say what an answer may say; give one of them"
            )
        if options.schema:
            is_text = options.schema.lstrip().startswith("{")
            return cls("json_schema", options.schema if is_text else _text_of(options.schema, f"{prefix}schema"))
        if options.regex:
            return cls("regex", options.regex)
        if options.choices:
            return cls.of_choices(options.choices)
        return cls("grammar", _text_of(options.grammar, f"{prefix}grammar")) if options.grammar else None

    def _check_value(self) -> None:
        try:
            value = self.value
        except (ValueError, RecursionError) as error:
            raise UserError(f"the {self.name} is not JSON: {str(error)[:200]}") from None
        if self.kind == "json_schema" and not isinstance(value, dict):
            raise UserError("the JSON schema is not a JSON object")
        are_texts = isinstance(value, list) and all(isinstance(text, str) and text for text in value)
        if self.kind == "choice" and not (value and are_texts):
            raise UserError("the list of choices must hold texts that are not empty, at least one")


def _text_of(path: str, option: str) -> str:
    """The text of a file that an option names.

    Raises:
        UserError: it cannot be read.
    """
    try:
        return Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise UserError(f"{option}={path}: cannot be read ({reason})") from None
