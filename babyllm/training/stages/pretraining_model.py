"""The model that a pretraining run begins with: drawn at random, or read from a directory."""

from __future__ import annotations

from pathlib import Path

import torch

from babyllm.data.difficulty.token_places import NAMES, OTHER
from babyllm.data.token_data import PretrainingData
from babyllm.errors import UserError
from babyllm.interop.huggingface import read_shape, unread_model
from babyllm.loading import model_directory
from babyllm.model.config import ModelConfig, parameter_counts, require_context
from babyllm.model.heads import WithAuxiliary
from babyllm.model.interface import Model
from babyllm.model.transformer import Transformer
from babyllm.parallel.distribute import divides, prepare
from babyllm.parallel.filling import draw, fill, fill_head
from babyllm.run_directory import latest
from babyllm.runtime import Runtime, seed_all
from babyllm.runtime.machine import physical_memory
from babyllm.tokenizer import Tokenizer
from babyllm.training.stages.pretraining_config import PretrainConfig


def _require_memory(shape: ModelConfig, share: float) -> None:
    """Refuse a model of which this machine's share is larger than its memory, before it is made."""
    n_parameters, memory = sum(parameter_counts(shape).values()), physical_memory()
    if memory and 4 * n_parameters * share > memory:
        raise UserError(
            f"model: {n_parameters:,} parameters take {4 * n_parameters / 1e9:,.0f} GB, this machine has "
            f"{memory / 1e9:,.0f} GB; choose a smaller model.preset, or less of model.n_layers and model.d_model"
        )


def prepared_model(config: PretrainConfig, data: PretrainingData, runtime: Runtime) -> Model:
    """The model of a run at step 0, prepared; for a run with `init_from` and a saved step, that of its newest step.

    Where the data have classes it has a new auxiliary head, drawn apart, so that the model itself is the same. A model
    that is divided is never in memory as a whole.

    Raises:
        UserError: the model does not fit the data or the machine.
    """
    is_divided = divides(config.parallel, runtime)
    shape, directory = _shape(config, data, runtime.local_world_size / runtime.world_size if is_divided else 1.0)
    unread = unread_model(directory, config.model) if directory else None
    with torch.device("meta"):
        model = unread.model if unread else Transformer(shape)
        whole = model if data.classes is None else WithAuxiliary(model, (*NAMES, OTHER))
    prepared = prepare(whole, runtime, config.parallel)
    seed_all(config.plan.seed)
    if unread:
        fill(model, unread.weights, runtime.device)
    else:
        draw(model, runtime.device)
    if isinstance(whole, WithAuxiliary):
        seed_all(config.plan.seed, *b"pos")
        fill_head(whole, runtime.device)
    return prepared


def _shape(config: PretrainConfig, data: PretrainingData, share: float) -> tuple[ModelConfig, Path | None]:
    """The shape of the model, and the directory to read it from; None to draw it."""
    vocab_size = data.tokens.manifest.vocab_size
    if config.init_from is None:
        shape = config.model.build(vocab_size, config.data.longest_seq_len)
        _require_memory(shape, share)
        return shape, None
    directory = latest(Path(config.run_dir)) or model_directory(config.init_from)
    shape = read_shape(directory, config.model)
    require_context(shape, config.data.longest_seq_len, directory)
    if shape.vocab_size < vocab_size:
        raise UserError(
            f"--init_from={config.init_from}: its vocabulary of {shape.vocab_size} ids does not match the "
            f"{vocab_size} of {config.data.path}; tokenise the data with {directory}'s tokenizer"
        )
    if data.tokenizer and Path(directory, "tokenizer.json").is_file():
        theirs = Tokenizer.load(directory)
        if theirs.sha256 != data.tokenizer.sha256:
            raise UserError(
                f"--init_from={config.init_from}: its tokenizer is not the one {config.data.path} was made with; "
                f"tokenise the data with {directory}'s tokenizer"
            )
    return shape, directory
