"""Reward models: what a run begins with, as plain values.

init_from -> model with a head -> LoRA or frozen parts -> pairs in the run directory -> TrainState
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from babyllm.data.batch import Batch
from babyllm.data.pair_data import make_pair_loader, pair_share
from babyllm.model.interface import Model
from babyllm.objectives.bradley_terry import last_scores, reward_loss, whole_answers
from babyllm.runtime import Runtime
from babyllm.training.stage import Beginning
from babyllm.training.stages.opening import new_state, open_stage
from babyllm.training.stages.preference.reward_config import RewardConfig
from babyllm.training.stages.preference.run_pairs import held_out_pairs, results_on, run_pairs
from babyllm.training.stages.preference.score_scale import RESULTS as SCALED
from babyllm.training.stages.preference.score_scale import reference_set, with_scale
from babyllm.training.stages.preference.starting_head import starting_head

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
    talks = reference_set(config)
    config.plan.check()
    pair_share(options, model.config, runtime)
    data = run_pairs(options, config.run_dir, opening.template, runtime)
    loader, plan = make_pair_loader(options, data, model.config, runtime, config.plan)
    state = new_state(config, model, loader, runtime, source)
    measure = held_out_pairs(data, options.eval_pairs, lambda model, batch: [scores(model, batch)])
    return Beginning(
        state,
        plan,
        reward_loss(config.loss),
        with_scale(measure, talks, config, opening.template, runtime),
        lambda state: [],
        opening.template.tokenizer,
        opening.template.source,
        opening.end_ids,
        is_measured_first=True,
        results=[*results_on(data, options.eval_pairs), *(SCALED if config.reference_set else ())],
    )


def scores(model: Model, batch: Batch) -> Tensor:
    """The scores (B, 2) of both sides of pairs, at their end tokens."""
    ids, lengths = whole_answers(*(batch[name].flatten(0, 1) for name in ("tokens", "targets")))
    return last_scores(model(ids).view(-1, 2, ids.shape[1]), lengths.view(-1, 2))
