"""Fields of the bodies of all endpoints that generate text.

Ranges that depend on the served model, such as the context or the number of slots, are checked in
`generation_request`.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

from pydantic import BeforeValidator, Field

from babyllm.generation.sampling import Sampling
from babyllm.serve.api.field_types import EMPTY_IS_OBJECT, UNLIMITED, Flag, Text, Unicode
from babyllm.serve.api.generation.structured_body import Given, ResponseFormat, StructuredBody
from babyllm.serve.api.validation import Body, Expected, Integer, Number

MAX_STOPS, MAX_STOP_CHARACTERS = 64, 256
MAX_TOP_LOGPROBS = 20
MAX_TEMPERATURE = 2.0
MAX_PENALTY, MAX_BIAS = 2, 100
SEEDS = 1 << 63

Stop: TypeAlias = Annotated[Unicode, Field(max_length=MAX_STOP_CHARACTERS)]


def _by_id(value: Any) -> Any:
    """The biases of a JSON object, by token id; an empty list has none."""
    if value == []:
        return {}
    if not isinstance(value, dict) or not all(key.isascii() and key.isdigit() for key in value):
        raise ValueError("not an object whose names are token ids")
    return {int(key): bias for key, bias in value.items()}


Biases: TypeAlias = Annotated[
    dict[int, Annotated[float, Number(-MAX_BIAS, MAX_BIAS)]],
    BeforeValidator(_by_id),
    Expected(f"an object of token ids and numbers from -{MAX_BIAS} to {MAX_BIAS}"),
]


class StreamOptions(Body):
    """Options of a stream."""

    harmless, neutral = frozenset({"include_obfuscation"}), {"continuous_usage_stats": (False,)}

    include_usage: Flag = Field(False, description="whether the stream ends with the token counts")


class SamplingBody(StructuredBody):
    """Fields that decide how tokens are drawn; neutral values of other known fields are accepted too."""

    model: Text | None = Field(None, description="name of a served model")
    stream: Flag = Field(False, description="whether the answer is sent in events as it is written")
    temperature: Annotated[float, Number(0, MAX_TEMPERATURE)] = Field(
        Sampling.temperature, description="0 takes the most probable token"
    )
    top_k: Annotated[int, Integer(-1, UNLIMITED)] = Field(
        Sampling.top_k or 0, description="most probable tokens that are kept; 0 and -1 keep all"
    )
    top_p: Annotated[float, Number(0, 1)] | None = Field(None, description="total probability of the tokens kept")
    min_p: Annotated[float, Number(0, 1)] | None = Field(
        None, description="least probability of a kept token, as a share of the largest one"
    )
    repetition_penalty: Annotated[float, Number(0.01, 100)] = Field(1.0, description="1 changes nothing")
    frequency_penalty: Annotated[float, Number(-MAX_PENALTY, MAX_PENALTY)] = Field(
        0.0, description="number subtracted from a token's score each time that the answer holds it"
    )
    presence_penalty: Annotated[float, Number(-MAX_PENALTY, MAX_PENALTY)] = Field(
        0.0, description="number subtracted once from the score of each token that the answer holds"
    )
    logit_bias: Biases = Field({}, description="numbers that are added to the scores of tokens, by id")
    seed: Annotated[int, Integer(-SEEDS, SEEDS - 1)] | None = Field(None, description="the same seed, the same answer")
    stop: Annotated[
        Stop | Annotated[list[Stop], Field(max_length=MAX_STOPS, fail_fast=True)],
        Expected(f"at most {MAX_STOPS} strings of up to {MAX_STOP_CHARACTERS} characters"),
    ] = Field([], description="strings that end the answer, which does not contain them")

    def stops(self) -> tuple[str, ...]:
        """The stop strings, without empty ones."""
        return tuple(filter(None, [self.stop] if isinstance(self.stop, str) else self.stop))


class GenerationBody(SamplingBody):
    """Fields of the endpoints that write several answers."""

    n: Annotated[int, Integer(1, UNLIMITED, "a whole number from 1 to the number of slots")] = Field(
        1, description="answers to each prompt, at most --slots"
    )
    best_of: Any = Field(None, description="the same as n")
    stream_options: Annotated[StreamOptions, EMPTY_IS_OBJECT] = StreamOptions(include_usage=False)
    response_format: Annotated[ResponseFormat, EMPTY_IS_OBJECT] = Field(
        ResponseFormat(type="text", json_schema=None),
        description="text, json_object or json_schema",
    )

    def constraints(self) -> Given:
        """The constraints that are given.

        Raises:
            Problem: one of them is not valid.
        """
        return [*self.response_format.constraints(), *super().constraints()]
