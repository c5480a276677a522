"""The model that a pretraining run begins with: drawn at random, or read from a directory."""

from __future__ import annotations

from pathlib import Path

from babyllm.data.difficulty.token_places import NAMES, OTHER
from babyllm.data.token_data import PretrainingData
from babyllm.errors import UserError
from babyllm.interop.huggingface import load_model
from babyllm.loading import model_directory
from babyllm.model.config import ModelConfig, parameter_counts, require_context
from babyllm.model.heads import WithAuxiliary
from babyllm.model.interface import Model
from babyllm.model.transformer import Transformer
from babyllm.run_directory import latest
from babyllm.runtime import seed_all
from babyllm.runtime.machine import physical_memory
from babyllm.tokenizer import Tokenizer
from babyllm.training.stages.pretraining_config import PretrainConfig


def _require_memory(shape: ModelConfig) -> None:
    """Refuse a model larger than the machine's memory, before it is made."""
    n_parameters, memory = sum(parameter_counts(shape).values()), physical_memory()
    if memory and 4 * n_parameters > memory:
        raise UserError(
            f"model: {n_parameters:,} parameters take {4 * n_parameters / 1e9:,.0f} GB, this machine has "
            f"{memory / 1e9:,.0f} GB; choose a smaller model.preset, or less of model.n_layers and model.d_model"
        )


def model_of(config: PretrainConfig, data: PretrainingData) -> Model:
    """The model of a run at step 0; for a run with `init_from` that has a saved step, the model of its newest step.

    Where the data have classes it has a new auxiliary head, drawn apart, so that the model itself is the same.

    Raises:
        UserError: the model does not fit the data or the machine.
    """
    model = _without_head(config, data)
    if data.classes is None:
        return model
    seed_all(config.plan.seed, *b"pos")
    return WithAuxiliary(model, (*NAMES, OTHER))


def _without_head(config: PretrainConfig, data: PretrainingData) -> Transformer:
    vocab_size = data.tokens.manifest.vocab_size
    if config.init_from is None:
        seed_all(config.plan.seed)
        shape = config.model.build(vocab_size, config.data.longest_seq_len)
        _require_memory(shape)
        return Transformer(shape)
    directory = latest(Path(config.run_dir)) or model_directory(config.init_from)
    model = load_model(directory, config.model)
    require_context(model.config, config.data.longest_seq_len, directory)
    if model.config.vocab_size < vocab_size:
        raise UserError(
            f"--init_from={config.init_from}: its vocabulary of {model.config.vocab_size} ids does not match the "
            f"{vocab_size} of {config.data.path}; tokenise the data with {directory}'s tokenizer"
        )
    if data.tokenizer and Path(directory, "tokenizer.json").is_file():
        theirs = Tokenizer.load(directory)
        if theirs.sha256 != data.tokenizer.sha256:
            raise UserError(
                f"--init_from={config.init_from}: its tokenizer is not the one {config.data.path} was made with; "
                f"tokenise the data with {directory}'s tokenizer"
            )
    return model
