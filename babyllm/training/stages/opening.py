"""What all stages after pretraining begin and end alike: the model's directory opened, and the state at step 0.

init_from, or the newest step of the run -> open_stage -> Opening -> (the stage: model, data) -> new_state -> TrainState
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from babyllm.chat.load import ChatTemplate, load_template
from babyllm.data.batch import Stream
from babyllm.data.chat_config import ChatConfig
from babyllm.errors import UserError
from babyllm.interop.huggingface import generation_ends
from babyllm.loading import model_directory, tokenizer_directory
from babyllm.model.interface import Model
from babyllm.optim.average import make_average
from babyllm.optim.build import make_optimizer
from babyllm.run_directory import latest
from babyllm.runtime import Runtime
from babyllm.tokenizer import Tokenizer
from babyllm.training.adapted_config import AdaptedRunConfig
from babyllm.training.state import TrainState


class Opening(NamedTuple):
    """What a stage that starts from a trained model knows before it reads the weights.

    Attributes:
        directory: directory of the model or adapter that the stage, or its resumed run, begins with.
        is_resumed: whether `directory` is a step of this run.
        tokenizer: tokenizer of that directory.
        template: chat template that renders the data, saved with every step.
        end_ids: ids that end an answer: the template's and those of the model that the run begins with.
    """

    directory: Path
    is_resumed: bool
    tokenizer: Tokenizer
    template: ChatTemplate
    end_ids: Sequence[int]


def open_stage(config: AdaptedRunConfig, data: ChatConfig, before: str = "babyllm pretrain") -> Opening:
    """The directory that a run begins with, its tokenizer and its template.

    Args:
        config: configuration of the stage.
        data: its section `data`.
        before: command of the stage before, for the message when there is no model.

    Raises:
        UserError: there is no model to begin with, or the template is not valid.
    """
    newest = latest(Path(config.run_dir))
    directory = newest or _beginning(config, before)
    files = tokenizer_directory(directory)
    tokenizer = Tokenizer.load(files)
    template = load_template(
        data.template, tokenizer, files, data.efficient_eos, data.default_system, data.format.allow_special
    )
    end_ids = list(dict.fromkeys([*template.end_ids, *generation_ends(files)]))
    return Opening(directory, newest is not None, tokenizer, template, end_ids)


def _beginning(config: AdaptedRunConfig, before: str) -> Path:
    """The directory of the model or adapter that a new run begins with."""
    try:
        return model_directory(config.init_from)
    except UserError as e:
        raise UserError(f"--init_from: {e}; train a model first ({before}), or name another one") from e


def new_state(config: AdaptedRunConfig, model: Model, stream: Stream, runtime: Runtime, source: str) -> TrainState:
    """The state at step 0 of a prepared model.

    Args:
        config: configuration of the stage.
        model: model on its device (`parallel.prepare`).
        stream: source of its batches.
        runtime: runtime of the run.
        source: origin of the weights, in words, for the headline.

    Raises:
        UserError: a setting of the optimizer is out of range.
    """
    optimizer = make_optimizer(model, config.optim, config.parallel.offload)
    average = make_average(model, config.optim)
    return TrainState(model, optimizer, runtime.scaler(), stream, runtime, origin=source, average=average)
