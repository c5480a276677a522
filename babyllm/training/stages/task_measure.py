"""Evaluation on tasks during a run: the same as `babyllm eval --tasks`, in the dtype of the training.

evaluate.tasks -> items, read once -> asked at each evaluation -> results by name, the same on every rank
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from babyllm.chat.load import ChatTemplate
from babyllm.errors import UserError
from babyllm.evaluate.tasks.evaluation import Evaluator, Incomplete, as_values, evaluate_task
from babyllm.evaluate.tasks.item_scores import metric_names
from babyllm.evaluate.tasks.items import TaskItems
from babyllm.evaluate.tasks.task_options import TaskOptions
from babyllm.model.heads import transformer_of
from babyllm.runtime.precision import reads_in
from babyllm.tokenizer import Tokenizer
from babyllm.training.state import TrainState

if TYPE_CHECKING:
    from babyllm.training.run import Measure


def on_tasks(
    found: Sequence[TaskItems],
    options: TaskOptions,
    tokenizer: Tokenizer | None,
    chat_template: str | None,
    end_ids: Collection[int],
) -> Measure:
    """A function that evaluates a run's model on tasks.

    Args:
        found: items of each task.
        options: settings of the evaluation.
        tokenizer: tokenizer of the run.
        chat_template: Jinja text of the run's chat template; None for a model that does not chat.
        end_ids: tokens that end an answer, in addition to <eos>.

    Raises:
        UserError: the run has no tokenizer or template.
    """
    if tokenizer is None:
        raise UserError("--evaluate.tasks: the token data have no tokenizer beside them, which tasks need")
    if options.chat and chat_template is None:
        raise UserError("--evaluate.chat: this run has no chat template; leave it out")
    template = ChatTemplate(chat_template, tokenizer) if options.chat and chat_template else None
    ends = {tokenizer.eos_id, *end_ids}  # those that each step is saved with

    def measure(state: TrainState) -> dict[str, float]:
        values: dict[str, float] = {}
        model = transformer_of(state.model)
        evaluator = Evaluator(model, tokenizer, template, state.runtime, end_ids=ends, is_quiet=True)
        try:
            with reads_in(state.runtime.device, state.runtime.dtype):  # as the run trains
                for each in found:
                    values |= as_values(evaluate_task(evaluator, each, options))
        except Incomplete:  # the caller heeds the signal
            return {}
        return values

    return measure


def results_on(found: Sequence[TaskItems], others: Collection[str]) -> list[str]:
    """The names of the results of tasks, without their errors.

    Args:
        found: items of each task.
        others: names of the run's other results, such as zh/loss.

    Raises:
        UserError: a task has the name of another one, or of a part of the held-out data.
    """
    _require_own_names([each.task.name for each in found], {name.rpartition("/")[0] for name in others})
    return [f"{each.task.name}/{metric}" for each in found for metric in metric_names(each.task)]


def _require_own_names(tasks: Sequence[str], parts: Collection[str]) -> None:
    taken = {*parts, "all", "plain"}
    if twice := next((name for name in tasks if name in taken or tasks.count(name) > 1), None):
        raise UserError(
            f"--evaluate.tasks: {twice} is also the name of a part of the held-out data or of another task; give the "
            "task another 'name'"
        )
