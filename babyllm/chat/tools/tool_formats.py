"""How a model writes calls of functions, as its chat template shows them."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from typing import Literal, NamedTuple

from babyllm.chat.messages import ASSISTANT, SYSTEM, TOOL, USER, Message, ToolCall, Unusable
from babyllm.chat.template import ChatTemplate


class ToolFormat(NamedTuple):
    """The form of calls: a JSON object with the name of a function and its arguments, between marks or on a line.

    Attributes:
        before: mark before a call; empty for none.
        after: mark after a call; empty for none.
        key: name of the field with the arguments.
        place: where a call may begin: at a mark, at the beginning of a line, or at the beginning of the answer.
        joint: text between two calls.
        are_special: whether the marks are special tokens, which the text of an answer does not show.
    """

    before: str
    after: str
    key: str
    place: Literal["mark", "line", "start"]
    joint: str = "\n"
    are_special: bool = False

    @property
    def shown(self) -> ToolFormat:
        """The form of calls in the text of an answer."""
        return LINES if self.are_special else self


HERMES = ToolFormat("<tool_call>", "</tool_call>", "arguments", "mark")
LLAMA3 = ToolFormat("", "", "parameters", "start", "; ")
LINES = ToolFormat("", "", "arguments", "line")
PYTHON_TAG = "<|python_tag|>"  # may precede a call in the form of Llama 3

_NAME, _VALUE = "babyllm_f", "babyllm_v"
_SHOWN = r'\{\s*"name"\s*:\s*"babyllm_f"\s*,\s*"%s"\s*:\s*\{\s*"x"\s*:\s*"babyllm_v"\s*\}\s*\}'
_FORMS = (
    (re.compile(rf"<tool_call>\s*{_SHOWN % 'arguments'}\s*</tool_call>"), HERMES),
    (re.compile(_SHOWN % "parameters"), LLAMA3),
)


def tool_format_of(template: ChatTemplate) -> ToolFormat | None:
    """The form in which a template renders calls, in which its model learnt to write them; None if it is not known.

    Args:
        template: chat template; one that knows no calls has them spelled out as lines of JSON.
    """
    if not template.has_calls:
        return LINES
    tools = json.dumps([{"type": "function", "function": {"name": _NAME, "description": "", "parameters": {}}}])
    call = Message(ASSISTANT, "").with_calls([ToolCall(_NAME, json.dumps({"x": _VALUE}), "callid123")])
    asked = [Message(SYSTEM, "", tools=tools), Message(USER, "?"), call]
    for messages in ([*asked, Message(TOOL, "1", call_id="callid123")], asked):
        with suppress(Unusable):
            text = template.prompt_text(messages)
            found = next((form for shown, form in _FORMS if shown.search(text)), None)
            return found._replace(are_special=found.before in template.tokenizer.special) if found else None
    return None
