"""A curriculum by the model's own loss: every so many steps all training rows are scored and sorted again."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from babyllm.data.loader import Loader
from babyllm.data.order.competence import pace_of
from babyllm.data.order.shuffle import Rows
from babyllm.data.row_config import CompetenceConfig
from babyllm.evaluate.row_losses import row_losses
from babyllm.model.heads import transformer_of
from babyllm.schedule import Plan
from babyllm.training.state import Every, TrainState


def renewals(
    config: CompetenceConfig, plan: Plan, open_rows: Callable[[int], Rows], seq_len: int, in_documents: bool
) -> list[Every]:
    """The action between steps that scores the rows of a curriculum by loss; none for other measures.

    Args:
        config: the section `data.curriculum`.
        plan: plan with its number of steps.
        open_rows: function that returns the training rows of a `seq_len`.
        seq_len: inputs per row.
        in_documents: whether a token sees only its own document or conversation.

    Raises:
        UserError: the pace of the curriculum is not valid.
    """
    if config.by != "loss":
        return []
    pace = pace_of(config, plan.n_steps)
    full_from, rows = pace.full_from, open_rows(seq_len)

    def renew(state: TrainState) -> None:
        loader = cast(Loader, state.stream)
        if state.step >= full_from:
            loader.renew(None)  # no later step draws by the scores, which need not be saved any more
            return
        model = transformer_of(state.model)
        loader.renew(row_losses(model, rows, state.runtime, seq_len, in_documents, state.step))

    return [Every(pace.renew, renew, at_end=False, is_owed=True)]
