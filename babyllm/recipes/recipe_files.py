"""What recipes share: numbers that a text decides, and files that are made once."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

from babyllm.recipes.sample import recipe_folder

Record = dict[str, Any]


def draw(text: str, purpose: str, n: int = 1 << 64) -> int:
    """A number from 0 to n - 1 that text and purpose decide."""
    return int.from_bytes(blake2b(f"{purpose}\0{text}".encode(), digest_size=8).digest(), "big") % n


def make_files(
    directory: str, wanted: str | list[str], files: Mapping[str, Callable[[], Iterable[Record]]], what: str
) -> None:
    """Write the files of a recipe into its folder, unless they are there already or nothing of them is to be read.

    Args:
        directory: folder of the recipe.
        wanted: files or folders that are to be read.
        files: records of each file by its name; the last one is written last, as the commit mark.
        what: name of the set, for a line on stdout.

    Raises:
        UserError: the source of the recipe is not installed, or the folder cannot be written.
    """
    path, mark = Path(directory), Path(directory) / list(files)[-1]
    paths = [Path(name) for name in ([wanted] if isinstance(wanted, str) else wanted)]
    if not {path, *(path / name for name in files)} & set(paths) or mark.is_file():
        return
    with recipe_folder(path):
        if not mark.is_file():
            print(f"preparing the {what} in {path} (once)", flush=True)
            for name, records in files.items():
                _write(path / name, records())


def _write(path: Path, records: Iterable[Record]) -> None:
    unfinished = path.with_name(f".{path.name}.tmp")
    with unfinished.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    os.replace(unfinished, path)
