"""The body of /v1/completions."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field

from babyllm.serve.api.field_types import MAY_BE_UNLIMITED, UNLIMITED, Flag, Prompts, false_is_none
from babyllm.serve.api.generation.generation_body import MAX_TOP_LOGPROBS, GenerationBody
from babyllm.serve.api.neutral import HARMLESS, NEUTRAL, NEUTRAL_IN_COMPLETIONS
from babyllm.serve.api.validation import Integer

COMPLETION_TOKENS = 16  # the API's default


class CompletionBody(GenerationBody):
    """The body of POST /v1/completions."""

    harmless, neutral = HARMLESS, {**NEUTRAL, **NEUTRAL_IN_COMPLETIONS}

    prompt: Prompts = Field(
        description="text that the answer continues, or its token ids; several prompts have several answers"
    )
    max_tokens: Annotated[int, Integer(0, UNLIMITED), MAY_BE_UNLIMITED] = Field(
        COMPLETION_TOKENS, description="largest number of tokens of the answer; -1 for no limit"
    )
    echo: Flag = Field(False, description="whether the answer begins with the prompt")
    logprobs: Annotated[Annotated[int, Integer(0, MAX_TOP_LOGPROBS)] | None, BeforeValidator(false_is_none)] = Field(
        None, description="alternatives of each token; false and null send no log-probabilities"
    )
