"""Hugging Face directories read one tensor at a time.

config.json, model.safetensors in one file or several, tokenizer files -> OpenModel
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from babyllm.chat.load import stored_template
from babyllm.errors import UserError, in_one_line
from babyllm.files import path_as_text
from babyllm.interop.headers import tensor_shapes
from babyllm.interop.huggingface import generation_ends, read_shape
from babyllm.interop.open_model import OpenModel, shapes
from babyllm.interop.weights import WEIGHTS, hf_name, weight_files
from babyllm.tokenizer import Tokenizer


def open_directory(directory: Path) -> OpenModel:
    """The language model in a Hugging Face directory, of which no weight is read yet.

    Raises:
        UserError: a file is missing, damaged or does not fit, or the directory holds an adapter, a reward model or a
            classifier.
    """
    config, files = read_shape(directory), weight_files(directory)
    if not files:
        raise UserError(f"{directory}: holds no {WEIGHTS}")
    places = {name: file for file in files for name in tensor_shapes([file])}
    wanted = shapes(config)
    return OpenModel(
        directory,
        config,
        partial(_parameter, directory, places, wanted),
        Tokenizer.load(directory),
        stored_template(directory),
        tuple(generation_ends(directory)),
    )


def _parameter(directory: Path, places: Mapping[str, Path], shapes: Mapping[str, tuple[int, ...]], name: str) -> Tensor:
    key = hf_name(name)
    if key not in places:
        raise UserError(f"{directory}: lacks the tensor {key!r}")
    file = places[key]
    try:
        with path_as_text(file) as text, safe_open(text, "pt") as opened:
            tensor: Tensor = opened.get_tensor(key)
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file}: cannot be read ({in_one_line(error)})") from error
    if tuple(tensor.shape) != shapes[name] or not tensor.is_floating_point():
        raise UserError(f"{file}: tensor {key!r} has another shape or type than config.json asks for")
    if not all(map(math.isfinite, tensor.aminmax())):
        raise UserError(f"{file}: tensor {key!r} holds NaN or infinity; use another step or model")
    return tensor
