"""Supervised fine-tuning as values: its configuration, and the state a run begins with.

init_from -> model, tokenizer, template -> conversations in the run directory -> LoRA or frozen parts -> TrainState
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from babyllm.chat.load import ChatTemplate, load_template, stored_template
from babyllm.config import differences
from babyllm.config import load as load_config
from babyllm.config.values import AnyCount, AnyMembers, Count, PathText, expand_paths
from babyllm.data.conversation_data import (
    SAMPLE,
    STORE,
    ConversationConfig,
    ConversationData,
    make_loader,
    open_conversation_data,
)
from babyllm.data.row_config import share_of
from babyllm.errors import UserError
from babyllm.evaluate.answers import closed_in
from babyllm.evaluate.by_task import measure
from babyllm.evaluate.greedy import greedy_answers
from babyllm.evaluate.samples import stored_samples
from babyllm.integrity import check_model
from babyllm.interop.held_base import BASE, hold_base
from babyllm.interop.peft import Adapter, fill_adapter, read_adapter
from babyllm.loading import base_directory, is_adapter, load, load_base, model_directory, tokenizer_directory
from babyllm.model.adapt.freezing import FreezeConfig, freeze
from babyllm.model.adapt.grow import grow_vocabulary
from babyllm.model.adapt.lora import LoraConfig, add_lora, lora_layers, merge_lora
from babyllm.model.adapt.token_rows import matrices_of, train_token_rows
from babyllm.model.config import ModelOptions
from babyllm.model.transformer import Transformer
from babyllm.optim import OptimConfig, adamw
from babyllm.run_directory import latest
from babyllm.runtime import Runtime, RuntimeConfig, seed_all
from babyllm.runtime.precision import reads_in
from babyllm.schedule import Plan
from babyllm.store.conversations import ConversationStore, Normalisation
from babyllm.store.shards import Split
from babyllm.tokenizer import Tokenizer
from babyllm.training.beginning import settled
from babyllm.training.checkpoint import CONFIG
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
        log_every: steps between records; 0 only at the end.
        eval_every: steps between evaluations; 0 only at the end.
        save_every: steps between checkpoints; 0 only at the end.
        keep: newest checkpoints that stay, besides the best.
        early_stop: end after this many evaluations without a lower held-out loss; 0 never does.
        samples: held-out conversations whose last answer is shown at each evaluation.
    """

    run_dir: PathText = "runs/sft"
    init_from: PathText = "runs/pretrain"
    model: ModelOptions = field(default_factory=ModelOptions)
    data: ConversationConfig = field(default_factory=ConversationConfig)
    normalise: Normalisation = "turn"
    lora: LoraConfig = field(default_factory=LoraConfig)
    freeze: FreezeConfig = field(default_factory=FreezeConfig)
    optim: OptimConfig = field(default_factory=lambda: OptimConfig(weight_decay=0.0))
    plan: Plan = field(default_factory=lambda: Plan(epochs=1.5, peak_lr=2e-3))
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    watch: WatchConfig = field(default_factory=WatchConfig)
    log_every: AnyCount = 10
    eval_every: AnyCount = 200
    save_every: AnyCount = 200
    keep: Count = 2
    early_stop: AnyCount = 0
    samples: AnyMembers = 3

    def __post_init__(self) -> None:
        """Expand `~` in paths."""
        expand_paths(self)


def resolved(config: FineTuneConfig) -> FineTuneConfig:
    """The same configuration with the number of processes, and the sample set where it names no conversations.

    Raises:
        UserError: there is no such device, or not so many.
    """
    config = settled(config)
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
    newest = latest(run_dir)
    directory = newest or _beginning(config)
    files = tokenizer_directory(directory)
    tokenizer = Tokenizer.load(files)
    template = load_template(
        config.data.template,
        tokenizer,
        files,
        config.data.efficient_eos,
        config.data.default_system,
        config.data.format.allow_special,
    )
    template.require_marks()
    if newest:
        _require_same_settings(config, newest, template)
    start = _start(config, directory, tokenizer, template, is_resumed=newest is not None)
    # What can be wrong without the data is told before anything is written, which may take hours.
    config.plan.check()
    share_of(config.data, start.model.config, runtime)
    model = _adapted(config, start, template, runtime)
    data = open_conversation_data(config.data, run_dir / STORE, template, config.normalise, runtime)
    model.to(runtime.device)
    loader, plan = make_loader(config.data, data, model.config, runtime, config.plan)
    optimizer = adamw(model, config.optim, lora_plus=config.lora.lora_plus)
    state = TrainState(model, optimizer, runtime.scaler(), loader, runtime, origin=start.told)
    return FineTuning(state, plan, data, template)


