"""What tests of this folder share."""

from typing import Any

import pytest
from chat_template_fixtures import (
    LLAMA3,
    NAMES,
    corpus,
)

from babyllm.tokenizer import Tokenizer


@pytest.fixture(scope="module", params=["bpe", "byte_bpe"])
def vocabulary(request: pytest.FixtureRequest) -> Tokenizer:
    """A SentencePiece and a byte-level vocabulary with the tokens of every template."""
    return Tokenizer.train(corpus(), 330, model_type=request.param, special_tokens=LLAMA3, n_threads=1)


@pytest.fixture(scope="module")
def theirs(vocabulary: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The same vocabulary in transformers."""
    transformers = pytest.importorskip("transformers")
    directory = tmp_path_factory.mktemp("vocabulary")
    vocabulary.save(directory)
    return transformers.AutoTokenizer.from_pretrained(directory)


@pytest.fixture(scope="module", params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)
