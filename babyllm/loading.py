"""A trained model from a directory, for notebooks, the command line and later stages."""

from __future__ import annotations

from pathlib import Path

from babyllm.errors import UserError
from babyllm.interop.huggingface import load_model
from babyllm.model.transformer import Transformer
from babyllm.tokenizer import Tokenizer


def model_directory(path: str | Path) -> Path:
    """The directory that holds the model `path` means: itself, or the newest complete step of a run directory.

    Raises:
        UserError: there is none.
    """
    path = Path(path)
    if (path / "config.json").is_file():
        return path
    steps = [c.parent for c in path.glob("step_*/config.json") if c.parent.name.removeprefix("step_").isdigit()]
    if not steps:
        raise UserError(f"{path}: is neither a model directory (config.json) nor a run directory with a saved step")
    return max(steps, key=lambda step: int(step.name.removeprefix("step_")))


def load(path: str | Path) -> tuple[Transformer, Tokenizer]:
    """The model, in float32 and evaluation mode, and the tokenizer of a run, step or Hugging Face directory.

    Raises:
        UserError: names the file that is missing or does not fit.
    """
    directory = model_directory(path)
    return load_model(directory).eval(), Tokenizer.load(directory)
