"""The evaluation of a model on a task, from its items to its results; the same for commands, notebooks and training.

TaskItems -> questions -> units -> responses (stored, shared among ranks) -> Scored items -> Evaluated
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from babyllm.chat.load import ChatTemplate
from babyllm.evaluate.conversations.samples import draw_evenly
from babyllm.evaluate.tasks.item_scores import Result, Scored, best_metric, generated_scores, option_scores, results
from babyllm.evaluate.tasks.items import Item, TaskItems, read_items
from babyllm.evaluate.tasks.option_nats import OptionReader, Unit, units
from babyllm.evaluate.tasks.prompts import Prompter, Question, questions_hash
from babyllm.evaluate.tasks.responses import Response, ResponseFile, responses_to
from babyllm.evaluate.tasks.task import BUILT_IN, Task, load_task
from babyllm.evaluate.tasks.task_options import TaskOptions
from babyllm.generation import Sampling, answers
from babyllm.model.transformer import Transformer
from babyllm.runtime import Runtime
from babyllm.runtime.precision import dtype_name, reads_in
from babyllm.tokenizer import Tokenizer

GENERATED_TOGETHER = 16
"""Number of answers that are generated together."""


class Incomplete(KeyboardInterrupt):
    """A stop signal arrived before all responses were there, on one of the ranks; every rank raises it."""


class Evaluated(NamedTuple):
    """The evaluation of a model on a task.

    Attributes:
        task: the task, with the settings that were in force.
        scored: scores of each item.
        results: results by metric.
        n_few: number of items that were asked with fewer examples than the task has, because they did not fit.
        n_cut: number of items whose prompt did not fit without examples either, and lost its beginning.
    """

    task: Task
    scored: list[Scored]
    results: list[Result]
    n_few: int
    n_cut: int

    @property
    def best(self) -> Result:
        """The result of the metric that stands for the task."""
        name = best_metric(self.task, [result.metric for result in self.results])
        return next(result for result in self.results if result.metric == name)


class Evaluator(NamedTuple):
    """A model and what it is asked with.

    Attributes:
        model: model to evaluate, on the device of the runtime; it runs as in evaluation mode.
        tokenizer: tokenizer of the model.
        template: chat template through which the model is asked; None asks in plain text.
        runtime: device and ranks.
        cache: folder for responses; None stores nothing.
        weights_sha256: hash of the weights (`weights_hash`), which tells stored responses apart.
        end_ids: ids of tokens that end an answer, in addition to the model's (`Transformer.end_ids`).
        is_quiet: whether to show no progress.
    """

    model: Transformer
    tokenizer: Tokenizer
    template: ChatTemplate | None
    runtime: Runtime
    cache: Path | None = None
    weights_sha256: str = ""
    end_ids: Collection[int] = ()
    is_quiet: bool = False


def find_items(name: str, options: TaskOptions) -> TaskItems:
    """The items of a task under the settings of an evaluation.

    Args:
        name: name or file of the task.
        options: settings.

    Raises:
        UserError: the task or its data are missing or malformed; the message names file and line.
    """
    task = load_task(name)
    folder = Path(options.task_dir, task.name) if (BUILT_IN / f"{name}.yaml").is_file() else Path(name).parent
    if options.shots is not None:
        task = replace(task, shots=options.shots)
    if options.delimiter is not None:
        task = replace(task, delimiter=options.delimiter)
    found = read_items(task, folder)
    return found._replace(items=_drawn(found.items, options))


def _drawn(items: list[Item], options: TaskOptions) -> list[Item]:
    if options.limit is None or options.limit >= len(items):
        return items
    by_group: dict[str, list[int]] = {}
    for number, item in enumerate(items):
        by_group.setdefault(item.group, []).append(number)
    if len(by_group) == len(items):
        by_group = {"": list(range(len(items)))}
    drawn = draw_evenly({group: len(mine) for group, mine in by_group.items()}, options.limit, options.seed)
    return [items[i] for i in sorted(by_group[group][j] for group, indices in drawn.items() for j in indices)]


def evaluate_task(evaluator: Evaluator, found: TaskItems, options: TaskOptions) -> Evaluated:
    """The evaluation of a model on the items of a task; every rank must call it.

    After a stop signal the responses are incomplete, and the call ends with `Incomplete`; those that were stored
    are not computed again.

    Args:
        evaluator: model and how it is asked.
        found: items of the task, the same on every rank.
        options: settings.

    Raises:
        UserError: an item does not fit into the model's context, or the cache cannot be written.
        Incomplete: a stop signal arrived on one of the ranks.
    """
    prompter = Prompter(found, evaluator.tokenizer, evaluator.model.config.max_seq_len, evaluator.template)
    questions = {item.id: list(prompter.questions(item, permute=options.permute)) for item in found.items}
    responses = _responses(evaluator, found, [each for mine in questions.values() for each in mine], options)
    scored = [_scored(found.task, item, questions[item.id], responses) for item in found.items]
    wanted = {item.id: len(found.examples_for(item)) for item in found.items} if found.task.shots else {}
    few = sum(any(q.n_examples < n and not q.key.endswith("|bare") for q in questions[i]) for i, n in wanted.items())
    n_cut = sum(any(question.n_cut for question in mine) for mine in questions.values())
    return Evaluated(found.task, scored, results(found.task, scored), few, n_cut)


def _responses(
    evaluator: Evaluator, found: TaskItems, questions: Sequence[Question], options: TaskOptions
) -> dict[str, Response]:
    task, runtime = found.task, evaluator.runtime
    stored = _file(evaluator, evaluator.cache, found, questions) if evaluator.cache and runtime.is_main else None
    if task.kind == "generated":
        planned = [tuple(questions[i : i + GENERATED_TOGETHER]) for i in range(0, len(questions), GENERATED_TOGETHER)]
        sampling = Sampling(max_new_tokens=task.max_new_tokens, temperature=0, stop=tuple(task.stop))

        def answer(unit: Unit) -> list[Response]:
            asked = [(question.contexts[0], sampling) for question in unit]
            with reads_in(runtime.device, runtime.reading_dtype):
                made = answers(evaluator.model, evaluator.tokenizer, asked, evaluator.end_ids)
            return [[float(byte) for byte in each.text.encode()] for each in made]
    else:
        planned = units(questions)
        answer = OptionReader(evaluator.model, planned, runtime).nats
    title = "" if evaluator.is_quiet else f"{task.name}: questions"
    made = responses_to(planned, answer, runtime, batch_size=options.batch_size, stored=stored, title=title)
    if any(question.key not in made for question in questions):
        raise Incomplete
    return made


def _file(evaluator: Evaluator, cache: Path, found: TaskItems, questions: Sequence[Question]) -> ResponseFile:
    """The file of the responses of this model to these questions, of which each id counts."""
    description = {
        "task": found.task.name,
        "task_sha256": found.sha256,
        "questions_sha256": questions_hash(questions),
        "weights_sha256": evaluator.weights_sha256,
        "tokenizer_sha256": evaluator.tokenizer.sha256,
        "end_ids": sorted(evaluator.end_ids),
        "device": evaluator.runtime.device.type,
        "dtype": dtype_name(evaluator.runtime.reading_dtype),
    }
    return ResponseFile.of(cache, description)


def _scored(task: Task, item: Item, questions: Sequence[Question], responses: Mapping[str, Response]) -> Scored:
    if task.kind == "generated":
        text = bytes(int(byte) for byte in responses[questions[0].key]).decode()
        return generated_scores(task, item, text)
    return option_scores(task, item, questions, responses)


def as_values(evaluated: Evaluated) -> dict[str, float]:
    """The results by name, the best metric first: "<task>/<metric>" and its standard error, with "_stderr" after it."""
    values: dict[str, float] = {}
    for result in (evaluated.best, *evaluated.results):
        name = f"{evaluated.task.name}/{result.metric}"
        values |= {name: result.estimate.value, f"{name}_stderr": result.estimate.error}
    return values
