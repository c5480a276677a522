"""Checkpoints: step directories that are Hugging Face directories, complete or absent.

state -> .saving/ (weights, optimizer, resume.json) -> fsync -> renamed to step_N (`run_directory`)
run directory -> newest complete step -> checksums -> state

For a model with an adapter only the adapter is saved, in peft's format; its base is not copied again.
Nothing is pickled: tensors are stored as safetensors, the rest as JSON. Rank 0 writes, every rank reads.
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from babyllm.data.stream_state import StreamState, gather, join
from babyllm.errors import UserError
from babyllm.files import fsync, path_as_text, sha256
from babyllm.integrity import OPTIMIZER, STREAM
from babyllm.interop.huggingface import ADAPTER_CONFIG, save_generation, save_model
from babyllm.interop.peft import adapter_parameters, fill_adapter, read_adapter, save_adapter
from babyllm.interop.weights import hf_name, load_weights, save_tensors, weight_files
from babyllm.model.adapt.lora import lora_layers
from babyllm.model.adapt.token_rows import token_rows
from babyllm.model.attention import attention_form, set_attention
from babyllm.model.interface import Model
from babyllm.optim.average import averaged
from babyllm.optim.stored import load_optimizer_tensors, optimizer_tensors
from babyllm.run_directory import SAVING, place, prune, read_resume, step_name, write_pointer, write_resume
from babyllm.tokenizer import Tokenizer
from babyllm.training.state import TrainState
from babyllm.training.watch import ADVICE, Memory


def save(
    state: TrainState,
    run_dir: Path,
    tokenizer: Tokenizer | None,
    keep: int,
    chat_template: str | None = None,
    end_ids: Sequence[int] = (),
) -> None:
    """Write `run_dir`/step_N, point `latest` at it and delete older ones; every rank must call it.

    Args:
        state: the run at step N, between two steps.
        run_dir: directory of the run.
        tokenizer: tokenizer to save beside the weights, or None.
        keep: number of newest steps to keep, at least 1; the best step is kept too.
        chat_template: Jinja template, stored with the tokenizer.
        end_ids: tokens that end an answer, in addition to <eos>.

    Raises:
        UserError: the step cannot be written, or its weights are not finite. Older steps are untouched and no partial
            step is left.
    """
    stream = gather(state.stream, state.runtime)
    if state.runtime.is_main:
        write(state, stream, run_dir, tokenizer, keep, chat_template, end_ids)
    state.runtime.barrier()


def write(
    state: TrainState,
    stream: StreamState,
    run_dir: Path,
    tokenizer: Tokenizer | None,
    keep: int,
    chat_template: str | None = None,
    end_ids: Sequence[int] = (),
) -> None:
    """Write a step as `save` does, on rank 0 alone, with a stream state already gathered; the errors are the same."""
    _require_finite(state)
    try:
        try:
            _write(state, stream, run_dir / SAVING, tokenizer, chat_template, end_ids)
            write_pointer(run_dir, state.step)
        except OSError:
            shutil.rmtree(run_dir / SAVING, ignore_errors=True)
            raise
        place(run_dir, state.step)
        prune(run_dir, max(1, keep), state.best[1] if state.best else None)
    except OSError as e:
        raise _not_saved(run_dir, state.step, e) from e


def update(state: TrainState, run_dir: Path, keep: int) -> None:
    """Rewrite the resume.json of a saved step, for instance after its evaluation; every rank must call it.

    Tensors and the stream's state stay as they were saved.

    Raises:
        UserError: the step's resume.json is damaged or cannot be written.
    """
    if state.runtime.is_main:
        directory = run_dir / step_name(state.step)
        try:
            stored = read_resume(directory, compare=False)
            write_resume(
                directory, {**_resume(state, stored["stream"]), "base": stored["base"], "sha256": stored["sha256"]}
            )
            prune(run_dir, max(1, keep), state.best[1] if state.best else None)
        except OSError as e:
            raise _not_saved(run_dir, state.step, e) from e
    state.runtime.barrier()


def _require_finite(state: TrainState) -> None:
    saved = _saved_parameters(state.model)
    are_finite = torch.stack([parameter.isfinite().all() for parameter in saved.values()]).tolist()
    for name, is_finite in zip(saved, are_finite, strict=True):
        if not is_finite:
            raise UserError(f"step {state.step} was not saved: its weights {name} are not finite; {ADVICE}")


def _saved_parameters(model: Model) -> dict[str, Tensor]:
    """The weights that a step stores, by their names in the model: the adapter's, or all."""
    return adapter_parameters(model) or dict(model.named_parameters())


def _not_saved(run_dir: Path, step: int, error: OSError) -> UserError:
    again = "and start the same command again; it resumes from the last complete step"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserError(f"{run_dir}: the disk is full, step {step} was not saved; free some space {again}")
    cause = f"{error.filename2 or error.filename}: {error.strerror}" if error.strerror else error
    return UserError(f"{run_dir}: step {step} was not saved ({cause}); fix that {again}")


