"""What `babyllm COMMAND` does, a module per command.

A module has `ARGUMENTS`, `Flags` and `run(flags, *arguments)`; that of a training stage `ARGUMENTS` and `main(argv)`.
"""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from typing import Any

from babyllm.runtime import Runtime
from babyllm.runtime.precision import dtype_name, reads_in


def read_as_chosen(runtime: Runtime) -> AbstractContextManager[Any]:
    """The context in which a command reads a model; says on stderr in what type, where it is not float32."""
    name = dtype_name(runtime.reading_dtype)
    if name != "float32" and runtime.is_main:
        print(f"(products in {name}; --runtime.dtype=float32 is exact)", file=sys.stderr, flush=True)
    return reads_in(runtime.device, runtime.reading_dtype)
