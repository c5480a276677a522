"""Write a model for other programs: a Hugging Face directory in 16 bits, GGUF files with a Modelfile, and a card."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from babyllm.config.values import Positive
from babyllm.publishing.card import CardOptions

ARGUMENTS = "SOURCE OUT"
Kind = Literal["F32", "F16", "Q8_0"]


@dataclass(frozen=True)
class Flags:
    """Flags of `babyllm export`.

    Attributes:
        dtype: type of the weights of a Hugging Face directory: bfloat16, float16 or float32; null writes one in
            bfloat16 if no gguf is asked for.
        gguf: format of a GGUF file for llama.cpp and ollama, F32, F16 or Q8_0, or a list of formats.
        modelfile: whether to write a Modelfile for ollama beside the GGUF files.
        check: whether to compare what was written with the source, and with transformers and llama.cpp where they are
            installed.
        shard_gb: size of the largest file of weights in a Hugging Face directory, in gigabytes.
        card: what the model card says beside the contents of the files.
    """

    dtype: Literal["bfloat16", "float16", "float32"] | None = None
    gguf: Kind | list[Kind] = field(default_factory=list)
    modelfile: bool = True
    check: bool = True
    shard_gb: Positive = 4.0
    card: CardOptions = field(default_factory=CardOptions)


def run(flags: Flags, source: str, out: str) -> None:
    """Write the model of a run, step, adapter or Hugging Face directory for other programs, whole or not at all.

    Raises:
        UserError: the model cannot be expressed, a check failed, or the target exists or cannot be written.
    """
    for finding in exported(flags, source, out):
        print(finding, flush=True)
    has_modelfile = flags.gguf and flags.modelfile
    print(f"{out}: written" + (f"; try it: ollama create NAME -f {Path(out) / 'Modelfile'}" if has_modelfile else ""))


def exported(flags: Flags, source: str, out: str) -> Iterator[str]:
    """Write the model of `source` into the directory `out`, and yield a sentence about each file.

    Raises:
        UserError: as for `run`.
    """
    from babyllm.publishing.export import Wanted, export

    kinds = [flags.gguf] if isinstance(flags.gguf, str) else flags.gguf
    wanted = Wanted(
        dtype=flags.dtype or (None if kinds else "bfloat16"),
        gguf=list(dict.fromkeys(kinds)),
        modelfile=flags.modelfile,
        shard_bytes=int(flags.shard_gb * 1e9),
        is_checked=flags.check,
        card=flags.card,
    )
    yield from export(Path(source), Path(out), wanted)
