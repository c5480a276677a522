"""Supervised fine-tuning as values: its configuration, and the state a run begins with.

init_from -> model, tokenizer, template -> conversations in the run directory -> LoRA or frozen parts -> TrainState
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from babyllm.chat.template import ChatTemplate, load_template, stored_template
from babyllm.config import differences
from babyllm.data.conversations import ConversationStore, Normalisation
from babyllm.data.fine_tuning import (
    SAMPLE,
    STORE,
    ConversationConfig,
    ConversationData,
    make_loader,
    open_conversation_data,
)
from babyllm.data.row_config import share_of
from babyllm.data.shards import Split
from babyllm.errors import UserError
from babyllm.evaluate.answers import closed_in, stored_samples
from babyllm.evaluate.fit import greedy_answers, measure
from babyllm.loading import base_directory, load, model_directory
from babyllm.model.config import ModelOptions
from babyllm.model.freezing import FreezeConfig, freeze
from babyllm.model.lora import LoraConfig, add_lora, lora_layers, merge_lora
from babyllm.model.transformer import Transformer
from babyllm.model.vocabulary import grow_vocabulary
from babyllm.optim import OptimConfig, adamw
from babyllm.run_directory import latest
from babyllm.runtime import Runtime, RuntimeConfig, seed_all
from babyllm.schedule import Plan
from babyllm.tokenizer import Tokenizer
from babyllm.training.run import Measure, Show
from babyllm.training.state import TrainState
from babyllm.training.watch import WatchConfig

ANSWER_TOKENS = 80


@dataclass(frozen=True)
class FineTuneConfig:
    """The configuration of `train_sft.py`.

    Attributes:
        run_dir: where the run is recorded; the same command goes on with it.
        init_from: a run, step or Hugging Face directory of the model to start from.
        model: dropout and activation_checkpointing; the shape is that of init_from.
        normalise: what the loss is the mean over: token, turn (each answer counts once, so that short ones are not
            drowned by long ones) or conversation.
        log_every: steps between records.
        eval_every: steps between evaluations; 0 only at the end.
        save_every: steps between checkpoints; 0 only at the end.
        keep: newest checkpoints that stay, besides the best.
        early_stop: end after this many evaluations without a lower held-out loss; 0 never does.
        samples: held-out conversations whose last answer is shown at each evaluation.
    """

    run_dir: str = "runs/sft"
    init_from: str = "runs/pretrain"
    model: ModelOptions = field(default_factory=ModelOptions)
    data: ConversationConfig = field(default_factory=ConversationConfig)
    normalise: Normalisation = "turn"
    lora: LoraConfig = field(default_factory=LoraConfig)
    freeze: FreezeConfig = field(default_factory=FreezeConfig)
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(weight_decay=0.0))
    plan: Plan = field(default_factory=lambda: Plan(epochs=1.5, peak_lr=2e-3))
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    watch: WatchConfig = field(default_factory=WatchConfig)
    log_every: int = 10
    eval_every: int = 200
    save_every: int = 200
    keep: int = 2
    early_stop: int = 0
    samples: int = 3


def resolved(config: FineTuneConfig) -> FineTuneConfig:
    """The same configuration with the sample set where it names no conversations."""
    if config.data.path is not None:
        return config
    train, held_out = f"{SAMPLE}/train.jsonl", [f"{SAMPLE}/heldout.jsonl"]
    return replace(config, data=replace(config.data, path=train, held_out_path=held_out, held_out=0.0))


class FineTuning(NamedTuple):
    """What a run begins with.

    Attributes:
        state: at step 0.
        plan: with its number of steps.
        data: the conversations.
        template: that rendered them, stored with every step.
    """

    state: TrainState
    plan: Plan
    data: ConversationData
    template: ChatTemplate


def new_run(config: FineTuneConfig, runtime: Runtime) -> FineTuning:
    """A run at step 0; every rank must call it.

    Raises:
        UserError: the model, the data, the template and the plan do not fit each other.
    """
    run_dir = Path(config.run_dir)
    directory = _start(config, run_dir)
    template = load_template(
        config.data.template, Tokenizer.load(directory), directory, efficient_eos=config.data.efficient_eos
    )
    model = _model(config, directory)
    remarks = list(_remarks(config, directory, template, model.config.vocab_size))
    grow_vocabulary(model, template.tokenizer.vocab_size)
    seed_all(config.plan.seed)
    freeze(add_lora(model, config.lora), config.freeze)
    # What can be wrong without the data is told before they are prepared, which may take hours.
    config.plan.check()
    share_of(config.data, model.config, runtime)
    data = open_conversation_data(config.data, run_dir / STORE, template, config.normalise, runtime)
    if runtime.is_main:
        for line in remarks:
            print(line)
    model.to(runtime.device)
    loader, plan = make_loader(config.data, data, model.config, runtime, config.plan)
    optimizer = adamw(model, config.optim, lora_plus=config.lora.lora_plus)
    return FineTuning(TrainState(model, optimizer, runtime.scaler(), loader, runtime), plan, data, template)


def _start(config: FineTuneConfig, run_dir: Path) -> Path:
    """The directory whose model is trained: that of an adapter's base, or of the newest step where there is one."""
    newest = latest(run_dir)
    if newest:
        return base_directory(newest)
    try:
        return model_directory(config.init_from)
    except UserError as e:
        raise UserError(f"--init_from: {e}; train a model first (train_pretrain.py), or name another one") from e


