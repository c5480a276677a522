"""What a head for parts of speech learns in pretraining: the classes of tokens, and the loss of model and head.

tokenizer -> class of each id, stored in the run directory -> data with classes -> loss of next tokens and their classes
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from babyllm.data.difficulty.stored_numbers import computed_once
from babyllm.data.difficulty.token_places import token_classes
from babyllm.data.token_data import PretrainingData
from babyllm.errors import UserError
from babyllm.integrity import AUXILIARY
from babyllm.objectives import Loss
from babyllm.objectives.lm import language_model
from babyllm.objectives.pos_loss import next_token_and_class
from babyllm.objectives.token_groups import Groups
from babyllm.run_directory import latest
from babyllm.runtime import Runtime
from babyllm.training.stages.pretraining_config import PretrainConfig

FILE = "token_classes.npy"  # in the run directory
VERSION = 1  # of the classes: a change of their rules makes stored ones void


def with_classes(data: PretrainingData, config: PretrainConfig, runtime: Runtime) -> PretrainingData:
    """The same data, for a run with the head with the part of speech of each id; every rank must call it.

    Raises:
        UserError: there is no tokenizer, jieba is not installed, or the run was begun without the head.
    """
    if not config.aux.pos_weight:
        return data
    flag, run_dir = f"aux.pos_weight={config.aux.pos_weight:g}", Path(config.run_dir)
    newest = latest(run_dir)
    if newest and not (newest / AUXILIARY).is_file():
        raise UserError(f"{flag}: {newest} was saved without the head; set it to 0, or choose another --run_dir")
    tokenizer, vocab_size = data.tokenizer, data.tokens.manifest.vocab_size
    if tokenizer is None:
        raise UserError(f"{flag}: needs the tokenizer of the data, which does not lie beside it; leave it out")
    made_of = [VERSION, tokenizer.sha256, vocab_size]
    classes = computed_once(run_dir, FILE, made_of, lambda: token_classes(tokenizer, vocab_size, flag), runtime)
    return replace(data, classes=classes)


def loss_of(config: PretrainConfig, data: PretrainingData, groups: Groups, runtime: Runtime) -> Loss:
    """The loss of next tokens, and where the data have classes that of the head, on the device of the run."""
    if data.classes is None:
        return partial(language_model, groups=groups)
    table = torch.from_numpy(data.classes).to(runtime.device)
    return partial(next_token_and_class, classes=table, weight=config.aux.pos_weight, groups=groups)
