"""Pretraining: what a run begins with.

texts or token data -> PretrainingData -> model, loader, plan -> TrainState -> Beginning
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from babyllm.data.token_data import PretrainingData, make_loader, open_pretraining_data
from babyllm.errors import UserError
from babyllm.evaluate import perplexity
from babyllm.generation import generate
from babyllm.loading import model_directory, tokenizer_directory
from babyllm.model.heads import transformer_of
from babyllm.objectives.token_groups import token_groups
from babyllm.optim.average import make_average
from babyllm.optim.build import make_optimizer
from babyllm.runtime import Runtime
from babyllm.runtime.precision import reads_in
from babyllm.schedule import Plan
from babyllm.store.shards import is_text
from babyllm.tokenizer import Tokenizer
from babyllm.training.run import Measure, Show
from babyllm.training.stage import Beginning
from babyllm.training.stages.pos_head import loss_of, with_classes
from babyllm.training.stages.pretraining_config import PREPARED, TOKENS, PretrainConfig
from babyllm.training.stages.pretraining_model import prepared_model
from babyllm.training.stages.renewal import renewals
from babyllm.training.state import TrainState

SAMPLE_TOKENS = 80


def begin(config: PretrainConfig, runtime: Runtime) -> Beginning:
    """A pretraining run at step 0; every rank must call it.

    Raises:
        UserError: the model, the data and the plan do not fit each other.
    """
    config = _prepared(config, runtime)
    data = with_classes(open_pretraining_data(config.data, config.model.vocab_size, runtime), config, runtime)
    state, plan = new_state(config, data, runtime)
    measure, show = held_out(config, data), samples(config, data.tokenizer)
    special = data.tokenizer.special.values() if data.tokenizer else ()
    ends, vocab_size = [data.tokens.manifest.eos_id], state.model.config.vocab_size
    loss = loss_of(config, data, token_groups(special, ends, vocab_size, runtime.device), runtime)
    results = [f"{domain}/{unit}" for domain in (*data.tokens.domains("val"), "all") for unit in ("loss", "bpb")]
    curriculum, seq_len, apart = config.data.curriculum, config.data.seq_len, config.data.mask_documents
    renewed = renewals(curriculum, plan, data.windows, seq_len, apart)
    return Beginning(state, plan, loss, measure, show, data.tokenizer, results=results, renewals=renewed)


def _prepared(config: PretrainConfig, runtime: Runtime) -> PretrainConfig:
    """The same configuration, with the path of the token data that rank 0 made from its raw texts, if it names any."""
    path, out = Path(config.data.path), Path(config.run_dir, PREPARED)
    if not is_text(path):
        return config
    tokenizer = config.data.tokenizer
    if tokenizer is None and config.init_from:
        tokenizer = str(tokenizer_directory(model_directory(config.init_from)))
    with runtime.main_first():
        if runtime.is_main:
            from babyllm.prepare.raw_texts import prepare_texts  # most runs begin with token data

            prepare_texts(
                path,
                out,
                is_cleaned=config.data.clean,
                tokenizer=Path(tokenizer) if tokenizer else None,
                vocab_size=config.model.vocab_size,
            )
    return replace(config, data=replace(config.data, path=str(out / TOKENS)))


def new_state(config: PretrainConfig, data: PretrainingData, runtime: Runtime) -> tuple[TrainState, Plan]:
    """A run at step 0, and the plan with its number of steps.

    Raises:
        UserError: the model, the data and the plan do not fit each other.
    """
    model = prepared_model(config, data, runtime)
    _check_prompts(config, data.tokenizer, model.config.max_seq_len)
    loader, plan = make_loader(config.data, data, model.config, runtime, config.plan, Path(config.run_dir))
    optimizer, average = make_optimizer(model, config.optim, config.parallel.offload), make_average(model, config.optim)
    return TrainState(model, optimizer, runtime.scaler(), loader, runtime, average=average), plan


def held_out(config: PretrainConfig, data: PretrainingData) -> Measure:
    """A function that returns the loss in nats and the bits per byte of the held-out documents, by domain."""
    token_bytes = None if data.tokenizer is None else data.tokenizer.byte_lengths()

    def measure(state: TrainState) -> dict[str, float]:
        with reads_in(state.runtime.device, state.runtime.dtype):  # as the run trains
            return perplexity(
                transformer_of(state.model),
                data.tokens,
                state.runtime,
                seq_len=config.data.longest_seq_len,
                max_tokens=config.data.eval_tokens,
                token_bytes=token_bytes,
            )

    return measure


def samples(config: PretrainConfig, tokenizer: Tokenizer | None) -> Show:
    """A function that returns the model's continuations of the configured prompts."""

    def show(state: TrainState) -> list[tuple[str, str]]:
        if tokenizer is None:
            return []
        with reads_in(state.runtime.device, state.runtime.dtype):
            return [
                (prompt, generate(transformer_of(state.model), tokenizer, prompt, max_new_tokens=SAMPLE_TOKENS, seed=i))
                for i, prompt in enumerate(config.prompts)
            ]

    return show


def _check_prompts(config: PretrainConfig, tokenizer: Tokenizer | None, max_seq_len: int) -> None:
    # Checked now, since the first evaluation, which uses them, may be hours away.
    for prompt in config.prompts:
        if tokenizer and len(tokenizer.encode(prompt)) + 1 >= max_seq_len:
            raise UserError(f"--prompts: {prompt[:20]!r}... leaves no room in the context of {max_seq_len} tokens")
