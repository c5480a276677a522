"""Checkpoints: step directories that are Hugging Face directories, complete or absent.

state -> .saving/ (weights, optimizer, resume.json) -> fsync -> rename to step_00002000/ -> latest
run directory -> newest complete step -> checksums -> state

The weights of a model with an adapter are the adapter alone, in peft's format; its base stays where it is.
Nothing is pickled: tensors are safetensors, the rest is JSON. Rank 0 writes, every rank reads.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from babyllm.errors import UserError
from babyllm.files import fsync, json_digest, sha256, write_json
from babyllm.integrity import OPTIMIZER, RESUME
from babyllm.interop.huggingface import (
    ADAPTER_CONFIG,
    hf_name,
    load_weights,
    save_generation,
    save_model,
    weight_files,
)
from babyllm.interop.peft import adapter_parameters, fill_adapter, read_adapter, save_adapter
from babyllm.model.lora import lora_layers
from babyllm.model.token_rows import token_rows
from babyllm.model.transformer import Transformer
from babyllm.tokenizer import Tokenizer
from babyllm.training.state import TrainState

CONFIG, LATEST = "config.yaml", "latest"
_SAVING, _DELETING = ".saving", ".deleting"
_STEP = re.compile(r"step_(\d{8,})")


def step_directories(run_dir: Path) -> dict[int, Path]:
    """The complete step directories of a run, in the order of their steps."""
    found = {int(m[1]): p for p in run_dir.glob("step_*") if (m := _STEP.fullmatch(p.name)) and (p / RESUME).is_file()}
    return dict(sorted(found.items()))


def latest(run_dir: Path) -> Path | None:
    """The newest complete step directory of a run, or None."""
    steps = step_directories(run_dir)
    return steps[max(steps)] if steps else None


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
        state: at step N, between two steps.
        run_dir: of the run.
        tokenizer: written beside the weights.
        keep: how many of the newest steps stay, at least 1; the best one stays besides.
        chat_template: a Jinja template, stored with the tokenizer.
        end_ids: tokens that end an answer, besides the <eos>.

    Raises:
        UserError: the disk is full; nothing half-written is left and older steps are untouched.
    """
    if state.runtime.is_main:
        saving, pointer = run_dir / _SAVING, run_dir / f".{LATEST}"
        target = run_dir / f"step_{state.step:08d}"
        try:
            _write(state, saving, tokenizer, chat_template, end_ids)
            pointer.write_text(f"{target.name}\n")
            fsync(pointer)
        except (OSError, SafetensorError) as e:
            shutil.rmtree(saving, ignore_errors=True)
            pointer.unlink(missing_ok=True)
            if not _is_disk_full(e):
                raise
            raise UserError(
                f"{run_dir}: the disk is full, step {state.step} was not saved; free some space and start the same "
                "command again, it goes on from the last complete step"
            ) from e
        # Everything is written: from here on there are only renames.
        _delete(target)
        os.rename(saving, target)
        os.replace(pointer, run_dir / LATEST)
        fsync(run_dir)
        _prune(run_dir, max(1, keep), state.best)
    state.runtime.barrier()


def _is_disk_full(error: Exception) -> bool:
    codes = (errno.ENOSPC, errno.EDQUOT)
    if isinstance(error, OSError):
        return error.errno in codes
    return any(f"(os error {code})" in str(error) for code in codes)  # safetensors tells it in words alone


def _write(
    state: TrainState, directory: Path, tokenizer: Tokenizer | None, chat_template: str | None, end_ids: Sequence[int]
) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    _require_space(directory, state)
    if lora_layers(state.model):
        # Beside a config.json transformers would take the directory for a whole model.
        save_generation(directory, state.model, tokenizer, end_ids)
        if tokenizer:
            tokenizer.save(directory, chat_template=chat_template)
        save_adapter(directory, state.model, str(Path(state.model.origin).absolute()) if state.model.origin else "")
    else:
        save_model(directory, state.model, tokenizer, chat_template=chat_template, end_ids=end_ids)
    save_file(_optimizer_tensors(state), directory / OPTIMIZER)
    for file in directory.iterdir():
        fsync(file)
    resume: dict[str, Any] = {
        "step": state.step,
        "tokens": state.tokens,
        "skipped": state.skipped,
        "best": state.best,
        "bad_evaluations": state.bad_evaluations,
        "pending": state.pending,
        "stream": state.stream.state_dict(),
        "scaler": state.scaler.state_dict(),
        "base": _base_digest(state.model),
        "sha256": {file.name: sha256(file) for file in sorted(directory.iterdir())},
    }
    resume["sha256"][RESUME] = json_digest(resume)
    write_json(directory / RESUME, resume)
    fsync(directory)


