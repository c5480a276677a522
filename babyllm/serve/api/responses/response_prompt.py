"""Body of /v1/responses -> conversation, with the one that it goes on with -> ids by the chat template."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import NamedTuple

from babyllm.chat.messages import SYSTEM, USER, Message
from babyllm.serve.api.chat.chat_prompt import ChatPrompt, chat_prompt
from babyllm.serve.api.problem import Problem
from babyllm.serve.api.prompt_limits import TOO_LONG
from babyllm.serve.api.responses.response_body import ResponseBody
from babyllm.serve.api.responses.response_store import ResponseStore
from babyllm.serve.api.tools.tool_use import ToolUse
from babyllm.serve.served_model import ServedModel


class ResponsePrompt(NamedTuple):
    """What the model reads before a response.

    Attributes:
        chat: the prompt.
        messages: messages of the whole conversation, without instructions.
        tools: what the request says about functions.
    """

    chat: ChatPrompt
    messages: tuple[Message, ...]
    tools: ToolUse


def response_prompt(body: ResponseBody, model: ServedModel, store: ResponseStore) -> ResponsePrompt:
    """The prompt of a body of /v1/responses; it may be too long for the model's context.

    Args:
        body: checked body.
        model: description of the model that reads it.
        store: responses that can be continued.

    Raises:
        Problem: the response that it goes on with is not kept, or the messages cannot be read.
    """
    before: tuple[Message, ...] = ()
    if body.previous_response_id is not None:
        before = store.find(body.previous_response_id, "previous_response_id").messages
    messages = (*before, *body.messages())
    if not messages:
        raise Problem(400, "input holds no message", param="input")
    instructions = [Message(SYSTEM, body.instructions)] if body.instructions else []
    tools = body.tool_use(model)

    def prompt(said: Sequence[Message]) -> ChatPrompt:
        return chat_prompt(tools.messages([*instructions, *said]), model, param="input")

    if body.truncation == "disabled":
        return ResponsePrompt(prompt(messages), messages, tools)
    room = max(1, min(body.max_output_tokens, model.context // 4))
    return ResponsePrompt(prompt(_latest(messages, prompt, model.context - room)), messages, tools)


def _latest(
    messages: Sequence[Message], prompt: Callable[[Sequence[Message]], ChatPrompt], most: int
) -> Sequence[Message]:
    """The messages without as few of the oldest turns as make a prompt of at most so many tokens.

    A turn begins with a message of the user. System messages at the beginning and the last turn always stay.
    """
    n_head = next((i for i, message in enumerate(messages) if message.role != SYSTEM), len(messages))
    turns = [i for i, message in enumerate(messages) if message.role == USER and i > n_head]
    starts = [n_head, *turns]

    def fits(start: int) -> bool:
        try:
            return len(prompt([*messages[:n_head], *messages[start:]]).ids) <= most
        except Problem as problem:
            if problem.code != TOO_LONG:
                raise
            return False

    start = starts[bisect_left(starts[:-1], True, key=fits)]
    return [*messages[:n_head], *messages[start:]]
