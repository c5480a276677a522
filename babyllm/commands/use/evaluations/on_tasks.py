"""`babyllm eval --tasks`: results of models on the same items of each task."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from babyllm.commands.use.evaluations.flags import Flags
from babyllm.evaluate.report import Evaluation
from babyllm.evaluate.tasks.evaluated_models import evaluate_models, named_models
from babyllm.evaluate.tasks.evaluation import find_items
from babyllm.evaluate.tasks.task_report import task_evaluation
from babyllm.evaluate.tasks.training_texts import nearest, overlaps
from babyllm.pipeline.report import Fact
from babyllm.runtime import Runtime
from babyllm.runtime.measured import cache_directory


def on_tasks(flags: Flags, directories: Sequence[str], runtime: Runtime) -> Evaluation:
    """Results of all models on the same items of each task."""
    models = named_models(directories, all_steps=flags.all_steps)
    found = [find_items(name, flags) for name in flags.names]
    corpus = [Path(path) for path in ([flags.corpus] if isinstance(flags.corpus, str) else flags.corpus)]
    with runtime.main_first():
        shared = overlaps([each.items for each in found], corpus) if corpus and runtime.is_main else []
    cache = None if flags.cache is None else Path(flags.cache or cache_directory() / "eval")
    results = list(evaluate_models(models, found, flags, runtime, int8=flags.int8, cache=cache))
    facts: list[Fact] = [(model.name, model.directory) for model in models if model.name != model.directory]
    facts += [("model", models[0].directory)] if len(models) == 1 else []
    facts += [(each.task.name, each.task.about) for each in found]
    return task_evaluation(
        results,
        facts,
        is_curve=flags.all_steps,
        groups=flags.groups,
        cases=flags.cases,
        overlaps=shared,
        neighbours=(lambda items: nearest(items, corpus)) if corpus and runtime.is_main else None,
    )
