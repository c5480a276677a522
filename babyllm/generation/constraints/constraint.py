"""What an answer may say: a JSON schema, a regular expression, a list of choices, or a grammar, as a plain value."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from babyllm.errors import UserError

Kind = Literal["json_schema", "regex", "choice", "grammar"]
KINDS: tuple[Kind, ...] = ("json_schema", "regex", "choice", "grammar")
LARGEST = 1 << 16
"""Largest number of characters of a constraint."""
ANY_OBJECT: dict[str, Any] = {"type": "object"}
"""The schema of any JSON object."""


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
        if self.kind not in KINDS:
            raise UserError(f"constraint {self.kind!r}: must be one of {', '.join(KINDS)}")
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
