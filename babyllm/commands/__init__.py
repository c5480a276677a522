"""What `babyllm COMMAND` does: a module per command, with `ARGUMENTS`, `Flags` and `run(flags, *arguments)`."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from babyllm.runtime import Runtime
from babyllm.runtime.precision import dtype_name, reads_in

if TYPE_CHECKING:
    from babyllm.loading import ChatModel


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
