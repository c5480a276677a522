"""Raw files, and what the stages make of them on the local engine."""

import shutil
from pathlib import Path

import pytest
from engines_fixtures import run_stages, write_raw

from babyllm.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def local(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Path:
    """A folder with raw files and the outputs of the stages on the local engine; not to be changed."""
    folder = tmp_path_factory.mktemp("local")
    write_raw(folder)
    run_stages(folder, tokenizer, "local", 1)
    return folder


@pytest.fixture
def raw(local: Path, tmp_path: Path) -> Path:
    """A folder with the same raw files alone."""
    shutil.copytree(local / "raw", tmp_path / "raw")
    return tmp_path
