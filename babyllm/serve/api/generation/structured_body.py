"""Fields that say what an answer may say: those of OpenAI's API and of vLLM, old and new."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, model_validator

from babyllm.errors import UserError
from babyllm.generation.constraints.constraint import ANY_OBJECT, Constraint, Kind
from babyllm.serve.api.field_types import EMPTY_IS_OBJECT, Flag, Text, Unicode
from babyllm.serve.api.problem import Problem
from babyllm.serve.api.validation import Body, Expected

JsonSchema: TypeAlias = Annotated[dict[str, Any], Expected("a JSON schema")]
Choices: TypeAlias = Annotated[list[Unicode], Expected("a list of texts")]
FormatType: TypeAlias = Annotated[
    Literal["text", "json_object", "json_schema"], Expected("text, json_object or json_schema")
]


Given: TypeAlias = list[tuple[str, Constraint]]
"""Constraints with the names of their fields."""


def _given(*fields: tuple[str, Kind, Any]) -> Given:
    """The constraints of fields, each with a name, a kind and a value, which is None where it is absent.

    Raises:
        Problem: one of them is not valid.
    """
    found: Given = []
    for name, kind, value in fields:
        if value is None:
            continue
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        try:
            found.append((name, Constraint(kind, text)))
        except UserError as error:
            raise Problem(400, f"{name}: {error}", param=name) from None
    return found


class StructuredOutputs(Body):
    """What an answer may say; one of these."""

    harmless = frozenset({"disable_any_whitespace", "disable_fallback", "disable_additional_properties"})

    json_schema: JsonSchema | None = Field(None, description="schema of the answer, which is JSON; also named json")
    json_object: Flag = Field(False, description="whether the answer is any JSON object")
    regex: Text | None = Field(None, description="regular expression that the whole answer matches")
    choice: Choices | None = Field(None, description="texts of which the answer is one")
    grammar: Text | None = Field(None, description="grammar in llguidance's dialect of Lark")

    @model_validator(mode="before")
    @classmethod
    def _named_json(cls, value: Any) -> Any:
        if isinstance(value, dict) and "json" in value and "json_schema" not in value:
            return {"json_schema" if name == "json" else name: item for name, item in value.items()}
        return value

    def constraints(self) -> Given:
        """The constraints that are given.

        Raises:
            Problem: one of them is not valid.
        """
        return _given(
            ("structured_outputs.json", "json_schema", self.json_schema),
            ("structured_outputs.json_object", "json_schema", ANY_OBJECT if self.json_object else None),
            ("structured_outputs.regex", "regex", self.regex),
            ("structured_outputs.choice", "choice", self.choice),
            ("structured_outputs.grammar", "grammar", self.grammar),
        )


class StructuredBody(Body):
    """Fields of all endpoints that say what an answer may say."""

    structured_outputs: Annotated[StructuredOutputs, EMPTY_IS_OBJECT] | None = Field(
        None, description="what the answer may say: json, json_object, regex, choice or grammar"
    )
    guided_json: JsonSchema | None = Field(None, description="another name of structured_outputs.json")
    guided_regex: Text | None = Field(None, description="another name of structured_outputs.regex")
    guided_choice: Choices | None = Field(None, description="another name of structured_outputs.choice")
    guided_grammar: Text | None = Field(None, description="another name of structured_outputs.grammar")

    def constraints(self) -> Given:
        """The constraints that are given.

        Raises:
            Problem: one of them is not valid.
        """
        new = self.structured_outputs.constraints() if self.structured_outputs else []
        return [
            *new,
            *_given(
                ("guided_json", "json_schema", self.guided_json),
                ("guided_regex", "regex", self.guided_regex),
                ("guided_choice", "choice", self.guided_choice),
                ("guided_grammar", "grammar", self.guided_grammar),
            ),
        ]


class NamedSchema(Body):
    """A JSON schema with a name."""

    name: Text = Field("", description="name of the schema, which changes nothing")
    description: Text | None = Field(None, description="purpose of the schema, which changes nothing")
    strict: Flag | None = Field(None, description="changes nothing, since every answer fits the schema")
    json_schema: JsonSchema | None = Field(None, description="the schema; named schema in requests")

    @model_validator(mode="before")
    @classmethod
    def _named_schema(cls, value: Any) -> Any:
        if isinstance(value, dict) and "schema" in value:
            return {"json_schema" if name == "schema" else name: item for name, item in value.items()}
        return value


class ResponseFormat(Body):
    """The form of an answer."""

    type: FormatType = Field("text", description="kind of the form")
    json_schema: NamedSchema | None = Field(None, description="schema of the answer, for json_schema")

    def constraints(self) -> Given:
        """The constraint of this form, if there is any.

        Raises:
            Problem: it is not valid.
        """
        if self.type == "json_schema" and self.json_schema is None:
            message = "response_format.json_schema is missing; give it, or the type json_object"
            raise Problem(400, message, param="response_format")
        schema = self.json_schema.json_schema if self.json_schema and self.type == "json_schema" else None
        return _given(("response_format", "json_schema", None if self.type == "text" else schema or ANY_OBJECT))


class FlatFormat(NamedSchema):
    """The form of an answer of /v1/responses."""

    type: FormatType = Field("text", description="kind of the form")

    def asked(self) -> dict[str, Any]:
        """The form as it was asked for."""
        given = {"type": self.type} | (self.model_dump(exclude_unset=True) if self.type == "json_schema" else {})
        return {"schema" if name == "json_schema" else name: value for name, value in given.items()}

    def constraints(self) -> Given:
        """The constraint of this form, if there is any.

        Raises:
            Problem: it is not valid.
        """
        schema = self.json_schema if self.type == "json_schema" else None
        return _given(("text.format", "json_schema", None if self.type == "text" else schema or ANY_OBJECT))