def _beginning(config: FineTuneConfig) -> Path:
    """The directory of the model or the adapter that a run begins with."""
    try:
        return model_directory(config.init_from)
    except UserError as e:
        raise UserError(f"--init_from: {e}; train a model first (train_pretrain.py), or name another one") from e


class _Start(NamedTuple):
    """What is trained, before it is.

    Attributes:
        directory: of the model or the adapter.
        tokenizer: its own.
        model: a plain one, its vocabulary grown for the template.
        adapter: of `directory`, which training goes on with; None to begin a new one, or without LoRA.
        tokens: ids whose rows are trained beside LoRA.
        is_resumed: whether `directory` is a step of this run.
        told: where the weights are from, for the headline.
    """

    directory: Path
    tokenizer: Tokenizer
    model: Transformer
    adapter: Adapter | None
    tokens: list[int]
    is_resumed: bool
    told: str


def _start(
    config: FineTuneConfig, directory: Path, tokenizer: Tokenizer, template: ChatTemplate, is_resumed: bool
) -> _Start:
    options, seq_len = config.model, config.data.longest_seq_len
    how: dict[str, Any] = {"dropout": options.dropout, "activation_checkpointing": options.activation_checkpointing}
    if ignored := differences(ModelOptions(**how), options):
        raise UserError(f"model.{ignored[0]}: the shape is that of {directory}; leave the option out")
    adapter, told = None, ""
    if config.lora.rank:
        model, told = load_base(directory, tokenizer, **how).eval(), f"from {directory}"
        if is_adapter(directory):
            adapter, told = read_adapter(directory), f"going on with the adapter of {directory}"
    else:
        model = load(directory, **how)[0]
        if lora_layers(model):
            told = f"from {directory} merged into its base {model.origin}, to be trained in full"
            merge_lora(model)
    if model.config.max_seq_len < seq_len:
        raise UserError(f"data.seq_len={seq_len}: {directory} was made for at most {model.config.max_seq_len} tokens")
    tokens = {i for ids in adapter.tokens.values() for i in ids} if adapter else set()
    if config.lora.rank and not is_resumed:
        tokens |= _unlearned(config, directory, tokenizer, template)
    return _Start(directory, tokenizer, model, adapter, sorted(tokens), is_resumed, told)


def _unlearned(config: FineTuneConfig, directory: Path, tokenizer: Tokenizer, template: ChatTemplate) -> set[int]:
    """Special tokens of the template whose rows are to be trained beside LoRA."""
    written = set(template.special_ids())
    if config.lora.new_tokens != "auto":
        return written if config.lora.new_tokens else set()
    stored = stored_template(tokenizer_directory(directory)) or ""
    # Every text a base has read ends or begins with these two; what its own template spells out it was taught.
    learned = {tokenizer.bos_id, tokenizer.eos_id, *(i for name, i in tokenizer.special.items() if name in stored)}
    return written - learned


def _adapted(config: FineTuneConfig, start: _Start, template: ChatTemplate, runtime: Runtime) -> Transformer:
    """The model as it is trained: with room for the template's tokens, with LoRA and frozen parts."""
    model, directory = start.model, start.directory
    if runtime.is_main:
        for line in _remarks(start, template):
            print(line)
    grow_vocabulary(model, template.tokenizer.vocab_size)
    _rehearse(config, start)
    if config.lora.rank and not start.is_resumed:
        with runtime.main_first():
            if runtime.is_main:
                hold_base(Path(config.run_dir), base_directory(directory), model, start.tokenizer)
        model.origin = str((Path(config.run_dir) / BASE).absolute())
    seed_all(config.plan.seed)
    _change(model, config.lora, config.freeze, start.tokens)
    if start.adapter and not start.is_resumed:
        fill_adapter(model, start.adapter, directory)
    return model


