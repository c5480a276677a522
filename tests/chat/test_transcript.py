"""Conversations as ids without the beginning of another answer, whole or up to where an answer breaks off."""

import pytest

from babyllm.chat.built_in import TEXTS
from babyllm.chat.load import ChatTemplate, load_template
from babyllm.chat.messages import ASSISTANT, USER, Message, Unusable
from babyllm.tokenizer import Tokenizer

STRIPPING = (
    "{% for m in messages %}<|{{ m.role }}|>{% if m.role == 'assistant' %}{% generation %}{{ m.content | trim }}"
    "<|im_end|>{% endgeneration %}{% else %}{{ m.content | trim }}<|im_end|>{% endif %}{% endfor %}"
)
THINKING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}:{% if m.role == 'assistant' %}{% generation %}"
    "{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}{{ m.content }}<|im_end|>"
    "{% endgeneration %}{% else %}{{ m.content }}<|im_end|>{% endif %}{% endfor %}"
)
ASKED = Message(USER, "今天 the")


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("text", ["今天天气", "the model ", "", "<|im_end|>x"])
def test_an_open_transcript_ends_with_the_last_text(name: str, text: str, tokenizer: Tokenizer) -> None:
    """It is the beginning of the whole one; what is left out is only what the template writes after an answer."""
    template = load_template(name, tokenizer)
    messages = [ASKED, Message(ASSISTANT, text)]
    whole, cut = template.transcript(messages), template.transcript(messages, is_open=True)
    assert whole[: len(cut)] == cut and len(cut) < len(whole) and whole[len(cut)] in template.end_ids
    assert template.tokenizer.decode(cut).endswith(text)
    if name in ("chatml", "llama3"):  # whose text before an answer ends with a special token or a line of its own
        assert cut == [*template.prompt([ASKED]), *template.tokenizer.encode(text)]


def test_blanks_that_a_template_strips_are_continued(tokenizer: Tokenizer) -> None:
    """The end of the text is the client's, to the last blank."""
    template = ChatTemplate(STRIPPING, tokenizer)
    cut = template.transcript([ASKED, Message(ASSISTANT, " the model \n")], is_open=True)
    assert template.tokenizer.decode(cut).endswith("|>the model \n")


def test_reasoning_without_content_is_continued(tokenizer: Tokenizer) -> None:
    """A template with a place for reasoning is cut after it; with content the cut is after the content."""
    template = ChatTemplate(THINKING, tokenizer)
    thought = template.transcript([ASKED, Message(ASSISTANT, "", reasoning="今 ")], is_open=True)
    assert template.tokenizer.decode(thought).endswith("<think>今 ")
    said = template.transcript([ASKED, Message(ASSISTANT, "天", reasoning="今 ")], is_open=True)
    assert template.tokenizer.decode(said).endswith("<think>今 </think>天")


def test_a_text_that_is_left_out_is_not_continued(tokenizer: Tokenizer) -> None:
    """A template that does not render the last message is refused."""
    source = "{% for m in messages if m.role == 'user' %}{{ m.content }}<|im_end|>{% endfor %}"
    with pytest.raises(Unusable, match=r"leaves out|changes"):
        ChatTemplate(source, tokenizer).transcript([ASKED, Message(ASSISTANT, "x")], is_open=True)
