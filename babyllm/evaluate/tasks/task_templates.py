"""The texts of a task as Jinja templates, in the sandbox of chat templates: what they raise, and what they may cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jinja2

from babyllm.chat.jinja.sandbox import Sandbox, within_budget


class Unfit(Exception):
    """A template that is invalid, or a record that lacks what the task needs; the message says what."""


def compiled(text: str) -> jinja2.Template:
    """A template.

    Raises:
        Unfit: the text is not a valid template.
    """
    try:
        return _ENVIRONMENT.from_string(text)
    except Exception as error:  # what Python's compiler raises depends on its version
        raise Unfit(one_line(error)) from None


def rendered(template: jinja2.Template, fields: Mapping[str, Any]) -> str:
    """The text of a template over the fields of a record.

    Raises:
        Unfit: a field is missing, the template fails, or it takes more steps or characters than a prompt can need.
    """
    n_characters = sum(len(value) for value in fields.values() if isinstance(value, str))
    try:
        return within_budget(lambda: template.render(fields), 1, n_characters)
    except Exception as error:  # a template is a program, which can raise anything
        raise Unfit(one_line(error) or type(error).__name__) from None


def one_line(error: BaseException) -> str:
    """The beginning of an error's message, on one line."""
    return " ".join(str(error).split())[:200]


_ENVIRONMENT = Sandbox({}, undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
