"""The inputs of recipes."""

from pathlib import Path

import pytest
from synthesis_fixtures import write_inputs


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_inputs(tmp_path_factory.mktemp("inputs"))
