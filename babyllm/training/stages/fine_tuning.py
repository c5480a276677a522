"""Supervised fine-tuning: what a run begins with, as plain values.

init_from -> model, tokenizer, template -> LoRA or frozen parts -> conversations in the run directory -> TrainState
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from babyllm.chat.limits import MessageLimits
from babyllm.chat.load import ChatTemplate, Supervise, stored_template
from babyllm.config import differences
from babyllm.config import load as load_config
from babyllm.data.conversation_config import STORE, ConversationConfig
from babyllm.data.conversation_data import ConversationData, make_loader, open_conversation_data
from babyllm.data.row_config import share_of
from babyllm.errors import UserError
from babyllm.evaluate.conversations.answers import closed_in
from babyllm.evaluate.conversations.by_task import measure
from babyllm.evaluate.conversations.greedy import greedy_answers
from babyllm.evaluate.conversations.samples import stored_samples
from babyllm.integrity import check_model
from babyllm.model.heads import transformer_of
from babyllm.objectives.conversation import conversation_loss
from babyllm.objectives.token_groups import token_groups
from babyllm.pipeline.report import print_report
from babyllm.run_directory import CONFIG
from babyllm.runtime import Runtime
from babyllm.runtime.precision import reads_in
from babyllm.schedule import Plan
from babyllm.store.conversations import ALL, ConversationStore
from babyllm.store.data_sets import changed_data_sets, read_data_sets
from babyllm.store.shards import Split
from babyllm.store.task_groups import parts_of_results
from babyllm.training.run import Measure, Show
from babyllm.training.stage import Beginning
from babyllm.training.stages.as_begun import as_begun
from babyllm.training.stages.fine_tuning_config import FineTuneConfig
from babyllm.training.stages.opening import new_state, open_stage
from babyllm.training.stages.renewal import renewals
from babyllm.training.starting_model import adapted, starting_model
from babyllm.training.state import TrainState

ANSWER_TOKENS = 80


def begin(config: FineTuneConfig, runtime: Runtime) -> Beginning:
    """A fine-tuning run at step 0; every rank must call it.

    Raises:
        UserError: the model, the data, the template and the plan do not fit each other.
    """
    tuning = new_run(config, runtime)
    special = tuning.template.tokenizer.special.values()
    groups = token_groups(special, tuning.end_ids, tuning.state.model.config.vocab_size, runtime.device)
    curriculum, seq_len, apart = config.data.curriculum, config.data.seq_len, tuning.data.is_packed
    return Beginning(
        tuning.state,
        tuning.plan,
        conversation_loss(config.normalise, tuning.data.tasks, tuning.data.is_packed, groups),
        held_out(config, tuning),
        answers(config, tuning),
        tuning.template.tokenizer,
        tuning.template.source,
        tuning.end_ids,
        is_measured_first=True,
        results=_results(tuning.data.store),
        renewals=renewals(curriculum, tuning.plan, tuning.data.rows, seq_len, apart),
        is_packed=apart,
    )


class FineTuning(NamedTuple):
    """What a run begins with.

    Attributes:
        state: state at step 0.
        plan: plan with its number of steps.
        data: rendered conversations.
        template: chat template that rendered them, saved with every step.
        end_ids: ids that end an answer: the template's and those of the model that the run begins with.
    """

    state: TrainState
    plan: Plan
    data: ConversationData
    template: ChatTemplate
    end_ids: Sequence[int]


def new_run(config: FineTuneConfig, runtime: Runtime) -> FineTuning:
    """A run at step 0; every rank must call it.

    Raises:
        UserError: the model, the data, the template and the plan do not fit each other.
    """
    opening = open_stage(config, config.data)
    template = opening.template
    template.require_marks()
    if opening.is_resumed:
        _require_same_settings(config, opening.directory, template)
    start = starting_model(config, opening.directory, opening.tokenizer, template, is_resumed=opening.is_resumed)
    # Errors that do not depend on the data are raised before it is prepared, which may take hours.
    config.plan.check()
    share_of(config.data, start.model.config, runtime)
    model = adapted(config, start, template, runtime)
    store = Path(config.run_dir) / STORE
    with runtime.main_first():
        if runtime.is_main:
            _prepare(config.data, store, template)
    data = open_conversation_data(config.data, store, template.tokenizer.sha256, config.normalise, runtime)
    loader, plan = make_loader(
        config.data, data, model.config, runtime, config.plan, template.tokenizer, Path(config.run_dir)
    )
    state = new_state(config, model, loader, runtime, start.source)
    return FineTuning(state, plan, data, template, opening.end_ids)


def _prepare(config: ConversationConfig, directory: Path, template: ChatTemplate) -> None:
    """Render the conversations that the configuration names into a store, unless they are there already."""
    from babyllm.prepare.conversations import prepare_conversations  # a resumed run does not need its readers

    paths, held_out_paths = config.data_sets()
    report = prepare_conversations(
        paths,
        directory,
        template,
        config.format,
        seq_len=config.longest_seq_len,
        supervise=Supervise("last" if config.turns == "last" else "all", config.prompts, config.weights),
        is_split=config.turns == "each",
        too_long=config.too_long,
        limits=MessageLimits(config.max_prompt, config.max_answer, config.cut_prompt, config.cut_answer),
        held_out=config.held_out,
        held_out_paths=held_out_paths,
        repetitions=config.repetitions,
        work=config.work,
    )
    if report:
        print_report(report)


_DECIDING = (
    *("seq_len", "seed", "held_out", "turns", "prompts", "weights", "too_long", "pack", "format"),
    *("max_prompt", "max_answer", "cut_prompt", "cut_answer", "repetitions"),
)
_RENDERING = ("template", "efficient_eos", "default_system")


def _require_same_settings(config: FineTuneConfig, step: Path, template: ChatTemplate) -> None:
    """Refuse to resume if the settings of the conversations have changed; called before they are prepared."""
    run_dir = Path(config.run_dir)
    try:
        before = load_config(FineTuneConfig, run_dir / CONFIG)
    except UserError:  # from another version of babyllm; the loader compares the data itself
        return
    is_other_text = stored_template(step) != template.source
    before = replace(before, data=as_begun(before.run_dir, before.data))
    keys = [*_DECIDING, *(_RENDERING if is_other_text else ())]
    if before.data.stages or config.data.stages:
        keys.remove("seq_len")
    old, new = (ConversationConfig(**{key: getattr(c.data, key) for key in keys}) for c in (before, config))
    changed = [f"data.{line}" for line in differences(old, new)]
    if not changed:
        read = [data_set for sets in config.data.data_sets() for data_set in sets]
        changed = changed_data_sets(read_data_sets(run_dir / STORE), {one.name: one.deciding() for one in read})
    if is_other_text and not changed:
        changed = [f"the text of data.template={config.data.template} has changed"]
    if changed:
        check_model(step)  # if the stored template is damaged, report that instead
        raise UserError(
            f"{run_dir}: its conversations were made with other settings ({'; '.join(changed)}); keep them as they "
            "were, or choose another --run_dir"
        )


def held_out(config: FineTuneConfig, tuning: FineTuning) -> Measure:
    """A function that returns held-out losses in nats and, where answers are a small set, accuracies.

    They are those of each task, of each group of tasks and of all tasks.
    """
    store = tuning.data.store
    samples = stored_samples(store, _first(store, "val", config.data.eval_conversations))
    candidates = closed_in(store)

    def measured_by_task(state: TrainState) -> dict[str, float]:
        with reads_in(state.runtime.device, state.runtime.dtype):  # as the run trains
            found = measure(transformer_of(state.model), samples, candidates, state.runtime)
        result = {f"{task}/loss": measured.loss for task, measured in found.items()}
        return result | {f"{task}/accuracy": m.accuracy for task, m in found.items() if m.accuracy is not None}

    return measured_by_task


def _results(store: ConversationStore) -> list[str]:
    """The names of the results that `held_out` may return."""
    parts, closed = parts_of_results(store.tasks_of("val")), closed_in(store).keys()
    with_accuracy = [name for name, tasks in parts.items() if closed >= set(tasks)]
    return [f"{name}/loss" for name in (*parts, ALL)] + [f"{name}/accuracy" for name in (*with_accuracy, ALL)]


def _first(store: ConversationStore, split: Split, n: int) -> list[int]:
    """The numbers of the first `n` conversations of each task."""
    spans = (store.span(split, task) for task in store.tasks_of(split))
    return [number for span in spans for number in span[:n]]


def answers(config: FineTuneConfig, tuning: FineTuning) -> Show:
    """A function that returns the model's greedy answers to the last turn of some held-out conversations."""
    store, tokenizer = tuning.data.store, tuning.template.tokenizer
    tasks = store.tasks_of("val")
    chosen = [store.span("val", tasks[i % len(tasks)]) for i in range(config.samples)] if tasks else []
    rounds = [(i // len(tasks), span) for i, span in enumerate(chosen)]
    samples = stored_samples(store, [span[turn] for turn, span in rounds if turn < len(span)])

    def show(state: TrainState) -> list[tuple[str, str]]:
        with reads_in(state.runtime.device, state.runtime.dtype):
            model = transformer_of(state.model)
            found = greedy_answers(
                model, tokenizer, samples, tuning.end_ids, state.runtime, max_new_tokens=ANSWER_TOKENS
            )
        return [(f"[{a.task}] {a.prompt}", a.answered) for a in found]

    return show
