"""Reward models: what a run begins with, as plain values.

init_from -> model with a head -> LoRA or frozen parts -> pairs in the run directory -> TrainState
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from torch import Tensor

from babyllm.data.batch import Batch
from babyllm.data.pair_config import STORE
from babyllm.data.pair_data import PairData, make_pair_loader, open_pair_data, pair_share, prepare_pair_data
from babyllm.evaluate.preferences import RESULTS
from babyllm.objectives.bradley_terry import last_scores, reward_loss, whole_answers
from babyllm.runtime import Runtime
from babyllm.training.parallel import prepare
from babyllm.training.run import Measure
from babyllm.training.stage import Beginning
from babyllm.training.stages.opening import new_state, open_stage
from babyllm.training.stages.preference.held_out_pairs import scored_pairs
from babyllm.training.stages.preference.reward_config import RewardConfig
from babyllm.training.stages.preference.starting_head import starting_head
from babyllm.training.state import TrainState

LABELS = ("reward",)


def begin(config: RewardConfig, runtime: Runtime) -> Beginning:
    """A run at step 0; every rank must call it.

    Raises:
        UserError: the model, the data, the template and the plan do not fit each other.
    """
    opening = open_stage(config, config.data, before="babyllm sft")
    opening.template.require_marks()
    model, source = starting_head(config, opening, LABELS, runtime)
    # A score is read at the end token, for which a row that predicts it has no input.
    options = replace(config.data, seq_len=config.data.seq_len - 1)
    # Errors that do not depend on the data are raised before it is prepared.
    config.plan.check()
    pair_share(options, model.config, runtime)
    store = Path(config.run_dir) / STORE
    with runtime.main_first():
        if runtime.is_main:
            prepare_pair_data(options, store, opening.template)
    data = open_pair_data(options, store, opening.template.tokenizer.sha256, runtime)
    model = prepare(model, runtime)
    loader, plan = make_pair_loader(options, data, model.config, runtime, config.plan)
    state = new_state(config, model, loader, runtime, source)
    return Beginning(
        state,
        plan,
        reward_loss(config.loss),
        held_out(config, data),
        lambda state: [],
        opening.template.tokenizer,
        opening.template.source,
        opening.end_ids,
        is_measured_first=True,
        results=[f"all/{name}" for name in RESULTS],
    )


def held_out(config: RewardConfig, data: PairData) -> Measure:
    """A function that scores the held-out pairs; see `pair_results`."""
    rows = data.rows("val")
    n = min(len(rows), config.data.eval_pairs)

    def measured(state: TrainState) -> dict[str, float]:
        def scores(batch: Batch) -> Tensor:
            ids, lengths = whole_answers(*(batch[name].flatten(0, 1) for name in ("tokens", "targets")))
            return last_scores(state.model(ids).view(-1, 2, ids.shape[1]), lengths.view(-1, 2))

        return scored_pairs(state, rows, n, scores)

    return measured
