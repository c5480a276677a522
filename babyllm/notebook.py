"""One call each to train, chat, evaluate, import and export, for notebooks and programs.

arguments -> flags -> the configuration of `babyllm COMMAND` -> the same work, in this process -> plain values

Settings are those of the command, with sections as dictionaries: `plan={"peak_lr": 1e-3}` is `--plan.peak_lr=1e-3`.
Errors name the argument or the dotted key.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, is_dataclass, replace
from pathlib import Path
from typing import Any

from babyllm.config import command_line
from babyllm.errors import UserError, naming_arguments
from babyllm.generation.chat_session import ChatSession
from babyllm.runtime import Runtime
from babyllm.training.run_config import C
from babyllm.training.stage import Beginning, train_stage

Source = str | os.PathLike[str]


@dataclass(frozen=True)
class TrainedRun:
    """The state of a run after a call that trained it.

    Attributes:
        run_dir: directory of the run; `babyllm.load(run_dir)` reads its model.
        step: last finished step.
        n_steps: number of steps of the plan.
        tokens: number of tokens trained on since the first step.
        stop_reason: why the run ended before its plan, such as Ctrl-C (the same call resumes it); None if it did not.
        metrics: newest value of each metric by name: "loss" and "val/<domain>/loss" in nats, "val/<domain>/bpb" in bits
            per byte, and so on; None for a value that was not finite.
    """

    run_dir: Path
    step: int
    n_steps: int
    tokens: int
    stop_reason: str | None
    metrics: dict[str, float | None]

    @property
    def is_finished(self) -> bool:
        """Whether the plan's last step is finished."""
        return self.step >= self.n_steps


def pretrain(
    texts: Source | None = None, run_dir: Source = "runs/pretrain", *, steps: int | None = None, **settings: Any
) -> TrainedRun:
    """Pretrain a model, or resume the run in `run_dir`: `babyllm pretrain` in this process.

    Args:
        texts: folder or file of raw texts, or directory of token data; None takes the sample corpus.
        run_dir: directory that records the run.
        steps: optimizer steps of the whole run; None leaves it to `plan`.
        settings: fields of `PretrainConfig`, such as `model={"preset": "nano"}` or `eval_every=100`; sections are
            dictionaries or configurations.

    Raises:
        UserError: an argument or the data is at fault; the message names it.
    """
    from babyllm.commands.training.pretrain import begin
    from babyllm.training.stages.pretraining_config import PretrainConfig, resolved

    shorts = {"data.path": texts, "run_dir": run_dir, "plan.steps": steps}
    with naming_arguments({"data.path": "texts", "plan.steps": "steps"} if steps else {"data.path": "texts"}):
        return _trained(PretrainConfig, begin, resolved, _flags_of(PretrainConfig, shorts, settings))


def finetune(
    chats: Source | Iterable[Source] | None = None,
    run_dir: Source = "runs/sft",
    *,
    init_from: Source = "runs/pretrain",
    steps: int | None = None,
    **settings: Any,
) -> TrainedRun:
    """Fine-tune a model on conversations, or resume the run in `run_dir`: `babyllm sft` in this process.

    Args:
        chats: file or folder of conversations, or several; None takes the sample set.
        run_dir: directory that records the run.
        init_from: run, step or Hugging Face directory of the model to start from.
        steps: optimizer steps of the whole run; None leaves it to `plan`.
        settings: fields of `FineTuneConfig`, such as `lora={"rank": 8}`; sections are dictionaries or configurations.

    Raises:
        UserError: an argument or the data is at fault; the message names it.
    """
    from babyllm.commands.training.sft import begin
    from babyllm.training.stages.fine_tuning_config import FineTuneConfig, resolved

    path = chats if chats is None or isinstance(chats, str | os.PathLike) else [str(each) for each in chats]
    shorts = {"data.path": path, "run_dir": run_dir, "init_from": init_from, "plan.steps": steps}
    with naming_arguments({"data.path": "chats", "plan.steps": "steps"} if steps else {"data.path": "chats"}):
        return _trained(FineTuneConfig, begin, resolved, _flags_of(FineTuneConfig, shorts, settings))


def load_chat(
    model_dir: Source, *, system: str = "", int8: bool = False, device: str = "auto", **settings: Any
) -> ChatSession:
    """A chat with the model of a run, step, Hugging Face or adapter directory: `load_chat("runs/sft").say("你好")`.

    Args:
        model_dir: directory of the model.
        system: system message, which the model reads first; empty for none.
        int8: whether to hold all matrices in 8 bits, in about a quarter of their memory; changes scores slightly.
        device: cpu, cuda, mps, or auto for the first available of cuda, mps, cpu.
        settings: fields of `Sampling`, such as `temperature=0` or `seed=1`.

    Raises:
        UserError: a file is missing or does not fit, or an argument is out of range; the message names it.
        TypeError: there is no such setting.
    """
    from babyllm.chat.session import Session
    from babyllm.commands import note_base_model
    from babyllm.generation import Engine, Sampling
    from babyllm.loading import load_chat_model
    from babyllm.runtime.device import find_device

    with naming_arguments({"runtime.device": "device"}):
        sampling = Sampling(**{"max_new_tokens": 512, **settings})
        on = find_device(device, 0, 1)
        found = load_chat_model(os.fspath(model_dir), int8=int8)
        found.require_template_tokens(os.fspath(model_dir))
        note_base_model(found, os.fspath(model_dir))
        return ChatSession(
            Engine(found.model.to(on), slots=1, tokenizer=found.tokenizer), found.template, sampling, Session(system)
        )


