"""Fixtures for the tests of this folder."""

from pathlib import Path

import pytest
from tokenizer_fixtures import byte_level, corpus

from babyllm.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def trained() -> Tokenizer:
    return Tokenizer.train(corpus(), 600)


@pytest.fixture(scope="module")
def saved(trained: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("saved")
    trained.save(directory)
    return directory


@pytest.fixture(scope="module")
def converted(saved: Path) -> Tokenizer:
    return Tokenizer.load(saved / "tokenizer.json")


@pytest.fixture(scope="module")
def bytewise(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("bytewise") / "tokenizer.json"
    return Tokenizer.load(byte_level(path, ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "</s>"]))
