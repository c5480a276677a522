"""What the tests of evaluation share: a template, a model with large weights, conversations."""

import pytest
from evaluation_fixtures import some_conversations
from model_fixtures import Tiny, decisive

from babyllm.chat.load import ChatTemplate, load_template
from babyllm.chat.messages import Conversation
from babyllm.model.transformer import Transformer
from babyllm.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def template(tokenizer: Tokenizer) -> ChatTemplate:
    return load_template("chatml", tokenizer)


@pytest.fixture(scope="session")
def model(tiny: Tiny) -> Transformer:
    return decisive(tiny(max_seq_len=128))


@pytest.fixture(scope="session")
def conversations() -> list[Conversation]:
    return some_conversations()
