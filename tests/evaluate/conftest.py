"""What the tests of evaluation share: a template, a model with large weights, conversations."""

import pytest
import torch
from evaluation_fixtures import some_conversations
from model_fixtures import Tiny

from babyllm.chat.load import ChatTemplate, load_template
from babyllm.chat.messages import Conversation
from babyllm.model.transformer import Transformer
from babyllm.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def template(tokenizer: Tokenizer) -> ChatTemplate:
    return load_template("chatml", tokenizer)


@pytest.fixture(scope="session")
def model(tiny: Tiny) -> Transformer:
    torch.manual_seed(0)
    model = Transformer(tiny(max_seq_len=128)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(std=0.3) if weight.dim() > 1 else weight.uniform_(0.5, 1.5)
    return model


@pytest.fixture(scope="session")
def conversations() -> list[Conversation]:
    return some_conversations()