def _base_digest(model: Transformer) -> str | None:
    """Hash of the weights an adapter was added to, as far as they come from files."""
    if not lora_layers(model) or not model.origin:
        return None
    files = [(file, file.stat()) for file in weight_files(Path(model.origin))]
    return " ".join(_file_digest(file, stat.st_size, stat.st_mtime_ns) for file, stat in files)


@cache  # by time and size too: hashed once, and not at every checkpoint
def _file_digest(path: Path, size: int, time_ns: int) -> str:
    return sha256(path)


def _require_space(directory: Path, state: TrainState) -> None:
    saved = adapter_parameters(state.model).values() or state.model.parameters()
    n_bytes = sum(4 * p.numel() for p in saved)
    n_bytes += sum(t.nbytes for s in state.optimizer.state.values() for t in s.values() if torch.is_tensor(t))
    if shutil.disk_usage(directory).free < n_bytes:
        raise OSError(errno.ENOSPC, "not enough space for a checkpoint")


def _optimizer_tensors(state: TrainState) -> dict[str, Tensor]:
    return {
        f"{key}.{hf_name(name)}": tensor.detach().cpu().contiguous()
        for name, parameter in state.model.named_parameters()
        for key, tensor in state.optimizer.state.get(parameter, {}).items()
    }


def load(state: TrainState, directory: Path) -> None:
    """Bring `state` to what was saved in `directory`.

    Raises:
        UserError: a file is missing or damaged, or it was made with another model or other data.
    """
    resume = _read_resume(directory)
    _load_weights(state, directory, resume.get("base"))
    _load_optimizer(state, load_file(directory / OPTIMIZER))
    state.stream.load_state_dict(resume["stream"])
    if state.scaler.is_enabled() and resume["scaler"]:
        state.scaler.load_state_dict(resume["scaler"])
    state.step, state.tokens, state.skipped = resume["step"], resume["tokens"], resume["skipped"]
    state.best = tuple(resume["best"]) if resume["best"] else None
    state.bad_evaluations, state.pending = resume["bad_evaluations"], resume["pending"]


def _load_weights(state: TrainState, directory: Path, base: str | None) -> None:
    layers = lora_layers(state.model)
    if bool(layers) != (directory / ADAPTER_CONFIG).is_file():
        how = "without" if layers else "with"
        raise UserError(f"{directory}: was made {how} LoRA; set lora.rank as it was, or choose another --run_dir")
    if not layers:
        state.model.load_state_dict(load_weights(directory, state.model.config))
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
            "bring that back, or choose another --run_dir"
        )
    fill_adapter(state.model, adapter, directory)


def _read_resume(directory: Path) -> dict[str, Any]:
    """What stands in `resume.json`, behind a check of the files beside it."""
    advice = f"delete {directory} to go on from an older step"
    try:
        resume: dict[str, Any] = json.loads((directory / RESUME).read_text(encoding="utf-8"))
        if resume["sha256"].pop(RESUME) != json_digest(resume):
            raise ValueError("its contents changed")
        expected: dict[str, str] = resume["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise UserError(f"{directory / RESUME}: cannot be read ({e}); {advice}") from e
    for name, digest in expected.items():
        if not (directory / name).is_file() or sha256(directory / name) != digest:
            raise UserError(f"{directory / name}: missing or damaged; {advice}")
    return resume


def _load_optimizer(state: TrainState, tensors: dict[str, Tensor]) -> None:
    plain = state.optimizer.state_dict()
    names = {id(parameter): hf_name(name) for name, parameter in state.model.named_parameters()}
    parameters = [p for group in state.optimizer.param_groups for p in group["params"]]
    keys = sorted({name.split(".", 1)[0] for name in tensors})
    for index, parameter in enumerate(parameters):
        mine = {
            key: tensors[f"{key}.{names[id(parameter)]}"] for key in keys if f"{key}.{names[id(parameter)]}" in tensors
        }
        if mine:
            plain["state"][index] = mine
    state.optimizer.load_state_dict(plain)


def _prune(run_dir: Path, keep: int, best: tuple[float, int] | None) -> None:
    steps = step_directories(run_dir)
    for step in list(steps)[:-keep]:
        if best is None or step != best[1]:
            _delete(steps[step])
    for leftover in run_dir.glob(f"{_DELETING}*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _delete(directory: Path) -> None:
    """Delete a step directory so that at no moment a part of it looks complete."""
    if directory.exists():
        doomed = directory.with_name(f"{_DELETING}_{directory.name}")
        shutil.rmtree(doomed, ignore_errors=True)
        os.rename(directory, doomed)
        shutil.rmtree(doomed, ignore_errors=True)
