"""Evaluation on tasks during a run: the same as `babyllm eval --tasks`, in the dtype of the training.

evaluate.tasks -> items, read once -> at each evaluation: results by name, on all ranks
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from babyllm.errors import UserError
from babyllm.evaluate.tasks.task_options import TaskOptions
from babyllm.model.heads import transformer_of
from babyllm.runtime.precision import reads_in
from babyllm.tokenizer import Tokenizer
from babyllm.training.state import TrainState

if TYPE_CHECKING:
    from babyllm.training.run import Measure


def on_tasks(
    options: TaskOptions, tokenizer: Tokenizer | None, chat_template: str | None, parts: Collection[str]
) -> tuple[Measure, list[str]]:
    """A function that evaluates a run's model on tasks, and the names of its results.

    Args:
        options: tasks and how they are asked.
        tokenizer: tokenizer of the run.
        chat_template: Jinja text of the run's chat template; None for a model that does not chat.
        parts: names of the parts of the held-out data, which no task may have.

    Raises:
        UserError: a task or its data are missing or malformed, the run has no tokenizer or template, or a task has the
            name of a part.
    """
    # A run without tasks loads none of this.
    from babyllm.chat.load import ChatTemplate
    from babyllm.evaluate.tasks.evaluation import Evaluator, as_values, evaluate_task, find_items
    from babyllm.evaluate.tasks.item_scores import metric_names

    if tokenizer is None:
        raise UserError("--evaluate.tasks: the token data have no tokenizer beside them, which tasks need")
    if options.chat and chat_template is None:
        raise UserError("--evaluate.chat: this run has no chat template; leave it out")
    template = ChatTemplate(chat_template, tokenizer) if options.chat and chat_template else None
    found = [find_items(name, options) for name in options.names]
    _require_own_names([each.task.name for each in found], parts)

    def measure(state: TrainState) -> dict[str, float]:
        values: dict[str, float] = {}
        with reads_in(state.runtime.device, state.runtime.dtype):  # as the run trains
            evaluator = Evaluator(transformer_of(state.model), tokenizer, template, state.runtime, is_quiet=True)
            for each in found:
                try:
                    values |= as_values(evaluate_task(evaluator, each, options))
                except KeyboardInterrupt:  # a stop signal, which the caller heeds
                    return {}
        return values

    names = [f"{each.task.name}/{metric}" for each in found for metric in metric_names(each.task)]
    return measure, names


def _require_own_names(tasks: Sequence[str], parts: Collection[str]) -> None:
    taken = {*parts, "all", "plain"}
    if twice := next((name for name in tasks if name in taken or tasks.count(name) > 1), None):
        raise UserError(
            f"--evaluate.tasks: {twice} is also the name of a part of the held-out data or of another task; give the "
            "task another 'name'"
        )
