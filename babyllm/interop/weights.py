"""The tensors of Hugging Face directories: their names, and safetensors files, read and written.

Transformer, WithHead <-> Hugging Face names <-> model.safetensors in one file or several, value_head.safetensors
"""

from __future__ import annotations

import json
import math
import os
import re
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from babyllm.config.json_fields import Fields, read_json
from babyllm.errors import UserError, in_one_line
from babyllm.files import path_as_text
from babyllm.integrity import AUXILIARY, INDEX
from babyllm.interop.headers import tensor_headers
from babyllm.model.config import ModelConfig
from babyllm.model.heads import CRITIC, SCORE, ActorCritic
from babyllm.model.interface import Model
from babyllm.model.transformer import EMBEDDING, OUTPUT
from babyllm.parallel.filling import Weights

Dtype = Literal["float32", "bfloat16", "float16"]
_CODES: dict[Dtype, str] = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
_DTYPES = {code: dtype for dtype, code in _CODES.items()}
WEIGHTS = "model.safetensors"
VALUE_HEAD = "value_head.safetensors"
LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")
_PREFIX = "model."
_COMPARABLE = (torch.float32, torch.float16, torch.bfloat16)
_OS_ERROR = re.compile(r"os error (\d+)")


class Stored(NamedTuple):
    """A tensor in a file.

    Attributes:
        file: the file.
        name: name of the tensor in the file.
        shape: shape of the tensor.
        dtype: type of its values; float32 for what is read as such.
    """

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: Dtype


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


class Source(NamedTuple):
    """A tensor to write, whose values are read when it is its turn.

    Attributes:
        name: name in the file.
        shape: shape.
        read: function that returns the values, on the CPU.
        dtype: type of the values in the file.
    """

    name: str
    shape: tuple[int, ...]
    read: Callable[[], Tensor]
    dtype: Dtype

    @property
    def n_bytes(self) -> int:
        """Size of the values in the file."""
        kind: torch.dtype = getattr(torch, self.dtype)
        return math.prod(self.shape) * kind.itemsize


def write_tensors(path: Path, sources: Iterable[Source]) -> None:
    """Write a safetensors file; one tensor at a time is in memory.

    Args:
        path: file to write.
        sources: tensors in their order in the file.

    Raises:
        UserError: a value is too large for its type.
        OSError: the file cannot be written.
    """
    sources = list(sources)
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for source in sources:
        start, end = end, end + source.n_bytes
        kind = _CODES[source.dtype]
        header[source.name] = {"dtype": kind, "shape": list(source.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for source in sources:
            values = source.read().to(getattr(torch, source.dtype)).contiguous()
            if not all(map(math.isfinite, values.aminmax())):
                raise UserError(
                    f"tensor {source.name!r} holds a value that is too large for {source.dtype}; choose --dtype=float32"
                )
            file.write(values.reshape(-1).view(torch.uint8).numpy().data)


def read_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file by their names in it, in the stored dtypes, on the CPU.

    They are views of the file, mapped into memory, and take none of the process's own until they are changed.

    Raises:
        UserError: the file cannot be read, or a tensor holds NaN or infinity.
    """
    try:
        with path_as_text(file) as place:
            tensors = load_file(place)
    except (SafetensorError, OSError, ValueError) as e:
        raise UserError(f"{file}: cannot be read ({in_one_line(e)})") from e
    for name, tensor in tensors.items():
        # Minimum and maximum show NaN and infinity, much faster than a test of every element.
        comparable = tensor if tensor.dtype in _COMPARABLE else tensor.float()
        if tensor.numel() and not all(map(math.isfinite, comparable.aminmax())):
            raise UserError(f"{file}: tensor {name!r} holds NaN or infinity; use another step or model")
    return tensors


def read_tensor(file: Path, name: str) -> Tensor:
    """One tensor of a safetensors file, a view of the file, which is mapped into memory while the tensor lives.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        with path_as_text(file) as place, safe_open(place, "pt") as opened:
            tensor: Tensor = opened.get_tensor(name)
            return tensor
    except (SafetensorError, OSError) as e:
        raise UserError(f"{file}: cannot be read ({in_one_line(e)})") from e


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


def stored_layers(files: Sequence[Path], n_layers: int) -> dict[str, Stored]:
    """The tensors of a model's files by their Hugging Face names; only the headers are read.

    Args:
        files: files of one model.
        n_layers: layers wanted; those after them are left out, and so are rotary tables.

    Raises:
        UserError: a file cannot be read.
    """
    return {
        hf_name(name): Stored(file, name, tuple(header.shape), _DTYPES.get(header.dtype, "float32"))
        for file in files
        for name, header in tensor_headers(file).items()
        if "rotary_emb" not in name and _layer_of(name) < n_layers
    }


def load_weights(directory: Path, model: Model) -> Weights:
    """The weights in a directory by the names of `model`'s parameters; only the headers of the files are read.

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
    stored = stored_layers(files, model.config.n_layers)
    state = {names.get(name, name.removeprefix(_PREFIX)): tensor for name, tensor in stored.items()}
    output, embedding = names[f"{OUTPUT}.weight"], names[f"{_PREFIX}{EMBEDDING}.weight"]
    if model.config.tie_embeddings and embedding in state:
        state[output] = state[embedding]
    has_values = {name for name, tensor in expected.items() if tensor.numel()}
    wrong = [n for n in expected if n in has_values and (n not in state or state[n].shape != expected[n].shape)]
    wrong += [n for n in state if n not in has_values and n != output]
    if wrong:
        raise UserError(
            f"{files[0]}: tensor {wrong[0]!r} is missing, unknown or of another shape than config.json says"
        )
    return Weights(
        lambda name: read_tensor(state[name].file, state[name].name),
        lambda name: f"{state[name].file}: tensor {state[name].name!r}",
    )
