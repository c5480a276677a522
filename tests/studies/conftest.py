"""What the tests of studies share."""

from pathlib import Path

import pytest
from studies_fixtures import write_program


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """The command of a program that stands in for babyllm."""
    return write_program(tmp_path_factory.mktemp("program"))


@pytest.fixture(scope="session")
def examples() -> Path:
    """The folder of the studies that come with babyllm."""
    return Path(__file__).resolve().parents[2] / "configs" / "studies"
