"""A run continued from a step directory.

run directory -> newest step directory -> checksums -> weights, moments, stream, counters -> state
"""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from babyllm.config.json_fields import read_json
from babyllm.data.stream_state import join
from babyllm.errors import UserError
from babyllm.files import path_as_text
from babyllm.integrity import OPTIMIZER, STREAM
from babyllm.interop.huggingface import ADAPTER_CONFIG, model_to_json
from babyllm.interop.peft import fill_adapter, read_adapter
from babyllm.interop.weights import load_weights
from babyllm.model.adapt.lora import lora_layers
from babyllm.model.adapt.token_rows import token_rows
from babyllm.model.attention import set_attention
from babyllm.optim.stored import load_optimizer_tensors
from babyllm.parallel.filling import fill
from babyllm.parallel.tensors import place_of
from babyllm.run_directory import read_resume, step_directories, step_name
from babyllm.tokenizer import Tokenizer
from babyllm.training.checkpoint.parts import Stored
from babyllm.training.checkpoint.snapshot import base_digest, named_parameters
from babyllm.training.state import TrainState
from babyllm.training.watch import Memory


def resume(directory: Path, state: TrainState, tokenizer: Tokenizer | None) -> Path | None:
    """Load the newest step of a run into `state`; every rank must call it.

    Returns:
        The step's directory; None if the run has no step.

    Raises:
        UserError: as `load`, or the ranks find different steps.
    """
    runtime, step = state.runtime, max(step_directories(directory), default=-1)
    of_rank_0 = runtime.sum([float(step if runtime.is_main else 0)])[0]
    if runtime.sum([float(step != of_rank_0)])[0]:
        raise UserError(f"{directory}: ranks find other checkpoints there; --run_dir must lie on a disk they all share")
    if state.has_trained:  # in an earlier run, whose stop signal must not end this one
        runtime.forget_stop()
        state.has_trained = False
    if step < 0:
        return None
    newest = directory / step_name(step)
    _require_same_model(newest, state, tokenizer)
    load(state, newest)
    return newest


def _require_same_model(directory: Path, state: TrainState, tokenizer: Tokenizer | None) -> None:
    if not (directory / "config.json").is_file():
        return  # an adapter: its base is compared on loading
    theirs, mine = read_json(directory / "config.json"), model_to_json(state.model, tokenizer)
    changed = [f"{key} {theirs.get(key)} (now {mine[key]})" for key in mine if theirs.get(key) != mine[key]]
    if changed:
        read_resume(directory)  # if the file is damaged, report that instead
        raise UserError(
            f"{directory.parent}: was made with another model: {', '.join(changed)}; choose another --run_dir"
        )


def load(state: TrainState, directory: Path) -> None:
    """Restore `state`, in place, from the step directory `directory`; every rank must call it.

    Rank 0 verifies the checksums of the files.

    Raises:
        UserError: a file is missing or damaged, or the step was made with another model or other data.
    """
    with state.runtime.main_first():
        resume = read_resume(directory, compare=state.runtime.is_main)
    _load_weights(state, directory, resume.get("base"))
    if state.average:
        state.average.begin()
    stored = Stored(directory, OPTIMIZER)
    load_optimizer_tensors(
        named_parameters(state.model),
        state.optimizer,
        stored.names,
        lambda name, parameter: stored.read(name, place_of(parameter)),
    )
    state.stream.load_state_dict(join(resume["stream"], _stream_tensors(directory)))
    if state.scaler.is_enabled() and resume["scaler"]:
        state.scaler.load_state_dict(resume["scaler"])
    state.step, state.tokens, state.skipped = resume["step"], resume["tokens"], resume["skipped"]
    state.best = tuple(resume["best"]) if resume["best"] else None
    state.best_by = resume.get("best_by", state.best_by)
    state.bad_evaluations, state.pending = resume["bad_evaluations"], resume["pending"]
    state.memory = Memory(**resume.get("memory", {}))
    state.cuts = max(state.cuts, resume.get("cuts", 0))  # a run that goes back keeps what it has found since
    if state.runtime.attention == "auto":  # the form measured when the run began; another one rounds differently
        set_attention(state.model, resume.get("attention", "fused"))


def _stream_tensors(directory: Path) -> dict[str, Tensor]:
    if not (directory / STREAM).is_file():
        return {}
    with path_as_text(directory / STREAM) as place:
        return load_file(place)


def _load_weights(state: TrainState, directory: Path, base: str | None) -> None:
    layers = lora_layers(state.model)
    if bool(layers) != (directory / ADAPTER_CONFIG).is_file():
        how = "without" if layers else "with"
        raise UserError(f"{directory}: was made {how} LoRA; set lora.rank as it was, or choose another --run_dir")
    if not layers:
        fill(state.model, load_weights(directory, state.model))
        return
    adapter = read_adapter(directory)
    config = adapter.config
    layer = next(iter(layers.values()))
    for name, theirs, mine in (
        ("rank", config.rank, layer.rank),
        ("alpha", config.alpha, layer.alpha),
        ("rslora", config.rslora, layer.rslora),
    ):
        if theirs != mine:
            raise UserError(f"{directory}: was made with lora.{name}={theirs} (now {mine}); choose another --run_dir")
    if adapter.tokens != {name: matrix.token_ids.tolist() for name, matrix in token_rows(state.model).items()}:
        raise UserError(f"{directory}: was made with other tokens of lora.new_tokens; choose another --run_dir")
    if base != base_digest(state.model):
        raise UserError(
            f"{directory}: the base of its adapter was another model than {state.model.origin} is now; "
            "restore that base, or choose another --run_dir"
        )
    fill_adapter(state.model, adapter, directory)
