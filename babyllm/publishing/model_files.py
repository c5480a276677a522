"""The files of a directory that belong to a model, and a folder that has nothing else.

run, step, Hugging Face directory, adapter or export -> source_directory -> model_files -> staged folder

Files are named one by one, so that a checkpoint's optimizer or a user's notes are never published by accident.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path

from safetensors import SafetensorError, safe_open

from babyllm.config.json_fields import Fields, read_json
from babyllm.errors import UserError, in_one_line
from babyllm.files import path_as_text
from babyllm.integrity import INDEX, check_held, check_model
from babyllm.run_directory import meant_step

CARD, CURVE = "README.md", "curve.png"
CONFIG, ADAPTER_CONFIG = "config.json", "adapter_config.json"
_WEIGHTS = (
    *("model.safetensors", "model-*-of-*.safetensors", "value_head.safetensors", "adapter_model.safetensors"),
    "*.gguf",
)
_BESIDE_WEIGHTS = (
    *(CONFIG, "generation_config.json", ADAPTER_CONFIG, INDEX),
    *("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "merges.txt", "vocab.txt", "chat_template.jinja", "Modelfile"),
    *(CARD, CURVE, "LICENSE*", "NOTICE*"),
)


def source_directory(path: Path) -> Path:
    """The directory of the model at `path`: `path` itself, or the step that a run directory stands for.

    Raises:
        UserError: there is no model or saved step.
    """
    if not path.is_dir():
        raise UserError(f"{path}: is not a directory; give the directory of a run, a step or a model")
    if any((path / name).is_file() for name in (CONFIG, ADAPTER_CONFIG)) or any(path.glob("*.gguf")):
        return path
    step = meant_step(path)
    if step is None:
        raise UserError(f"{path}: is neither a model (config.json or *.gguf) nor a run directory with a saved step")
    return step


def model_files(directory: Path) -> list[str]:
    """The names of the files in a directory that belong to its model, sorted.

    Optimizer state, the position in the data, hidden files and files of other kinds are not among them.
    """
    names = (file.name for file in directory.iterdir() if file.is_file() and not file.name.startswith("."))
    return sorted(name for name in names if any(fnmatchcase(name, kind) for kind in (*_WEIGHTS, *_BESIDE_WEIGHTS)))


def weight_names(names: Sequence[str]) -> list[str]:
    """Those names that are files with weights."""
    return [name for name in names if any(fnmatchcase(name, kind) for kind in _WEIGHTS)]


def require_publishable(directory: Path, names: Sequence[str]) -> None:
    """Refuse a model whose files are damaged or incomplete.

    Args:
        directory: directory of the model.
        names: names of its files.

    Raises:
        UserError: a file is missing, has changed since it was saved, or cannot be read.
    """
    check_model(directory)
    check_held(directory)
    if not weight_names(names):
        raise UserError(f"{directory}: holds no weights (*.safetensors or *.gguf)")
    for name in _listed_parts(directory):
        if not os.path.isfile(directory / name):
            raise UserError(f"{directory / name[:80]}: is missing, but {INDEX} lists it; bring it back")
    parameter_count(directory)  # reads the header of every file


def _listed_parts(directory: Path) -> list[str]:
    index = directory / INDEX
    if not index.is_file():
        return []
    parts = Fields(read_json(index), str(index)).object("weight_map")
    return sorted({parts.text(tensor) for tensor in parts.keys()})  # noqa: SIM118


def parameter_count(directory: Path) -> int:
    """The number of values in a directory's safetensors files; 0 if it has none. Only their headers are read.

    Raises:
        UserError: a file is damaged or cannot be read.
    """
    total = 0
    for name in weight_names(model_files(directory)):
        if not name.endswith(".safetensors"):
            continue
        try:
            with path_as_text(directory / name) as place, safe_open(place, "np") as opened:
                for tensor in opened.keys():  # noqa: SIM118
                    values = 1
                    for size in opened.get_slice(tensor).get_shape():
                        values *= size
                    total += values
        except (SafetensorError, OSError) as error:
            raise UserError(f"{directory / name}: cannot be read ({in_one_line(error)})") from error
    return total


@contextmanager
def staged(directory: Path, names: Sequence[str]) -> Iterator[Path]:
    """A temporary folder with links to some files of a directory, or copies where the system has no links."""
    with tempfile.TemporaryDirectory(prefix="babyllm-upload-") as folder:
        for name in names:
            try:
                os.symlink((directory / name).resolve(), Path(folder, name))
            except OSError:
                shutil.copyfile(directory / name, Path(folder, name))
        yield Path(folder)
