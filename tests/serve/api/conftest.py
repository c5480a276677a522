"""What the tests of the API share: a model that thinks before it speaks."""

from collections.abc import Iterator, Sequence

import pytest
from model_fixtures import Tiny, chain
from serve_fixtures import Server, load_of, serving

from babyllm.chat.load import ChatTemplate
from babyllm.documents import Document
from babyllm.tokenizer import Tokenizer

THINKING = (
    "{% for m in messages %}<|im_start|>{{ m.role + '\n' }}{% if m.role == 'assistant' %}{% generation %}"
    "{% if m.reasoning_content %}{{ '<think>\n' + m.reasoning_content + '\n</think>\n\n' }}{% endif %}"
    "{{ m.content }}<|im_end|>{% endgeneration %}{% else %}{{ m.content }}<|im_end|>{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>{{ 'assistant\n' }}"
    "{% if enable_thinking is defined and not enable_thinking %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"
)


@pytest.fixture(scope="session")
def thinking_tokenizer(corpus: Sequence[Document]) -> Tokenizer:
    """A vocabulary with the marks of reasoning."""
    return Tokenizer.train((d.text for d in corpus), 400, n_threads=1, symbols=["<think>", "</think>"])


@pytest.fixture(scope="session")
def thinker(tiny: Tiny, thinking_tokenizer: Tokenizer) -> Iterator[Server]:
    """A model that says <think>今天</think>很好, with a template that marks reasoning."""
    tokenizer = thinking_tokenizer
    ids = [*tokenizer.encode("<think>今天</think>很好"), tokenizer.special["<|im_end|>"]]
    assert len(set(ids)) == len(ids)
    model = chain(tiny(max_seq_len=256, tie_embeddings=False), ids)
    with serving(load_of(model, tokenizer, ChatTemplate(THINKING, tokenizer))) as server:
        yield server