def _change(model: Transformer, lora: LoraConfig, frozen: FreezeConfig, tokens: list[int]) -> None:
    """Let the model, changed in place, train what the configuration says."""
    add_lora(model, lora)
    train_token_rows(model, matrices_of(model, tokens))
    freeze(model, frozen)


def _rehearse(config: FineTuneConfig, start: _Start) -> None:
    """Refuse what cannot be trained, tried on a model of the same shape without numbers, before the base is held."""
    with torch.device("meta"):
        model = Transformer(start.model.config)
    _change(model, replace(config.lora, base="float32"), config.freeze, start.tokens)
    if start.adapter and not start.is_resumed:
        _require_same_shape(config.lora, model, start.adapter, start.directory)


def _require_same_shape(config: LoraConfig, model: Transformer, adapter: Adapter, directory: Path) -> None:
    """Refuse to go on with an adapter of other layers or of another kind than those of the model."""
    theirs, mine = replace(adapter.config, targets=sorted(adapter.config.targets)), sorted(lora_layers(model))
    for key in ("rank", "alpha", "rslora", "targets"):
        before, now = getattr(theirs, key), mine if key == "targets" else getattr(config, key)
        if before != now:
            shown = f"{before[:3]} ..." if isinstance(before, list) and len(before) > 3 else before
            raise UserError(
                f"--init_from: {directory} is an adapter with other lora.{key}, {shown}; give the same to go on with "
                "it, or --lora.rank=0 to train the model that it makes of its base"
            )


def _remarks(start: _Start, template: ChatTemplate) -> Iterator[str]:
    """What a person should know about the template's tokens before the training begins."""
    tokenizer, size = template.tokenizer, start.model.config.vocab_size
    if tokenizer.vocab_size > size:
        yield f"{start.directory}: the vocabulary grows from {size} to {tokenizer.vocab_size} tokens, for the template"
    if start.tokens and not start.is_resumed:
        names = ", ".join(name for name, i in tokenizer.special.items() if i in start.tokens)
        yield f"trained beside LoRA, because the base has not learned them: the rows of {names}"


_DECIDING = (
    *("seq_len", "seed", "held_out", "turns", "prompts", "weights", "too_long", "pack", "format"),
    *("max_prompt", "max_answer", "cut_prompt", "cut_answer"),
)
_RENDERING = ("template", "efficient_eos", "default_system")


def _require_same_settings(config: FineTuneConfig, step: Path, template: ChatTemplate) -> None:
    """Refuse to go on from a step with conversations that are made in another way, before they are."""
    run_dir = Path(config.run_dir)
    try:
        before = load_config(FineTuneConfig, run_dir / CONFIG)
    except UserError:  # of another version: the loader compares the data itself
        return
    is_other_text = stored_template(step) != template.source
    keys = [*_DECIDING, *(_RENDERING if is_other_text else ())]
    if before.data.stages or config.data.stages:
        keys.remove("seq_len")
    old, new = (ConversationConfig(**{key: getattr(c.data, key) for key in keys}) for c in (before, config))
    changed = [f"data.{line}" for line in differences(old, new)]
    if is_other_text and not changed:
        changed = [f"the text of data.template={config.data.template} is another"]
    if changed:
        check_model(step)  # where the stored template is damaged, that is what to tell
        raise UserError(
            f"{run_dir}: its conversations were made with other settings ({'; '.join(changed)}); keep them as they "
            "were, or choose another --run_dir"
        )


def held_out(config: FineTuneConfig, tuning: FineTuning) -> Measure:
    """Measures, by task, the loss of held-out answers and, where they come from a small set, the accuracy."""
    store = tuning.data.store
    samples = stored_samples(store, _first(store, "val", config.data.eval_conversations))
    candidates = closed_in(store)

    def measured_by_task(state: TrainState) -> dict[str, float]:
        with reads_in(state.runtime.device, state.runtime.dtype):  # as the run trains
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
        with reads_in(state.runtime.device, state.runtime.dtype):
            found = greedy_answers(
                state.model, tokenizer, samples, tuning.template.end_ids, state.runtime, max_new_tokens=ANSWER_TOKENS
            )
        return [(f"[{a.task}] {a.prompt}", a.answered) for a in found]

    return show
