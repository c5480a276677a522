"""Pretraining as values: its configuration, and the state a run begins with."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from babyllm.config import differences
from babyllm.config.values import AnyCount, Count, PathText, expand_paths
from babyllm.data.token_data import DataConfig, PretrainingData, make_loader
from babyllm.errors import UserError
from babyllm.evaluate import perplexity
from babyllm.generation import generate
from babyllm.interop.huggingface import load_model
from babyllm.loading import model_directory
from babyllm.model.config import ModelConfig, parameter_counts
from babyllm.model.options import CPU_PRESET, GPU_PRESET, ModelOptions
from babyllm.model.transformer import Transformer
from babyllm.optim import OptimConfig, make_optimizer
from babyllm.run_directory import latest
from babyllm.runtime import Runtime, RuntimeConfig, device_type, seed_all
from babyllm.runtime.machine import physical_memory
from babyllm.runtime.precision import reads_in
from babyllm.schedule import Plan
from babyllm.tokenizer import Tokenizer
from babyllm.training.beginning import settled, stored_config
from babyllm.training.run import Measure, Show
from babyllm.training.state import TrainState
from babyllm.training.watch import WatchConfig

SAMPLE_TOKENS = 80


@dataclass(frozen=True)
class PretrainConfig:
    """The configuration of `train_pretrain.py`.

    Attributes:
        run_dir: where the run is recorded; the same command goes on with it.
        init_from: a run, step or Hugging Face directory whose weights to start from; null draws them anew.
        log_every: steps between records; 0 only at the end.
        eval_every: steps between evaluations; 0 only at the end.
        save_every: steps between checkpoints; 0 only at the end.
        keep: newest checkpoints that stay, besides the best.
        early_stop: end after this many evaluations without a lower held-out loss; 0 never does.
        prompts: texts to continue at each evaluation.
    """

    run_dir: PathText = "runs/pretrain"
    init_from: PathText | None = None
    model: ModelOptions = field(default_factory=ModelOptions)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    plan: Plan = field(default_factory=lambda: Plan(epochs=1.25))
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    watch: WatchConfig = field(default_factory=WatchConfig)
    log_every: AnyCount = 10
    eval_every: AnyCount = 500
    save_every: AnyCount = 250
    keep: Count = 2
    early_stop: AnyCount = 0
    prompts: list[str] = field(default_factory=lambda: ["今天", "这本书", "酒店"])

    def __post_init__(self) -> None:
        """Expand `~` in paths."""
        expand_paths(self)


def resolved(config: PretrainConfig) -> PretrainConfig:
    """The same configuration with what depends on the machine and the run: a preset where none is chosen, processes.

    Raises:
        UserError: there is no such device, or not so many.
    """
    config = settled(config)
    if config.model.preset or config.init_from:
        return config
    preset = CPU_PRESET if device_type(config.runtime.device) == "cpu" else GPU_PRESET
    # A run that is moved to a machine with another device keeps its model.
    if stored := stored_config(PretrainConfig, config.run_dir):
        preset = stored.model.preset or preset
    return replace(config, model=replace(config.model, preset=preset))


def new_state(config: PretrainConfig, data: PretrainingData, runtime: Runtime) -> tuple[TrainState, Plan]:
    """A run at step 0, and the plan with its number of steps.

    Raises:
        UserError: the model, the data and the plan do not fit each other.
    """
    model = _model(config, data).to(runtime.device)
    _check_prompts(config, data.tokenizer, model.config.max_seq_len)
    loader, plan = make_loader(config.data, data, model.config, runtime, config.plan)
    return TrainState(model, make_optimizer(model, config.optim), runtime.scaler(), loader, runtime), plan


def held_out(config: PretrainConfig, data: PretrainingData) -> Measure:
    """Measures loss and bits per byte of the held-out documents, by domain."""
    token_bytes = None if data.tokenizer is None else data.tokenizer.byte_lengths()

    def measure(state: TrainState) -> dict[str, float]:
        with reads_in(state.runtime.device, state.runtime.dtype):  # as the run trains
            return perplexity(
                state.model,
                data.tokens,
                state.runtime,
                seq_len=config.data.longest_seq_len,
                max_tokens=config.data.eval_tokens,
                token_bytes=token_bytes,
            )

    return measure


def samples(config: PretrainConfig, tokenizer: Tokenizer | None) -> Show:
    """Continues the prompts of the configuration."""

    def show(state: TrainState) -> list[tuple[str, str]]:
        if tokenizer is None:
            return []
        with reads_in(state.runtime.device, state.runtime.dtype):
            return [
                (prompt, generate(state.model, tokenizer, prompt, max_new_tokens=SAMPLE_TOKENS, seed=i))
                for i, prompt in enumerate(config.prompts)
            ]

    return show


def _check_prompts(config: PretrainConfig, tokenizer: Tokenizer | None, max_seq_len: int) -> None:
    # The first evaluation, which needs them, may be hours away.
    for prompt in config.prompts:
        if tokenizer and len(tokenizer.encode(prompt)) + 1 >= max_seq_len:
            raise UserError(f"--prompts: {prompt[:20]!r}... leaves no room in the context of {max_seq_len} tokens")


def _require_memory(shape: ModelConfig) -> None:
    """Refuse a model that the machine cannot even hold, before its making fills the memory."""
    n_parameters, memory = sum(parameter_counts(shape).values()), physical_memory()
    if memory and 4 * n_parameters > memory:
        raise UserError(
            f"model: {n_parameters:,} parameters take {4 * n_parameters / 1e9:,.0f} GB, this machine has "
            f"{memory / 1e9:,.0f} GB; choose a smaller model.preset, or less of model.n_layers and model.d_model"
        )


def _model(config: PretrainConfig, data: PretrainingData) -> Transformer:
    vocab_size = data.tokens.manifest.vocab_size
    if config.init_from is None:
        seed_all(config.plan.seed)
        shape = config.model.build(vocab_size, config.data.longest_seq_len)
        _require_memory(shape)
        return Transformer(shape)
    directory = latest(Path(config.run_dir)) or model_directory(config.init_from)
    how: dict[str, Any] = {
        "dropout": config.model.dropout,
        "activation_checkpointing": config.model.activation_checkpointing,
    }
    ignored = differences(ModelOptions(vocab_size=config.model.vocab_size, **how), config.model)
    if ignored:
        raise UserError(f"model.{ignored[0]}: with --init_from the shape is that of {directory}; leave the option out")
    model = load_model(directory, **how)
    seq_len = config.data.longest_seq_len
    if model.config.max_seq_len < seq_len:
        raise UserError(f"data.seq_len={seq_len}: {directory} was made for at most {model.config.max_seq_len} tokens")
    if model.config.vocab_size < vocab_size:
        raise UserError(
            f"--init_from={config.init_from}: its vocabulary of {model.config.vocab_size} ids does not match the "
            f"{vocab_size} of {config.data.path}; tokenise the data with {directory}'s tokenizer"
        )
    if data.tokenizer and Path(directory, "tokenizer.json").is_file():
        theirs = Tokenizer.load(directory)
        if theirs.sha256 != data.tokenizer.sha256:
            raise UserError(
                f"--init_from={config.init_from}: its tokenizer is not the one {config.data.path} was made with; "
                f"tokenise the data with {directory}'s tokenizer"
            )
    return model