def _write(
    state: TrainState,
    stream: StreamState,
    directory: Path,
    tokenizer: Tokenizer | None,
    chat_template: str | None,
    end_ids: Sequence[int],
) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    _require_space(directory, state, stream)
    with averaged(state.average):
        _write_model(state, directory, tokenizer, chat_template, end_ids)
    tensors = optimizer_tensors(_parameters(state.model), state.optimizer, has_average=state.average is not None)
    save_tensors(tensors, directory / OPTIMIZER)
    if stream.tensors:
        save_tensors(stream.tensors, directory / STREAM)
    for file in directory.iterdir():
        fsync(file)
    digests = {file.name: sha256(file) for file in sorted(directory.iterdir())}
    write_resume(directory, {**_resume(state, stream.values), "base": _base_digest(state.model), "sha256": digests})


def _write_model(
    state: TrainState,
    directory: Path,
    tokenizer: Tokenizer | None,
    chat_template: str | None,
    end_ids: Sequence[int],
) -> None:
    if lora_layers(state.model):
        # If there were a config.json, transformers would take the directory for a whole model.
        save_generation(directory, state.model, tokenizer, end_ids)
        if tokenizer:
            tokenizer.save(directory, chat_template=chat_template)
        save_adapter(directory, state.model, str(Path(state.model.origin).absolute()) if state.model.origin else "")
    else:
        save_model(directory, state.model, tokenizer, chat_template=chat_template, end_ids=end_ids)


def _resume(state: TrainState, stream: Any) -> dict[str, Any]:
    """The contents of resume.json: the state and the stream, without their tensors."""
    return {
        "step": state.step,
        "tokens": state.tokens,
        "skipped": state.skipped,
        "best": state.best,
        "bad_evaluations": state.bad_evaluations,
        "pending": state.pending,
        "stream": stream,
        "scaler": state.scaler.state_dict(),
        "memory": asdict(state.memory),
        "attention": attention_form(state.model),
    }


def _base_digest(model: Model) -> str | None:
    """The sha256 of each file of the adapter's base, in one string; None without an adapter or without files."""
    if not lora_layers(model) or not model.origin:
        return None
    files = [(file, file.stat()) for file in weight_files(Path(model.origin))]
    return " ".join(_file_digest(file, stat.st_size, stat.st_mtime_ns) for file, stat in files)


@cache  # size and time are part of the key: a file is hashed once, not at every checkpoint
def _file_digest(path: Path, size: int, time_ns: int) -> str:
    return sha256(path)


def _require_space(directory: Path, state: TrainState, stream: StreamState) -> None:
    n_bytes = sum(4 * p.numel() for p in _saved_parameters(state.model).values())
    n_bytes += sum(t.nbytes for s in state.optimizer.state.values() for t in s.values() if torch.is_tensor(t))
    n_bytes += sum(tensor.nbytes for tensor in stream.tensors.values())
    if shutil.disk_usage(directory).free < n_bytes:
        raise OSError(errno.ENOSPC, "not enough space for a checkpoint")


def _parameters(model: Model) -> dict[str, nn.Parameter]:
    """The parameters by their names in files."""
    return {hf_name(name): parameter for name, parameter in model.named_parameters()}


def load(state: TrainState, directory: Path) -> None:
    """Restore `state`, in place, from the step directory `directory`; every rank must call it.

    Rank 0 verifies the checksums of the files.

    Raises:
        UserError: a file is missing or damaged, or the step was made with another model or other data.
    """
    with state.runtime.main_first():
        resume = read_resume(directory, compare=state.runtime.is_main)
    _load_weights(state, directory, resume.get("base"))
    with path_as_text(directory / OPTIMIZER) as place:
        tensors = load_file(place)
    if state.average:
        state.average.begin()
    load_optimizer_tensors(_parameters(state.model), state.optimizer, tensors)
    state.stream.load_state_dict(join(resume["stream"], _stream_tensors(directory)))
    if state.scaler.is_enabled() and resume["scaler"]:
        state.scaler.load_state_dict(resume["scaler"])
    state.step, state.tokens, state.skipped = resume["step"], resume["tokens"], resume["skipped"]
    state.best = tuple(resume["best"]) if resume["best"] else None
    state.bad_evaluations, state.pending = resume["bad_evaluations"], resume["pending"]
    state.memory = Memory(**resume.get("memory", {}))
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
        state.model.load_state_dict(load_weights(directory, state.model))
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
    if base != _base_digest(state.model):
        raise UserError(
            f"{directory}: the base of its adapter was another model than {state.model.origin} is now; "
            "restore that base, or choose another --run_dir"
        )
    fill_adapter(state.model, adapter, directory)
