"""Models in directories, evaluated one after another on the same items.

directories, or all steps of a run -> load -> Evaluator -> each task -> ModelResults
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from babyllm.errors import UserError
from babyllm.evaluate.tasks.evaluation import Evaluator, evaluate_task
from babyllm.evaluate.tasks.items import TaskItems
from babyllm.evaluate.tasks.responses import weights_hash
from babyllm.evaluate.tasks.task_options import TaskOptions
from babyllm.evaluate.tasks.task_report import ModelResults
from babyllm.loading import load, load_chat_model
from babyllm.run_directory import step_directories
from babyllm.runtime import Runtime


class NamedModel(NamedTuple):
    """A model to evaluate.

    Attributes:
        name: name in tables.
        key: name in values: the directory as it was given, or the step.
        directory: run, step, Hugging Face or adapter directory.
    """

    name: str
    key: str
    directory: str


def named_models(directories: Sequence[str], *, all_steps: bool) -> list[NamedModel]:
    """The models in directories, without what all paths begin with; with `all_steps` all steps, the oldest first.

    Raises:
        UserError: a directory is given twice, or has no steps.
    """
    if len(set(directories)) < len(directories):
        raise UserError("RUN_DIR: a model is given twice; name each once")
    if not all_steps:
        names = _short([os.path.normpath(directory) for directory in directories])
        return [NamedModel(*pair, pair[1]) for pair in zip(names, directories, strict=True)]
    found = []
    for directory in directories:
        steps = step_directories(Path(directory))
        if not steps:
            raise UserError(f"{directory}: has no steps for --all_steps; give a run directory")
        prefix = f"{directory} " if len(directories) > 1 else ""
        found += [NamedModel(f"{prefix}step {n}", f"{prefix}step {n}", str(path)) for n, path in steps.items()]
    return found


def evaluate_models(
    models: Sequence[NamedModel],
    found: Sequence[TaskItems],
    options: TaskOptions,
    runtime: Runtime,
    *,
    int8: bool = False,
    cache: Path | None = None,
) -> Iterator[ModelResults]:
    """The results of each model, which is in memory only meanwhile; every rank must call it.

    Args:
        models: models to evaluate.
        found: items of each task.
        options: settings.
        runtime: device and ranks.
        int8: whether to store the matrices in 8 bits.
        cache: folder for responses; None stores nothing.

    Raises:
        UserError: a model cannot be loaded, or cannot be asked.
        KeyboardInterrupt: a stop signal arrived.
    """
    for model in models:
        evaluator = _evaluator(model.directory, options, runtime, int8, cache)
        evaluated = [evaluate_task(evaluator, each, options) for each in found]
        del evaluator  # before the next model is read
        yield ModelResults(model.name, model.key, evaluated)


def _short(paths: Sequence[str]) -> list[str]:
    """Paths without the folders that all of them begin with."""
    parts = [Path(path).parts for path in paths]
    n = next((i for i, names in enumerate(zip(*parts, strict=False)) if len(set(names)) > 1), 0)
    is_apart = len(paths) > 1 and all(len(each) > n for each in parts)
    return [Path(*each[n:]).as_posix() for each in parts] if is_apart else list(paths)


def _evaluator(directory: str, options: TaskOptions, runtime: Runtime, int8: bool, cache: Path | None) -> Evaluator:
    if options.chat:
        chat = load_chat_model(directory, int8=int8)
        chat.require_template_tokens(directory)
        model, tokenizer, template = chat.model, chat.template.tokenizer, chat.template
    else:
        (model, tokenizer), template = load(directory, int8=int8), None
    digest = weights_hash(model) if cache and runtime.is_main else ""
    return Evaluator(model.to(runtime.device), tokenizer, template, runtime, cache, digest)
