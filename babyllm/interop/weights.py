"""The tensors of Hugging Face directories: their names, and safetensors files, read and written.

Transformer, WithHead <-> Hugging Face names <-> model.safetensors in one file or several, value_head.safetensors
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from babyllm.config.json_fields import Fields, read_json
from babyllm.errors import UserError, in_one_line
from babyllm.files import path_as_text
from babyllm.integrity import AUXILIARY, INDEX
from babyllm.model.config import ModelConfig
from babyllm.model.heads import CRITIC, SCORE, ActorCritic
from babyllm.model.interface import Model
from babyllm.model.transformer import EMBEDDING, OUTPUT
from babyllm.parallel.filling import Weights

WEIGHTS = "model.safetensors"
VALUE_HEAD = "value_head.safetensors"
LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")
_PREFIX = "model."
_COMPARABLE = (torch.float32, torch.float16, torch.bfloat16)
_OS_ERROR = re.compile(r"os error (\d+)")


def weights_to_hf(state: dict[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """A model's tensors under the names of Hugging Face files, float32, on its device; not copied if they are float32.

    The output layer is left out if it is tied to the embedding, or empty as in a model with a head.
    """
    return {
        hf_name(name): tensor.detach().float()
        for name, tensor in state.items()
        if not (name.endswith(f"{OUTPUT}.weight") and (config.tie_embeddings or not len(tensor)))
    }


def hf_name(name: str) -> str:
    """The name in Hugging Face files of a parameter of a `Transformer` or a `WithHead`."""
    name = name.removeprefix(_PREFIX)
    return name if name.startswith((f"{OUTPUT}.", f"{SCORE}.")) else _PREFIX + name


def _layer_of(name: str) -> int:
    """The number of the layer that a tensor of a file belongs to; -1 for others."""
    found = LAYER.search(name)
    return int(found[1]) if found else -1


def save_tensors(tensors: dict[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file with ordinary permissions; the library itself would let only the owner read it.

    Args:
        tensors: tensors by name, on any device.
        path: file to write.
        metadata: one text for the file's header, by its name; of several the library would draw the order at random.

    Raises:
        OSError: the file cannot be written.
    """
    path.touch()
    mode = path.stat().st_mode
    try:
        with path_as_text(path) as place:
            on_cpu = {n: t.cpu().contiguous() for n, t in tensors.items()}
            save_file(on_cpu, place, metadata=dict(metadata or {"format": "pt"}))
    except SafetensorError as error:  # the system's error number is only in its text
        if not (found := _OS_ERROR.search(str(error))):
            raise OSError(str(error)) from error
        raise OSError(int(found[1]), os.strerror(int(found[1])), str(path)) from error
    path.chmod(mode)


def read_tensors(file: Path, *, is_checked: bool = True) -> dict[str, Tensor]:
    """The tensors of a safetensors file by their names in it, in the stored dtypes, on the CPU.

    They are views of the file, mapped into memory, and take none of the process's own until they are changed. Without
    `is_checked` their values are not read.

    Raises:
        UserError: the file cannot be read, or a tensor holds NaN or infinity.
    """
    try:
        with path_as_text(file) as place:
            tensors = load_file(place)
    except (SafetensorError, OSError, ValueError) as e:
        raise UserError(f"{file}: cannot be read ({in_one_line(e)})") from e
    for name, tensor in tensors.items() if is_checked else ():
        # Minimum and maximum show NaN and infinity, much faster than a test of every element.
        comparable = tensor if tensor.dtype in _COMPARABLE else tensor.float()
        if tensor.numel() and not all(map(math.isfinite, comparable.aminmax())):
            raise UserError(f"{file}: tensor {name!r} holds NaN or infinity; use another step or model")
    return tensors


def weight_files(directory: Path) -> list[Path]:
    """The files with the weights of a directory: model.safetensors, else those its index names, else its parts.

    Raises:
        UserError: the index cannot be read, or a file that it names is missing.
    """
    one, index = directory / WEIGHTS, directory / INDEX
    if one.is_file():
        return [one]
    if not index.is_file():
        return sorted(directory.glob("model-*.safetensors"))
    places = Fields(read_json(index), str(index)).object("weight_map")
    names = sorted({places.text(tensor) for tensor in places.keys()})  # noqa: SIM118
    for name in names:
        # os.path.isfile is False, not an error, for a name that no file can have.
        if Path(name).name != name or not os.path.isfile(directory / name):
            raise UserError(f"{index}: names the file {name[:80]!r}, which is missing; copy all files of the model")
    return [directory / name for name in names]


def stored_layers(files: Sequence[Path], n_layers: int, *, is_checked: bool = True) -> dict[str, Tensor]:
    """The tensors of a model's files by their Hugging Face names, as `read_tensors` returns them.

    Args:
        files: files of one model.
        n_layers: layers wanted; those after them are left out, and so are rotary tables.
        is_checked: whether to refuse values that are not finite.

    Raises:
        UserError: a file cannot be read, or a tensor holds NaN or infinity.
    """
    return {
        hf_name(name): tensor
        for file in files
        for name, tensor in read_tensors(file, is_checked=is_checked).items()
        if "rotary_emb" not in name and _layer_of(name) < n_layers
    }


def load_weights(directory: Path, model: Model) -> Weights:
    """The weights in a directory by the names of `model`'s parameters, as views of the files, of which none is read.

    Args:
        directory: directory of a whole model; layers after the last of `model` are left out.
        model: a `Transformer`, a `WithHead` or an `ActorCritic`, on any device; not changed.

    Raises:
        UserError: a file cannot be read, or tensors are missing, unknown or of another shape.
    """
    if isinstance(model, ActorCritic):
        parts = {"actor": load_weights(directory, model.actor), CRITIC: load_weights(directory / CRITIC, model.critic)}
        split = str.partition
        return Weights(
            lambda name: parts[split(name, ".")[0]].read(split(name, ".")[2]),
            lambda name: parts[split(name, ".")[0]].where(split(name, ".")[2]),
        )
    files = weight_files(directory)
    if not files:
        raise UserError(f"{directory}: holds no {WEIGHTS}")
    expected = model.state_dict()
    names = {hf_name(name): name for name in expected}
    if f"{SCORE}.weight" in names:
        files += [file for name in (VALUE_HEAD, AUXILIARY) if (file := directory / name).is_file()]
    state: dict[str, Tensor] = {}
    places: dict[str, str] = {}
    for file in files:
        for key, tensor in stored_layers([file], model.config.n_layers, is_checked=False).items():
            name = names.get(key, key.removeprefix(_PREFIX))
            state[name], places[name] = tensor, f"{file}: tensor {key!r}"
    output, embedding = names[f"{OUTPUT}.weight"], names[f"{_PREFIX}{EMBEDDING}.weight"]
    if not len(expected[output]):
        state[output] = torch.empty(expected[output].shape)
    elif model.config.tie_embeddings:
        state[output] = state.get(embedding, torch.empty(0))
    wrong = [n for n in expected if n not in state or state[n].shape != expected[n].shape]
    wrong += [n for n in state if n not in expected]
    if wrong:
        raise UserError(
            f"{files[0]}: tensor {wrong[0]!r} is missing, unknown or of another shape than config.json says"
        )
    return Weights(state.__getitem__, places.__getitem__)
