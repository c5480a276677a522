"""Numbers that a run computes once and stores in its directory.

rank 0 computes -> name.npy, sealed by name.json -> every rank, and every resumed run, reads it
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from babyllm.errors import UserError
from babyllm.files import read_sealed_json, write_bytes, write_sealed_json
from babyllm.runtime import Runtime


def computed_once(
    directory: Path | None, file: str, made_of: Sequence[object], compute: Callable[[], NDArray[Any]], runtime: Runtime
) -> NDArray[Any]:
    """The stored numbers, or those computed now; every rank must call it.

    Args:
        directory: directory of the run; None stores nothing.
        file: name of the file, which ends in .npy.
        made_of: values, as JSON, that decide the numbers: a stored result is theirs alone.
        compute: function that computes the numbers; rank 0 calls it first.
        runtime: runtime of the run.

    Raises:
        UserError: the directory cannot be written, or as `compute`.
    """
    if directory is None:
        return compute()
    with runtime.main_first():
        found = _stored(directory / file, made_of)
        if found is None:
            found = compute()
            if runtime.is_main:
                _store(directory / file, made_of, found)
        return found


def _store(file: Path, made_of: Sequence[object], numbers: NDArray[Any]) -> None:
    content = io.BytesIO()
    np.save(content, numbers)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(file, content.getvalue())
        digest = hashlib.sha256(content.getvalue()).hexdigest()
        write_sealed_json(file.with_suffix(".json"), {"made_of": list(made_of), "numbers_sha256": digest})
    except OSError as error:
        raise UserError(f"{file.parent}: cannot be written ({error.strerror}); choose another --run_dir") from error


def _stored(file: Path, made_of: Sequence[object]) -> NDArray[Any] | None:
    """The stored numbers; None if there are none, they are of other data or settings, or they are damaged."""
    try:
        seal = read_sealed_json(file.with_suffix(".json"))
        content = file.read_bytes()
        if seal["made_of"] != list(made_of) or seal["numbers_sha256"] != hashlib.sha256(content).hexdigest():
            return None
        found: NDArray[Any] = np.load(io.BytesIO(content))
        return found
    except (OSError, ValueError, KeyError):
        return None
