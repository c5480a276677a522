"""The body of /v1/feedback."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from babyllm.serve.api.chat.chat_body import Messages
from babyllm.serve.api.field_types import Text, not_bool
from babyllm.serve.api.validation import Body, Expected, Integer


class FeedbackBody(Body):
    """The body of POST /v1/feedback."""

    messages: Messages = Field([], description="conversation whose last message is the rated answer")
    answer: Text = Field("", description="id of the response with the rated answer, where sessions are stored")
    number: Annotated[int, Integer(0, 10_000)] = Field(0, description="number of the answer in the response, from 0")
    correction: Text = Field("", description="what the answer should have been, where sessions are stored")
    rating: Annotated[Literal[1, -1], BeforeValidator(not_bool), Expected("1 or -1")] = Field(
        description="1 for a good answer, -1 for a bad one"
    )
