"""The form of calls that a template shows."""

import pytest
from tool_templates import TEMPLATES

from babyllm.chat.built_in import BuiltIn
from babyllm.chat.load import ChatTemplate, load_template
from babyllm.chat.tools.tool_formats import HERMES, LINES, LLAMA3, tool_format_of
from babyllm.tokenizer import Tokenizer


def test_the_form_is_that_of_rendered_calls(tokenizer: Tokenizer) -> None:
    """It is read from a rendered call; where a template knows no calls they are lines, and other forms are unknown."""
    forms = {"qwen2.5": HERMES, "qwen3": HERMES, "hermes": HERMES, "llama3": LLAMA3, "xml": None}
    for name, source in TEMPLATES.items():
        assert tool_format_of(ChatTemplate(source, tokenizer)) == forms[name], name
    assert tool_format_of(load_template("chatml", tokenizer)) == HERMES
    assert tool_format_of(ChatTemplate(BuiltIn("chatml", is_earlier=True).text(), tokenizer)) == LINES


@pytest.mark.parametrize("name", ["llama3", "llama2", "alpaca", "plain"])
def test_built_in_templates_without_calls(name: str, tokenizer: Tokenizer) -> None:
    """Their calls are spelled out."""
    assert tool_format_of(load_template(name, tokenizer)) == LINES
