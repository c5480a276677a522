"""What a request says about functions -> what the model reads of them and how its answer is held to them.

tools, tool_choice, parallel_tool_calls -> ToolUse(messages, form, grammar)
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from babyllm.chat.messages import SYSTEM, Message
from babyllm.chat.tools.call_grammar import Function, call_grammar
from babyllm.chat.tools.reasoning import Begin
from babyllm.chat.tools.tool_formats import ToolFormat
from babyllm.errors import UserError
from babyllm.generation.constraints.constraint import Constraint
from babyllm.generation.sampling import Sampling
from babyllm.serve.api.generation.usable_constraint import require_usable
from babyllm.serve.api.problem import Problem
from babyllm.serve.api.tools.tool_bodies import Chooses, FunctionBody, Mode
from babyllm.serve.served_model import ServedModel

NO_FORM = "tools: the form in which the model's chat template renders calls is not known here; leave tools out"


class ToolUse(NamedTuple):
    """The functions of a request.

    Attributes:
        offered: functions that the model reads; empty if none may be called.
        callable: those that may be called.
        form: how the model writes calls; None if none is looked for.
        is_required: whether the answer must be a call.
        is_parallel: whether it may have several calls.
    """

    offered: Sequence[FunctionBody] = ()
    callable: Sequence[FunctionBody] = ()
    form: ToolFormat | None = None
    is_required: bool = False
    is_parallel: bool = True

    def messages(self, messages: Sequence[Message]) -> list[Message]:
        """The messages with the functions in the system message."""
        if not self.offered:
            return list(messages)
        tools = json.dumps([function.definition() for function in self.offered], ensure_ascii=False)
        if messages and messages[0].role == SYSTEM:
            return [replace(messages[0], tools=tools), *messages[1:]]
        return [Message(SYSTEM, "", tools=tools), *messages]

    def grammar(self, begin: Begin, content: Mapping[str, Any] | None = None) -> str | None:
        """The grammar of the answer; None if it is free.

        Args:
            begin: what the answer begins with.
            content: JSON schema of the content of an answer without calls; None for any text.
        """
        is_held = self.is_required or not self.is_parallel or len(self.callable) < len(self.offered)
        is_held = is_held or any(function.strict for function in self.callable)
        if self.form is None or not (is_held or content is not None):
            return None
        functions = [Function(function.name, function.parameters) for function in self.callable]
        return call_grammar(
            functions,
            self.form,
            is_required=self.is_required,
            is_parallel=self.is_parallel,
            begin=begin,
            content=content,
        )


def tool_use(
    functions: Sequence[FunctionBody],
    choice: Mode | Chooses,
    is_parallel: bool,
    model: ServedModel,
) -> ToolUse:
    """The functions of a request.

    Args:
        functions: the functions that it offers.
        choice: "none", "auto", "required", or a choice among some of them.
        is_parallel: whether there may be several calls.
        model: description of the model that answers.

    Raises:
        Problem: the fields contradict each other, or the model's template has no known form of calls.
    """
    mode, allowed, is_single = (choice, None, False) if isinstance(choice, str) else choice.allowed()
    names = [function.name for function in functions]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise Problem(400, f"tools: the function {twice!r} is given twice", param="tools")
    if unknown := next((name for name in allowed or () if name not in names), None):
        raise Problem(400, f"tool_choice: the function {unknown!r} is not among tools", param="tool_choice")
    if mode == "required" and not functions:
        raise Problem(400, "tool_choice: required needs tools", param="tool_choice")
    if not functions or mode == "none":
        return ToolUse()
    if (form := model.tool_format) is None:
        raise Problem(400, NO_FORM, param="tools", code="no_tool_format")
    chosen = [function for function in functions if allowed is None or function.name in allowed]
    return ToolUse(functions, chosen, form, mode == "required", is_parallel and not is_single)


def held_to(sampling: Sampling, tools: ToolUse, lead: str, begin: Begin, model: ServedModel) -> Sampling:
    """The sampling of an answer that is held to the functions of its request.

    Args:
        sampling: sampling of the answer; a JSON schema in it is that of an answer without calls.
        tools: what the request says about functions.
        lead: text that the model writes before the answer.
        begin: what the answer begins with.
        model: description of the model that answers.

    Raises:
        Problem: a schema cannot be used, or the sampling has another constraint.
    """
    content = sampling.constraint
    if tools.form is None:
        return sampling
    if content is not None and content.kind != "json_schema":
        message = "tools: beside functions, an answer can only be held to a JSON schema; leave one of them out"
        raise Problem(400, message, param="tools")
    try:
        grammar = tools.grammar(begin, None if content is None or tools.is_required else content.value)
        if grammar is None:
            return sampling
        constraint = Constraint("grammar", grammar, lead)
    except UserError as error:
        raise Problem(400, f"tools: {error}", param="tools") from None
    require_usable(constraint, model, "tools")
    return replace(sampling, constraint=constraint)
