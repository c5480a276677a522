"""What the tests of the server share: a random model that chats, and a server of it."""

from collections.abc import Iterator

import pytest
import torch
from model_fixtures import Tiny
from serve_fixtures import Server, chatml, load_of, serving, talkative

from babyllm.chat.load import ChatTemplate
from babyllm.model.transformer import Transformer
from babyllm.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def template(tokenizer: Tokenizer) -> ChatTemplate:
    return chatml(tokenizer)


@pytest.fixture(scope="session")
def model(tiny: Tiny) -> Transformer:
    """A random model; not to be changed."""
    return talkative(tiny(max_seq_len=256))


@pytest.fixture(scope="module")
def server(model: Transformer, tokenizer: Tokenizer, template: ChatTemplate) -> Iterator[Server]:
    """A server of the random model with a chat template."""
    torch.set_num_threads(1)
    with serving(load_of(model, tokenizer, template)) as server:
        yield server
