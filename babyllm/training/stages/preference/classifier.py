"""Classifiers: what a run begins with, as plain values.

init_from -> model with a head, one output per label -> LoRA or frozen parts -> texts in memory -> TrainState
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from babyllm.data.batch import Batch
from babyllm.data.chat_config import ChatConfig
from babyllm.data.labelling.label_data import LabelData, make_label_loader, read_label_data
from babyllm.evaluate.label_results import RESULTS, label_results, label_sums
from babyllm.model.heads import WithHead
from babyllm.model.interface import Model
from babyllm.objectives.classification import classification_loss, labels_and_lengths
from babyllm.reward_model import LABELS
from babyllm.runtime import Runtime
from babyllm.store.data_sets import DataRecord, write_data_sets
from babyllm.training.run import Measure
from babyllm.training.stage import Beginning
from babyllm.training.stages.opening import new_state, open_stage
from babyllm.training.stages.preference.classifier_config import ClassifierConfig
from babyllm.training.stages.preference.row_sums import row_sums
from babyllm.training.stages.preference.starting_head import starting_head
from babyllm.training.state import TrainState


def begin(config: ClassifierConfig, runtime: Runtime) -> Beginning:
    """A run at step 0; every rank must call it.

    Raises:
        UserError: the model, the data and the plan do not fit each other.
    """
    # Texts are read without a template; "plain" adds no tokens to the vocabulary.
    opening = open_stage(config, ChatConfig(template="plain"))
    config.plan.check()
    data = read_label_data(config.data, opening.template.tokenizer)
    model, source = starting_head(config, opening, data.labels, runtime)
    if isinstance(model, WithHead):  # it has only learned to read texts that were cut there
        model.model.config = replace(model.config, max_seq_len=min(model.config.max_seq_len, config.data.seq_len))
    loader, plan = make_label_loader(config.data, data, model.config, runtime, config.plan)
    if runtime.is_main:
        _keep_labels(config, data)
    state = new_state(config, model, loader, runtime, source)
    return Beginning(
        state,
        plan,
        classification_loss,
        held_out(data),
        lambda state: [],
        opening.template.tokenizer,
        opening.template.source,
        opening.end_ids,
        is_measured_first=True,
        results=[f"all/{name}" for name in RESULTS],
    )


def _keep_labels(config: ClassifierConfig, data: LabelData) -> None:
    """Store the names of the labels, for which files of adapters have no place; print and record what was read."""
    run_dir, n_left_out = Path(config.run_dir), data.rejected.total()
    run_dir.mkdir(parents=True, exist_ok=True)
    paths = [*config.data.paths, *config.data.held_out_path]
    train, val = data.train.counts(data.labels), data.val.counts(data.labels)
    n_records = len(data.train) + len(data.val) + n_left_out
    write_data_sets(run_dir, [DataRecord("", paths, records=n_records, train=train, val=val, unused=n_left_out)])
    (run_dir / LABELS).write_text(json.dumps(data.labels, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{len(data.train):,} texts to train on, {len(data.val):,} held out; labels: {', '.join(data.labels)}")
    if data.n_cut:
        print(f"{data.n_cut:,} texts are longer than data.seq_len and were cut")
    for reason, n in data.rejected.most_common(3):
        print(f"{n:,} records left out: {reason}")


def held_out(data: LabelData) -> Measure:
    """A function that classifies the held-out texts; see `label_results`."""

    def sums_of(model: Model, batch: Batch) -> list[float]:
        labels, lengths = labels_and_lengths(batch["targets"])
        logits = model(batch["tokens"], lengths=lengths)
        return label_sums(labels.cpu().numpy(), logits.double().cpu().numpy())

    def measured(state: TrainState) -> dict[str, float]:
        n_sums = 1 + len(data.labels) ** 2
        sums = row_sums(state, data.val, len(data.val), n_sums, lambda batch: sums_of(state.model, batch))
        return {f"all/{name}": value for name, value in label_results(sums).items()}

    return measured
