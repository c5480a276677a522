"""Fields that say what an answer may say: those of OpenAI's API and of vLLM, old and new."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, model_validator

from babyllm.generation.constraints.constraint import ANY_OBJECT, Constraint
from babyllm.serve.api.field_types import EMPTY_IS_OBJECT, Flag, Text, Unicode
from babyllm.serve.api.validation import Body, Expected

JsonSchema: TypeAlias = Annotated[dict[str, Any], Expected("a JSON schema")]
Choices: TypeAlias = Annotated[list[Unicode], Expected("a list of texts")]


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

    def constraints(self) -> list[Constraint]:
        """The constraints that are given."""
        found = [Constraint.of_schema(self.json_schema)] if self.json_schema is not None else []
        found += [Constraint.of_schema(ANY_OBJECT)] if self.json_object else []
        found += [Constraint("regex", self.regex)] if self.regex is not None else []
        found += [Constraint.of_choices(self.choice)] if self.choice is not None else []
        found += [Constraint("grammar", self.grammar)] if self.grammar is not None else []
        return found


class StructuredBody(Body):
    """Fields of all endpoints that say what an answer may say."""

    structured_outputs: Annotated[StructuredOutputs, EMPTY_IS_OBJECT] | None = Field(
        None, description="what the answer may say: json, json_object, regex, choice or grammar"
    )
    guided_json: JsonSchema | None = Field(None, description="another name of structured_outputs.json")
    guided_regex: Text | None = Field(None, description="another name of structured_outputs.regex")
    guided_choice: Choices | None = Field(None, description="another name of structured_outputs.choice")
    guided_grammar: Text | None = Field(None, description="another name of structured_outputs.grammar")

    def constraints(self) -> list[tuple[str, Constraint]]:
        """The constraints that are given, with the names of their fields.

        Raises:
            UserError: one of them is not valid.
        """
        guided = StructuredOutputs(
            json_schema=self.guided_json,
            json_object=False,
            regex=self.guided_regex,
            choice=self.guided_choice,
            grammar=self.guided_grammar,
        )
        new = self.structured_outputs.constraints() if self.structured_outputs else []
        return [("structured_outputs", one) for one in new] + [("guided_*", one) for one in guided.constraints()]


class NamedSchema(Body):
    """A JSON schema with a name."""

    harmless = frozenset({"description", "strict"})

    name: Text = Field("", description="name of the schema, which changes nothing")
    json_schema: JsonSchema | None = Field(None, description="the schema; named schema in requests")

    @model_validator(mode="before")
    @classmethod
    def _named_schema(cls, value: Any) -> Any:
        if isinstance(value, dict) and "schema" in value:
            return {"json_schema" if name == "schema" else name: item for name, item in value.items()}
        return value


class ResponseFormat(Body):
    """The form of an answer."""

    type: Annotated[Literal["text", "json_object", "json_schema"], Expected("text, json_object or json_schema")] = (
        Field("text", description="kind of the form")
    )
    json_schema: NamedSchema | None = Field(None, description="schema of the answer, for json_schema")

    def constraints(self) -> list[tuple[str, Constraint]]:
        """The constraint of this form, if there is any, with the name of its field."""
        if self.type == "text":
            return []
        schema = self.json_schema.json_schema if self.json_schema and self.type == "json_schema" else None
        return [("response_format", Constraint.of_schema(ANY_OBJECT if schema is None else schema))]


class FlatFormat(NamedSchema):
    """The form of an answer of /v1/responses."""

    type: Annotated[Literal["text", "json_object", "json_schema"], Expected("text, json_object or json_schema")] = (
        Field("text", description="kind of the form")
    )

    def constraints(self) -> list[tuple[str, Constraint]]:
        """The constraint of this form, if there is any, with the name of its field."""
        if self.type == "text":
            return []
        schema = self.json_schema if self.type == "json_schema" else None
        return [("text.format", Constraint.of_schema(ANY_OBJECT if schema is None else schema))]
