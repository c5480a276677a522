"""Write a model of another format as a Hugging Face directory, which all other commands read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from babyllm.config.values import PathText

if TYPE_CHECKING:
    from babyllm.interop.open_model import OpenModel

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
    model = imported(flags, source, out)
    example = f"chat {out}" if model.chat_template else f'generate {out} "Once upon a time"'
    print(f"{out}: {source} in {flags.dtype}; try it: babyllm {example}")


def imported(flags: Flags, source: str, out: str) -> OpenModel:
    """Write the model of `source` into the directory `out`, and return it.

    Raises:
        UserError: as for `run`.
    """
    from babyllm.interop.any_source import open_any
    from babyllm.interop.open_model import write_directory

    model = open_any(Path(source), Path(flags.tokenizer) if flags.tokenizer else None)
    write_directory(model, Path(out), flags.dtype)
    return model
