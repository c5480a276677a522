"""Direct preference optimisation: what a run begins with, as plain values.

init_from -> model -> LoRA or frozen parts -> pairs in the run directory -> reference log-probabilities
-> loader (with a reference point for each step) -> TrainState
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from babyllm.data.batch import Batch, Stream
from babyllm.data.order.shuffle import Rows
from babyllm.data.pair_data import PairData, make_pair_loader, pair_share
from babyllm.data.rows.references import WithReference
from babyllm.errors import UserError
from babyllm.model.cross_entropy import IGNORE
from babyllm.model.interface import Model
from babyllm.objectives.preference.preference_losses import answer_logps, preference_loss, reference_logps
from babyllm.parallel.twin import readable, reading
from babyllm.runtime import Runtime
from babyllm.store.pair_store import Kind
from babyllm.store.shards import Split
from babyllm.training.run import Measure
from babyllm.training.stage import Beginning
from babyllm.training.stages.opening import new_state, open_stage
from babyllm.training.stages.preference.dpo_config import DpoConfig
from babyllm.training.stages.preference.reference import reference_tables
from babyllm.training.stages.preference.reference_point import WithReferencePoint
from babyllm.training.stages.preference.run_pairs import held_out_pairs, results_on, run_pairs
from babyllm.training.starting_model import adapted, starting_model
from babyllm.training.state import TrainState

BOTH_FALL = "both answers have become less probable than under the reference ({:.1f} and {:.1f} nats an answer)"
FALL_NATS = 0.5  # of an answer, by which both must have fallen before a line warns
OTHERS = ("logps",)  # what is measured on held-out pairs beside their scores


def begin(config: DpoConfig, runtime: Runtime) -> Beginning:
    """A run at step 0; every rank must call it.

    Raises:
        UserError: the model, the data, the template and the plan do not fit each other.
    """
    config.loss.check()
    if config.reference == "adapter_off" and not config.lora.rank:
        raise UserError("--reference=adapter_off: needs LoRA (--lora.rank=16), or --reference=stored")
    if config.reference == "adapter_off" and not config.loss.needs_reference:
        raise UserError(f"--reference=adapter_off: has no effect on {config.loss.name}, which has none; leave it out")
    kind: Kind = "answers" if config.loss.is_unpaired else "pairs"
    opening = open_stage(config, config.data, before="babyllm sft")
    template, tokenizer = opening.template, opening.tokenizer
    template.require_marks()
    start = starting_model(config, opening.directory, tokenizer, template, is_resumed=opening.is_resumed)
    # Errors that do not depend on the data are raised before it is prepared.
    config.plan.check()
    pair_share(config.data, start.model.config, runtime, kind)
    model = adapted(config, start, template, runtime)
    data = run_pairs(config.data, config.run_dir, template, runtime, kind)
    if config.loss.has_reference_point:
        data = data.mismatched()
    if config.loss.needs_reference and config.reference == "stored":
        data = _with_reference(data, model, runtime, is_resumed=opening.is_resumed)
    loader, plan = make_pair_loader(config.data, data, model.config, runtime, config.plan)
    by_adapter = config.reference == "adapter_off"
    stream: Stream = loader
    if config.loss.has_reference_point:
        stream = reading(WithReferencePoint(loader, readable(model), runtime, by_adapter=by_adapter), model)
    state = new_state(config, model, stream, runtime, start.source)
    return Beginning(
        state,
        plan,
        preference_loss(config.loss, by_adapter=by_adapter),
        held_out(config, data),
        lambda state: [],
        template.tokenizer,
        template.source,
        opening.end_ids,
        is_measured_first=True,
        results=results_on(data, config.data.eval_pairs, OTHERS),
    )


def _with_reference(data: PairData, model: Model, runtime: Runtime, *, is_resumed: bool) -> PairData:
    # Held-out answers of one prompt alone have no others beside them, and nothing is measured on single answers.
    splits: tuple[Split, ...] = ("train",) if data.is_mismatched else ("train", "val")
    rows: dict[Split, Rows] = {split: data.rows(split) for split in splits if data.store.chats.tasks_of(split)}
    tables = reference_tables(model, rows, data.store.chats.directory, data.fingerprint, runtime, is_resumed=is_resumed)
    return data.mapped(lambda split, of_split: WithReference(of_split, tables[split]))


def held_out(config: DpoConfig, data: PairData) -> Measure:
    """A function that measures the implicit rewards of held-out pairs, beta times the change of log-probabilities.

    Its results are those of `pair_results`, where the scores are the rewards, in nats times beta, and the mean
    log-probabilities of both answers, "all/logps/chosen" and "all/logps/rejected", in nats. It prints a line when both
    answers have become less probable, which pairs can cause whose answers resemble each other (Pal et al. 2024).
    Losses of single answers have no pairs to measure, and losses without a reference compare mean log-probabilities.
    """
    loss = config.loss

    def scores(model: Model, batch: Batch) -> tuple[Tensor, Tensor]:
        logps = answer_logps(model, batch)
        if not loss.needs_reference:
            return loss.beta * logps / (batch["targets"] != IGNORE).sum(-1), logps
        reference = reference_logps(model, batch, by_adapter=config.reference == "adapter_off")
        return loss.beta * (logps - reference), logps

    measure = held_out_pairs(data, config.data.eval_pairs, scores, OTHERS)

    def measured(state: TrainState) -> dict[str, float]:
        found = measure(state)
        if found and loss.needs_reference and state.runtime.is_main:
            _warn(found, loss.beta)
        return found

    return measured


def _warn(found: Mapping[str, float], beta: float) -> None:
    falls = [-found[f"all/score/{side}"] / beta for side in ("chosen", "rejected")]
    if min(falls) > FALL_NATS:
        print(BOTH_FALL.format(*falls))