def evaluate_model(
    model_dir: Source | Iterable[Source], data: Source | Iterable[Source] | None = None, **settings: Any
) -> dict[str, Any]:
    """The results of `babyllm eval`, as numbers by name.

    Args:
        model_dir: run, step, Hugging Face or adapter directory of the model; several for tasks and texts.
        data: directory of token data, or files and folders of conversations; None takes the data that the run held
            out.
        settings: other flags of `babyllm eval`, such as `tasks=["xcopa"]` or `max_tokens=100_000`.

    Returns:
        For token data {"<domain>/loss": nats per token, "<domain>/bpb": bits per byte}; for conversations {"loss",
        "accuracy", "n" ...} by task; for tasks {"value", "error", "chance", "verdict" ...} by task and metric, of
        several models by their directories first.

    Raises:
        UserError: an argument or the data is at fault; the message names it.
        KeyboardInterrupt: Ctrl-C was pressed.
    """
    from babyllm.commands.use.eval import evaluated
    from babyllm.commands.use.evaluations.flags import Flags

    directories = [model_dir] if isinstance(model_dir, str | os.PathLike) else model_dir
    path = data if data is None or isinstance(data, str | os.PathLike) else [str(each) for each in data]
    with naming_arguments():
        flags = command_line.parse(Flags, _flags_of(Flags, {"data": path}, settings), prog="evaluate_model")
        evaluation = evaluated(flags, *(os.path.expanduser(each) for each in directories))
    return dict(evaluation.values) if evaluation else {}


def import_model(source: Source, target: Source, *, tokenizer: Source | None = None, dtype: str = "float32") -> Path:
    """Write a model of another format as a Hugging Face directory: `babyllm import` in this process.

    Args:
        source: GGUF file, llama2.c file or Hugging Face directory.
        target: directory to create, or an empty one.
        tokenizer: tokenizer file of a llama2.c model; None takes the `tokenizer.bin` beside it.
        dtype: type of the weights: "float32", "bfloat16" or "float16".

    Returns:
        The directory.

    Raises:
        UserError: the source is missing, damaged or not supported, or the target exists.
    """
    from babyllm.commands.training.import_ import Flags, imported

    with naming_arguments():
        given = _flags_of(Flags, {"tokenizer": tokenizer, "dtype": dtype}, {})
        flags = command_line.parse(Flags, given, prog="import_model")
        imported(flags, os.path.expanduser(source), os.path.expanduser(target))
    return Path(os.path.expanduser(target))


def export_model(
    source: Source, target: Source, *, dtype: str | None = None, gguf: Iterable[str] = (), **settings: Any
) -> list[str]:
    """Write a model for other programs: `babyllm export` in this process.

    Args:
        source: run, step, adapter or Hugging Face directory.
        target: directory to create, or an empty one.
        dtype: type of the weights of a Hugging Face directory; None takes "bfloat16" if no GGUF file is asked for.
        gguf: formats of GGUF files: "F32", "F16", "Q8_0".
        settings: other settings of the command, such as `check=False` or `card={"license": "mit"}`.

    Returns:
        What was written and how it compares with the source, in a sentence for each file.

    Raises:
        UserError: the model cannot be expressed, a check failed, or the target exists.
    """
    from babyllm.commands.training.export import Flags, exported

    with naming_arguments():
        given = _flags_of(Flags, {"dtype": dtype, "gguf": list(gguf)}, settings)
        flags = command_line.parse(Flags, given, prog="export_model")
        return list(exported(flags, os.path.expanduser(source), os.path.expanduser(target)))


def _trained(
    kind: type[C], begin: Callable[[C, Runtime], Beginning], resolve: Callable[[C], C], flags: list[str]
) -> TrainedRun:
    """Train a stage's run in this process, which may be a rank of torchrun; torch's random generators are restored."""
    import torch

    from babyllm.training.recording.records import read_metrics

    config = command_line.parse(kind, flags, prog=kind.__name__)
    if (config.runtime.processes or 1) > 1:
        raise UserError(
            f"runtime.processes={config.runtime.processes}: a call trains in its own process; leave it out, or start "
            "this program with torchrun"
        )
    config = resolve(replace(config, runtime=replace(config.runtime, processes=1)))
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        stage = train_stage(config, begin)
    state, run_dir = stage.state, Path(config.run_dir)
    metrics: dict[str, float | None] = {}
    for record in read_metrics(run_dir):
        metrics |= record
    named = {name: value for name, value in metrics.items() if name not in ("step", "time")}
    return TrainedRun(run_dir, state.step, stage.plan.n_steps, state.tokens, state.stop_reason, named)


def _flags_of(kind: Any, shorts: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
    """The settings of a call as flags; arguments in `shorts` that are not None come last, so that they win."""
    known = set(command_line.keys(kind))
    given = [_flag(key, value) for key, value in shorts.items() if value is not None]
    return [*_nested(settings, known), *given]


def _nested(settings: Mapping[str, Any], known: set[str], prefix: str = "") -> Iterator[str]:
    for name, value in settings.items():
        key = prefix + name
        section = command_line.to_dict(value) if is_dataclass(value) else value
        if isinstance(section, Mapping) and key not in known:
            yield from _nested(section, known, f"{key}.")
        else:
            yield _flag(key, value)


def _flag(key: str, value: Any) -> str:
    if value is None or isinstance(value, str | os.PathLike):
        return f"--{key}={'null' if value is None else os.fspath(value)}"
    return f"--{key}={json.dumps(value, ensure_ascii=False, default=str)}"
