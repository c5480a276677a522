"""Tensors of a divided model in files, one file a rank, and read again on any number of ranks.

model.safetensors     -> model-00001-of-00004.safetensors, ...: whole tensors, each in one rank's file, and an index
optimizer.safetensors -> optimizer-00001-of-00004.safetensors, ...: of each tensor the part that the rank holds, whose
                         place is in the file's header

No rank holds more than its share of either, and one weight in addition. An undivided model has the single files.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from babyllm.errors import UserError, in_one_line
from babyllm.files import path_as_text
from babyllm.parallel.tensors import Place, is_divided, local, place_of, whole_tensor

_PLACES = "places"


def part_name(file: str, rank: int, n_ranks: int) -> str:
    """The name of a rank's file: model.safetensors -> model-00001-of-00004.safetensors."""
    return file.replace(".safetensors", f"-{rank + 1:05}-of-{n_ranks:05}.safetensors")


def owners(tensors: Mapping[str, Tensor], n_ranks: int) -> dict[str, int]:
    """The rank in whose file each whole tensor is: runs of tensors of about the same number of bytes."""
    total, before, found = sum(tensor.nbytes for tensor in tensors.values()), 0, {}
    for name, tensor in tensors.items():
        found[name] = min(n_ranks - 1, before * n_ranks // max(total, 1))
        before += tensor.nbytes
    return found


def index_of(file: str, tensors: Mapping[str, Tensor], n_ranks: int) -> dict[str, Any]:
    """The index beside the files of whole tensors, as Hugging Face libraries read it."""
    of_tensor = {name: part_name(file, rank, n_ranks) for name, rank in owners(tensors, n_ranks).items()}
    return {"metadata": {"total_size": sum(tensor.nbytes for tensor in tensors.values())}, "weight_map": of_tensor}


def owned(tensors: Mapping[str, Tensor], rank: int, n_ranks: int) -> dict[str, Tensor]:
    """The whole tensors of a rank's file, copied to the CPU; every rank must call it."""
    found = {}
    for name, owner in owners(tensors, n_ranks).items():
        all_of_it = whole_tensor(tensors[name])
        if owner == rank:
            found[name] = all_of_it.to("cpu", copy=True)
    return found


def held(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The parts of a rank's file, by name, and the metadata of the file, which has their places.

    Of several ranks with the same part the first one has it.
    """
    places = {name: place_of(tensor) for name, tensor in tensors.items()}
    mine = {name: place for name, place in places.items() if place.is_first_copy and all(place.shape)}
    where = {name: [list(tensors[name].shape), list(place.offset)] for name, place in mine.items()}
    return {name: local(tensors[name]) for name in mine}, {_PLACES: json.dumps(where)}


class Stored:
    """The tensors of a step's optimizer, in one file or in parts.

    Args:
        directory: directory of the step.
        file: name of the single file.

    Raises:
        UserError: a file is missing or cannot be read.
    """

    def __init__(self, directory: Path, file: str) -> None:
        one, self._directory = directory / file, directory
        paths = [one] if one.is_file() else sorted(directory.glob(file.replace(".safetensors", "-*-of-*.safetensors")))
        if not paths:
            raise UserError(f"{one}: is missing; delete {directory} to go on from an older step")
        self._parts: dict[str, list[tuple[Path, tuple[int, ...]]]] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._open: dict[Path, Any] = {}
        for path in paths:
            for name, shape, offset in self._contents(path):
                self._shapes[name] = shape
                self._parts.setdefault(name, []).append((path, offset))

    def _contents(self, path: Path) -> Iterator[tuple[str, tuple[int, ...], tuple[int, ...]]]:
        try:
            with path_as_text(path) as place:
                file: Any = safe_open(place, "pt")
            self._open[path] = file
            where = json.loads((file.metadata() or {}).get(_PLACES, "{}"))
            for name in file.keys():  # noqa: SIM118
                shape = tuple(file.get_slice(name).get_shape())
                whole, offset = where.get(name, (shape, [0] * len(shape)))
                yield name, tuple(whole), tuple(offset)
        except (SafetensorError, OSError, ValueError) as e:
            raise UserError(f"{path}: cannot be read ({in_one_line(e)})") from e

    @property
    def names(self) -> list[str]:
        """The names of the tensors."""
        return list(self._shapes)

    def read(self, name: str, place: Place) -> Tensor:
        """The part of a tensor at `place`, in memory of its own.

        Raises:
            UserError: parts of the tensor are missing.
        """
        shape = self._shapes[name]
        offset, size = place.offset, place.shape
        if not shape:  # a count, which every rank has
            count: Tensor = self._open[self._parts[name][0][0]].get_tensor(name)
            return count.clone()
        found: Tensor | None = None
        n_read = 0
        for path, begin in self._parts[name]:
            stored = self._open[path].get_slice(name)
            overlaps = [
                (max(at, first), min(at + n, first + n_stored))
                for at, n, first, n_stored in zip(offset, size, begin, stored.get_shape(), strict=True)
            ]
            if any(low >= high for low, high in overlaps):
                continue
            piece = stored[tuple(slice(lo - b, hi - b) for (lo, hi), b in zip(overlaps, begin, strict=True))]
            found = piece.new_empty(size) if found is None else found
            found[tuple(slice(lo - o, hi - o) for (lo, hi), o in zip(overlaps, offset, strict=True))] = piece
            n_read += piece.numel()
        if found is None:
            return torch.empty(size)
        if n_read != found.numel():
            raise UserError(f"{self._directory}: parts of {name} are missing; delete it to go on from an older step")
        return found


def has_parts(tensors: Mapping[str, Tensor]) -> bool:
    """Whether any of the tensors is divided."""
    return any(is_divided(tensor) for tensor in tensors.values())
