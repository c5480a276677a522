"""Messages -> ids by the chat template, up to the beginning of an answer or of its continuation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from babyllm.chat.messages import ASSISTANT, Message, Unusable
from babyllm.chat.tools.reasoning import Begin
from babyllm.serve.api.problem import Problem
from babyllm.serve.api.prompt_limits import require_length
from babyllm.serve.served_model import ServedModel


class ChatPrompt(NamedTuple):
    """The prompt of a conversation.

    Attributes:
        ids: token ids.
        lead: text that is left out if the answer begins with it.
        begin: what the answer begins with.
    """

    ids: list[int]
    lead: str
    begin: Begin


def chat_prompt(
    messages: Sequence[Message], model: ServedModel, *, asks: bool = True, continues: bool = False, param: str
) -> ChatPrompt:
    """The prompt of a conversation.

    Args:
        messages: messages of the conversation.
        model: description of the model that reads it.
        asks: whether the prompt ends with what the template puts before an answer.
        continues: whether it ends with the text of the last message, which the answer continues.
        param: name of the field with the messages.

    Raises:
        Problem: the model has no template, the template refuses the messages, or they are too long.
    """
    if model.template is None:
        raise Problem(400, model.why_no_chat, param=param, code="no_chat_template")
    if continues and messages[-1].role != ASSISTANT:
        raise Problem(400, f"{param}: only an answer can be continued: the last message must be one", param=param)
    n_bytes = sum(len(f"{message.content}{message.reasoning}{message.tools}".encode()) for message in messages)
    require_length(n_bytes, model, param)
    try:
        if asks and not continues:
            return ChatPrompt(model.template.prompt(messages), model.lead, model.begin)
        ids = model.template.transcript(messages, is_open=continues)
    except Unusable as error:
        raise Problem(400, f"{param}: {error}", param=param) from None
    is_thinking = model.begin != "content" and bool(messages[-1].reasoning) and not messages[-1].content
    return ChatPrompt(ids, "", "reasoning" if continues and is_thinking else "content")