def _remarks(config: FineTuneConfig, directory: Path, template: ChatTemplate, vocab_size: int) -> Iterator[str]:
    """What a person should know about the template's tokens before the training begins."""
    tokenizer = template.tokenizer
    if tokenizer.vocab_size > vocab_size:
        yield f"{directory}: the vocabulary grows from {vocab_size} to {tokenizer.vocab_size} tokens, for the template"
    if config.lora.rank and template.end_ids != [tokenizer.eos_id] and stored_template(directory) is None:
        yield (
            f"{directory}: may never have seen the token that ends an answer in this template, and LoRA leaves "
            "embeddings as they are; with --data.template=plain or alpaca an answer ends with <eos>, which it knows"
        )


def _model(config: FineTuneConfig, directory: Path) -> Transformer:
    options, seq_len = config.model, config.data.longest_seq_len
    how: dict[str, Any] = {"dropout": options.dropout, "activation_checkpointing": options.activation_checkpointing}
    if ignored := differences(ModelOptions(**how), options):
        raise UserError(f"model.{ignored[0]}: the shape is that of {directory}; leave the option out")
    model, _ = load(directory, **how)
    if lora_layers(model):
        if config.lora.rank:
            raise UserError(f"--init_from: {directory} is an adapter; make it one model first: babyllm merge-lora")
        merge_lora(model)
    if model.config.max_seq_len < seq_len:
        raise UserError(f"data.seq_len={seq_len}: {directory} was made for at most {model.config.max_seq_len} tokens")
    return model


def held_out(config: FineTuneConfig, tuning: FineTuning) -> Measure:
    """Measures, by task, the loss of held-out answers and, where they come from a small set, the accuracy."""
    store = tuning.data.store
    samples = stored_samples(store, _first(store, "val", config.data.eval_conversations))
    candidates = closed_in(store)

    def measured_by_task(state: TrainState) -> dict[str, float]:
        found = measure(state.model, samples, candidates, state.runtime)
        result = {f"{task}/loss": measured.loss for task, measured in found.items()}
        return result | {f"{task}/accuracy": m.accuracy for task, m in found.items() if m.accuracy is not None}

    return measured_by_task


def _first(store: ConversationStore, split: Split, n: int) -> list[int]:
    """Numbers of the first `n` conversations of each task."""
    spans = (store.span(split, task) for task in store.tasks_of(split))
    return [number for span in spans for number in span[:n]]


def answers(config: FineTuneConfig, tuning: FineTuning) -> Show:
    """Shows what the model answers, greedily, at the end of some held-out conversations."""
    store, tokenizer = tuning.data.store, tuning.template.tokenizer
    tasks = store.tasks_of("val")
    chosen = [store.span("val", tasks[i % len(tasks)]) for i in range(config.samples)] if tasks else []
    samples = stored_samples(store, [span[i // len(tasks) % len(span)] for i, span in enumerate(chosen)])

    def show(state: TrainState) -> list[tuple[str, str]]:
        found = greedy_answers(
            state.model, tokenizer, samples, tuning.template.end_ids, state.runtime, max_new_tokens=ANSWER_TOKENS
        )
        return [(f"[{a.task}] {a.prompt}", a.answered) for a in found]

    return show
