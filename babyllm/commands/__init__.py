"""What `babyllm COMMAND` does, a module per command.

A module has `ARGUMENTS`, `Flags` and `run(flags, *arguments)`; that of a training stage `ARGUMENTS` and `main(argv)`.
"""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from babyllm.config.values import AnyCount, Positive, Rate, Seed, Share
from babyllm.runtime import Runtime
from babyllm.runtime.precision import dtype_name, reads_in

if TYPE_CHECKING:
    from babyllm.loading import ChatModel


@dataclass(frozen=True)
class SamplingFlags:
    """Flags of commands that draw answers.

    Attributes:
        max_new_tokens: at most this many in an answer.
        temperature: 0 takes the most probable token each time.
        top_k: keep this many of the most probable tokens; 0 and null keep all.
        top_p: keep the fewest most probable tokens that hold this probability.
        min_p: keep tokens at least this many times as probable as the most probable one.
        repetition_penalty: above 1 makes what was already read or written less probable.
        seed: seed of the draws; null draws differently each time.
    """

    max_new_tokens: AnyCount = 200
    temperature: Rate = 0.8
    top_k: AnyCount | None = 50
    top_p: Share | None = None
    min_p: Share | None = None
    repetition_penalty: Positive = 1.0
    seed: Seed | None = None

    def settings(self) -> dict[str, Any]:
        """The settings of `babyllm.generation.Sampling` that these flags are."""
        return {field.name: getattr(self, field.name) for field in fields(SamplingFlags)}


def read_as_chosen(runtime: Runtime) -> AbstractContextManager[Any]:
    """The context in which a command reads a model; says on stderr in what type, where it is not float32."""
    name = dtype_name(runtime.reading_dtype)
    if name != "float32" and runtime.is_main:
        note(f"products in {name}; --runtime.dtype=float32 is exact")
    return reads_in(runtime.device, runtime.reading_dtype)


def note_base_model(chat: ChatModel, directory: str) -> None:
    """Say on stderr that a model was not taught to answer, if so."""
    if not chat.has_learned:
        note(f"{directory} has no chat template: a base model, which was not taught to answer; using chatml")


def note(text: str) -> None:
    """Print a line on stderr that is not a part of a command's output."""
    print(f"({text})", file=sys.stderr, flush=True)
