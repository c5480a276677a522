"""A model of any format that is read, opened by looking at its file or directory.

GGUF file, llama2.c file, run, step or Hugging Face directory -> OpenModel
"""

from __future__ import annotations

from pathlib import Path

from babyllm.errors import UserError
from babyllm.interop.directory import open_directory
from babyllm.interop.gguf.container import is_gguf
from babyllm.interop.gguf.convert import open_gguf
from babyllm.interop.llama2c import open_llama2c
from babyllm.interop.open_model import OpenModel
from babyllm.loading import model_directory


def open_any(source: Path, tokenizer: Path | None = None) -> OpenModel:
    """The model in a file or directory, of which no weight is read yet.

    Args:
        source: a .gguf file, a llama2.c .bin file, or a run, step or Hugging Face directory.
        tokenizer: tokenizer file of a llama2.c model; None takes the `tokenizer.bin` beside it.

    Raises:
        UserError: the source is missing, damaged or not supported.
    """
    if not source.exists():
        raise UserError(f"{source}: does not exist; give a .gguf file, a llama2.c .bin file or a directory")
    if source.is_file() and not is_gguf(source):
        if source.suffix != ".bin":
            raise UserError(f"{source}: is not a GGUF file or a llama2.c .bin file; for safetensors give the directory")
        return open_llama2c(source, tokenizer)
    if tokenizer:
        raise UserError(f"--tokenizer={tokenizer}: is for llama2.c files; {source} has its own, leave the flag out")
    return open_gguf(source) if source.is_file() else open_directory(model_directory(source))
