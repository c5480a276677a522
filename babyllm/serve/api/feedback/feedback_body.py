"""The body of /v1/feedback."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from babyllm.serve.api.chat.chat_body import Messages
from babyllm.serve.api.field_types import not_bool
from babyllm.serve.api.validation import Body, Expected


class FeedbackBody(Body):
    """The body of POST /v1/feedback."""

    messages: Messages = Field(description="conversation whose last message is the rated answer")
    rating: Annotated[Literal[1, -1], BeforeValidator(not_bool), Expected("1 or -1")] = Field(
        description="1 for a good answer, -1 for a bad one"
    )
