"""The bodies of /tokenize and /detokenize."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from babyllm.serve.api.chat.chat_body import Messages, MessagesBody
from babyllm.serve.api.field_types import EMPTY_IS_OBJECT, Flag, Text
from babyllm.serve.api.validation import WRONG, Body, Expected


class TokenizeBody(MessagesBody):
    """The body of POST /tokenize: a text or a conversation."""

    neutral: ClassVar = {"add_bos": (True,)}

    model: Text | None = Field(None, description="name of a served model")
    prompt: Text | None = Field(None, description="text, as /v1/completions reads it")
    messages: Messages | None = Field(None, description="conversation, as /v1/chat/completions reads it")  # type: ignore[assignment]
    add_special_tokens: Flag | None = Field(
        None, description="whether the token that precedes every document precedes a text; true unless given"
    )
    return_token_strs: Flag = Field(False, description="whether the texts of the tokens are sent too")
    chat_template_kwargs: Annotated[dict[str, object], Expected("a JSON object"), EMPTY_IS_OBJECT] = Field(
        {}, description="enable_thinking, and settings that the chat template does not read"
    )

    @model_validator(mode="after")
    def _one_of_both(self) -> TokenizeBody:
        if (self.prompt is None) == (self.messages is None):
            raise PydanticCustomError(WRONG, "needs either prompt or messages")
        if self.messages is not None and self.add_special_tokens:
            raise PydanticCustomError(WRONG, "has add_special_tokens, but a chat template writes its own")
        return self


class DetokenizeBody(Body):
    """The body of POST /detokenize."""

    model: Text | None = Field(None, description="name of a served model")
    tokens: Annotated[list[int], Field(fail_fast=True), Expected("a list of token ids")] = Field(
        description="token ids; special ones become their names"
    )
