"""Write a model of another format as a Hugging Face directory, which all other commands read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from babyllm.config.values import PathText

if TYPE_CHECKING:
    from babyllm.interop.foreign import ForeignModel

ARGUMENTS = "SOURCE OUT"


@dataclass(frozen=True)
class Flags:
    """Settings of `babyllm import`.

    Attributes:
        dtype: type of the weights in the directory: float32, bfloat16 or float16.
        tokenizer: tokenizer file of a llama2.c model; null takes the tokenizer.bin beside the model.
    """

    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    tokenizer: PathText | None = None


def run(flags: Flags, source: str, out: str) -> None:
    """Write a model of another format as a Hugging Face directory, which all other commands read.

    The source is a GGUF file, a llama2.c file, or a Hugging Face directory. One tensor at a time is in memory.

    Raises:
        UserError: the source is missing, damaged or not supported, or the target directory exists or cannot be written.
    """
    from babyllm.interop.foreign import write_directory

    foreign = _opened(Path(source), flags.tokenizer)
    write_directory(foreign, Path(out), flags.dtype)
    example = f"chat {out}" if foreign.chat_template else f'generate {out} "Once upon a time"'
    print(f"{out}: {source} in {flags.dtype}; try it: babyllm {example}")


def _opened(source: Path, tokenizer: str | None) -> ForeignModel:
    from babyllm.errors import UserError
    from babyllm.interop.directory import open_directory
    from babyllm.interop.gguf.container import is_gguf
    from babyllm.interop.gguf.convert import open_gguf
    from babyllm.interop.llama2c import open_llama2c
    from babyllm.loading import model_directory

    if not source.exists():
        raise UserError(f"{source}: does not exist; give a .gguf file, a llama2.c .bin file or a directory")
    if source.is_file() and not is_gguf(source):
        if source.suffix != ".bin":
            raise UserError(f"{source}: is not a GGUF file or a llama2.c .bin file; for safetensors give the directory")
        return open_llama2c(source, Path(tokenizer) if tokenizer else None)
    if tokenizer:
        raise UserError(f"--tokenizer={tokenizer}: is for llama2.c files; {source} has its own, leave the flag out")
    return open_gguf(source) if source.is_file() else open_directory(model_directory(source))
