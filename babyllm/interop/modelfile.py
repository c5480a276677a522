"""An ollama Modelfile: the model's file, its chat template in the language of Go, and where an answer stops.

chat template (Jinja) -> Turns, the texts between messages -> TEMPLATE      end tokens -> PARAMETER stop

ollama knows only a few Jinja templates by heart, and a model without a template that fits never stops. What a template
writes between two messages depends on their roles alone in all common templates, so a few renderings show all of it.
More renderings then prove it, or the template is not written.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from babyllm.chat.messages import ASSISTANT, SYSTEM, USER, Message, Unusable
from babyllm.chat.template import ChatTemplate
from babyllm.errors import UserError

_PROOFS = (
    (USER,),
    (SYSTEM, USER),
    (USER, ASSISTANT, USER),
    (SYSTEM, USER, ASSISTANT, USER),
    (SYSTEM, *(USER, ASSISTANT) * 2, USER),
    (*(USER, ASSISTANT) * 3, USER),
)


class Turns(NamedTuple):
    """A chat template as the texts that it writes around messages.

    Attributes:
        before: texts before a message, by the role of the message before it (empty for none) and its own.
        answer: text after the last message, before the model's answer.
    """

    before: dict[tuple[str, str], str]
    answer: str

    def text(self, messages: Sequence[Message]) -> str:
        """The text of a conversation up to the beginning of the answer."""
        roles = ["", *(message.role for message in messages)]
        parts = [self.before[roles[i], roles[i + 1]] + message.content for i, message in enumerate(messages)]
        return "".join(parts) + self.answer


def turns_of(template: ChatTemplate) -> Turns | None:
    """The texts around messages of a chat template; None if they depend on more than the roles, or on other programs.

    The roles are those of a system message, if there is one, and then user and assistant by turns.
    """
    try:
        system, first, answer, later, end = _between(template, (SYSTEM, USER, ASSISTANT, USER))
        begin = _between(template, (USER,))[0]
    except (Unusable, UserError, ValueError):
        return None
    before = {
        ("", SYSTEM): system,
        (SYSTEM, USER): first,
        ("", USER): begin,
        (USER, ASSISTANT): answer,
        (ASSISTANT, USER): later,
    }
    turns = Turns(before, end)
    return turns if _is_proven(turns, template) else None


def _conversation(roles: Iterable[str]) -> list[Message]:
    return [Message(role, f"{role} says {i} {i}") for i, role in enumerate(roles)]


def _between(template: ChatTemplate, roles: Sequence[str]) -> list[str]:
    """The texts before, between and after the messages of a rendering.

    Raises:
        ValueError: a message is not in the text.
    """
    messages = _conversation(roles)
    text, parts = template.prompt_text(messages), []
    for message in messages:
        part, content, text = text.partition(message.content)
        if not content:
            raise ValueError("the template changes a message")
        parts.append(part)
    return [*parts, text]


def _is_proven(turns: Turns, template: ChatTemplate) -> bool:
    try:
        conversations = [_conversation(roles) for roles in _PROOFS]
        return all(turns.text(messages) == template.prompt_text(messages) for messages in conversations)
    except (Unusable, UserError):
        return False


def modelfile(file: str, template: ChatTemplate | None, stops: Iterable[str], context: int) -> str:
    """The text of a Modelfile.

    Args:
        file: name of the GGUF file beside it.
        template: chat template of the model; None for a base model, which continues the text it is given.
        stops: texts of the tokens that end an answer.
        context: tokens of the model's context.

    Raises:
        UserError: the template cannot be written in the language of Go.
    """
    lines = [f"FROM ./{file}", f"TEMPLATE {_quoted(_go(template))}", f"PARAMETER num_ctx {context}"]
    lines += [f"PARAMETER stop {json.dumps(stop, ensure_ascii=False)}" for stop in dict.fromkeys(stops)]
    return "\n".join([*lines, ""])


def _go(template: ChatTemplate | None) -> str:
    if template is None:
        return "{{ .Prompt }}"
    turns = turns_of(template)
    if turns is None:
        raise UserError(
            "the chat template writes more between messages than their roles decide, which an ollama Modelfile cannot "
            "express; leave it out with --modelfile=false"
        )
    before = {pair: _go_text(text) for pair, text in turns.before.items()}
    user = (
        f'{{{{ if eq $before "system" }}}}{before[SYSTEM, USER]}'
        f'{{{{ else if eq $before "assistant" }}}}{before[ASSISTANT, USER]}'
        f"{{{{ else }}}}{before['', USER]}{{{{ end }}}}"
    )
    return (
        '{{ $before := "" }}{{ range .Messages }}'
        f'{{{{ if eq .Role "system" }}}}{before["", SYSTEM]}'
        f'{{{{ else if eq .Role "assistant" }}}}{before[USER, ASSISTANT]}'
        f"{{{{ else }}}}{user}{{{{ end }}}}"
        "{{ .Content }}{{ $before = .Role }}{{ end }}"
        f'{{{{ if ne $before "assistant" }}}}{_go_text(turns.answer)}{{{{ end }}}}'
    )


def _go_text(text: str) -> str:
    """An action that writes a text; a string of JSON is one of Go."""
    return f"{{{{ {json.dumps(text, ensure_ascii=False)} }}}}" if text else ""


def _quoted(template: str) -> str:
    if '"""' in template:
        raise UserError("the chat template holds three quotes in a row; leave the Modelfile out with --modelfile=false")
    return f'"""{template}"""'
