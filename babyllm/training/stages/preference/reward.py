"""Reward models: what a run begins with, as plain values.

init_from -> model with a head -> LoRA or frozen parts -> pairs in the run directory -> TrainState
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from babyllm.data.pair_config import STORE
from babyllm.data.pair_data import PairData, make_pair_loader, open_pair_data, pair_share, prepare_pair_data
from babyllm.evaluate.preferences import RESULTS, pair_results, pair_sums
from babyllm.model.cross_entropy import IGNORE
from babyllm.objectives.reward import last_scores, reward_loss, whole_answers
from babyllm.runtime import Runtime
from babyllm.runtime.precision import reads_in
from babyllm.training.parallel import prepare
from babyllm.training.run import Measure
from babyllm.training.stage import Beginning
from babyllm.training.stages.opening import new_state, open_stage
from babyllm.training.stages.preference.reward_config import RewardConfig
from babyllm.training.stages.preference.starting_head import starting_head
from babyllm.training.state import TrainState

LABELS = ("reward",)
BATCH_PAIRS = 8


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
    """A function that scores the held-out pairs, shared among ranks; see `pair_results`."""
    rows = data.rows("val")
    n = min(len(rows), config.data.eval_pairs)
    n_sums = len(pair_sums(np.zeros((1, 2)), np.ones((1, 2), np.int64)))

    @torch.no_grad()
    def measured(state: TrainState) -> dict[str, float]:
        runtime, model = state.runtime, state.model.eval()
        sums = np.zeros(n_sums)
        for start in range(runtime.rank * BATCH_PAIRS, n, runtime.world_size * BATCH_PAIRS):
            found = rows.rows(np.arange(start, min(start + BATCH_PAIRS, n)))
            columns = {name: torch.from_numpy(found[name]) for name in ("tokens", "targets")}
            tokens, targets = (column.flatten(0, 1).to(runtime.device) for column in columns.values())
            ids, lengths = whole_answers(tokens, targets)
            with reads_in(runtime.device, runtime.dtype):
                values = model(ids).view(-1, 2, ids.shape[1])
            scores = last_scores(values, lengths.view(-1, 2)).double().cpu().numpy()
            sums += pair_sums(scores, (found["targets"] != IGNORE).sum(-1))
        model.train()
        return {f"all/{name}": value for name, value in pair_results(runtime.sum(sums.tolist())).items()}

    return measured
