"""The body of /v1/embeddings."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from babyllm.serve.api.field_types import UNLIMITED, Flag, Prompts, Text
from babyllm.serve.api.validation import Body, Expected, Integer


class EmbeddingBody(Body):
    """The body of POST /v1/embeddings."""

    harmless: ClassVar = frozenset({"user", "request_id", "priority"})
    neutral: ClassVar = {"add_special_tokens": (True,), "input_type": ("",), "truncate_prompt_tokens": (-1,)}

    model: Text | None = Field(None, description="name of a served model")
    input: Prompts = Field(description="text, or its token ids; several have an embedding each")
    encoding_format: Annotated[Literal["float", "base64"], Expected("float or base64")] = Field(
        "float", description="numbers, or the float32 bytes of all numbers in base64"
    )
    pooling: Annotated[Literal["mean", "last", "max"], Expected("mean, last or max")] = Field(
        "mean", description="what is made of the last hidden states of a text's tokens"
    )
    normalize: Flag = Field(True, description="whether an embedding is divided by its length")
    dimensions: Annotated[int, Integer(1, UNLIMITED)] | None = Field(
        None, description="numbers of an embedding, which are those of the model's width"
    )
