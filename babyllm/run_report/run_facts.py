"""What the files of a run say about a model: its data, its figures, the command that made it.

config.yaml, environment.json, metrics.jsonl, samples.jsonl, the data's manifest, resume.json -> RunFacts

A file that is missing leaves its part empty.
"""

from __future__ import annotations

import json
import math
import re
import shlex
import statistics
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from babyllm.config import load, to_dict
from babyllm.config.command_line import keys
from babyllm.config.json_fields import Fields, read_json
from babyllm.config.values import MAX_COUNT
from babyllm.config.yaml_nodes import load_yaml
from babyllm.data.conversation_config import STORE
from babyllm.data.pair_config import STORE as PAIRS
from babyllm.errors import UserError
from babyllm.integrity import RESUME
from babyllm.run_directory import CONFIG, LATEST
from babyllm.store.conversations import MANIFEST as CONVERSATIONS
from babyllm.store.data_sets import DataRecord, read_data_sets
from babyllm.store.shards import MANIFEST as TOKENS
from babyllm.training.recording.records import METRICS_FILE, SAMPLES_FILE, read_metrics, read_records

Row = list[str | int]
_STEP = re.compile(r"step_\d{8,}")
_HAN, _LATIN = re.compile("[\u4e00-\u9fff]"), re.compile("[A-Za-z]+")
_HELD_OUT = re.compile(r"val/(.+)/(bpb|loss|accuracy)")


@dataclass(frozen=True)
class Data:
    """The size of a run's data.

    Attributes:
        columns: names of the columns of `rows`.
        rows: name of the domain or task, split, and counts.
        training_tokens: number of tokens for training.
        vocab_size: vocabulary size of the tokenizer that made them.
    """

    columns: tuple[str, ...]
    rows: list[Row]
    training_tokens: int
    vocab_size: int


@dataclass(frozen=True)
class RunFacts:
    """What a run's files say about one of its steps.

    Attributes:
        run_dir: directory of the run.
        step: optimizer steps of the model; 0 if unknown.
        tokens: tokens that the model was trained on; 0 if unknown.
        config: configuration by section, without folders of this machine.
        command: command that repeats the run; empty if unknown.
        environment: versions and machine.
        data: size of the data; None if unknown.
        data_sets: data sets of a registry that the data were made from.
        loss: training loss at the step, in nats; None if unknown.
        held_out: value by measure ("bpb", "loss", "accuracy") by domain or task, at the step or the last one before.
        tokens_per_s: median number of tokens per second; None if unknown.
        seconds: time in training steps; None if unknown.
        has_curve: whether losses were recorded.
        languages: codes of the languages that the model wrote in, of "zh" and "en".
    """

    run_dir: Path
    step: int = 0
    tokens: int = 0
    config: dict[str, Any] = field(default_factory=dict)
    command: str = ""
    environment: dict[str, Any] = field(default_factory=dict)
    data: Data | None = None
    data_sets: list[DataRecord] = field(default_factory=list)
    loss: float | None = None
    held_out: dict[str, dict[str, float]] = field(default_factory=dict)
    tokens_per_s: float | None = None
    seconds: float | None = None
    has_curve: bool = False
    languages: tuple[str, ...] = ()


def read_config(path: Path) -> dict[str, Any]:
    """The values in a run's config.yaml, by section.

    Raises:
        UserError: the file is not a configuration.
    """
    try:
        config = load_yaml(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        config = None
    if not isinstance(config, dict):
        raise UserError(f"{path}: is not the configuration of a run; is this a run directory?")
    return config


def run_directory_of(directory: Path) -> Path | None:
    """The run that a step directory belongs to, or `directory` itself if it is a run; None for a model without one."""
    home = directory.parent if _STEP.fullmatch(directory.name) else directory
    is_run = any((home / name).is_file() for name in (CONFIG, METRICS_FILE, LATEST))
    return home if is_run else None


def read_run(step_dir: Path) -> RunFacts | None:
    """The facts about a step of a run; None for a model directory without a run.

    Raises:
        UserError: a file of the run is damaged.
    """
    run_dir = run_directory_of(step_dir)
    if run_dir is None:
        return None
    resume = Fields(_object(step_dir / RESUME), str(step_dir / RESUME))
    config = read_config(run_dir / CONFIG) if (run_dir / CONFIG).is_file() else {}
    step = resume.integer("step", 0, low=0, high=MAX_COUNT)
    return RunFacts(
        run_dir,
        step,
        resume.integer("tokens", 0, low=0, high=MAX_COUNT),
        without_folders(config),
        command_of(run_dir / CONFIG, set(config)),
        _object(run_dir / "environment.json"),
        data_of(run_dir, config),
        [one for store in (STORE, PAIRS) for one in read_data_sets(run_dir / store) if one.name],
        languages=_languages(run_dir / SAMPLES_FILE, step),
        **_figures(run_dir, step),
    )


def _object(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def _figures(run_dir: Path, step: int) -> dict[str, Any]:
    if not (run_dir / METRICS_FILE).is_file():
        return {}
    whole = read_metrics(run_dir)
    records = [_numbers(record) for record in whole if not step or not (record["step"] or 0) > step]
    held_out: dict[str, dict[str, float]] = {}
    for record in records:
        for name, value in record.items():
            if found := _HELD_OUT.fullmatch(name):
                held_out.setdefault(found[1], {})[found[2]] = value
    rates = [rate for record in records if (rate := record.get("tokens_per_s"))]
    losses = [record["loss"] for record in records if "loss" in record]
    return {
        "loss": losses[-1] if losses else None,
        "held_out": held_out,
        "tokens_per_s": statistics.median(rates) if rates else None,
        "seconds": sum(_step_seconds(records)) or None,
        "has_curve": any("loss" in record for record in whole) and all(map(_is_drawable, whole)),
    }


def _numbers(record: dict[str, float | None]) -> dict[str, float]:
    return {name: value for name, value in record.items() if isinstance(value, (int, float)) and math.isfinite(value)}


def _is_drawable(record: dict[str, float | None]) -> bool:
    return all(value is None or isinstance(value, (int, float)) for value in record.values())


def _step_seconds(records: list[dict[str, float]]) -> Iterator[float]:
    """The time between records from tokens and speed, so that pauses between a stop and a start do not count."""
    before = 0.0
    for record in records:
        tokens, rate = record.get("tokens"), record.get("tokens_per_s")
        if tokens and rate:
            yield (tokens - before) / rate
            before = tokens


def _languages(path: Path, step: int) -> tuple[str, ...]:
    """The languages of the texts that the model wrote, by their letters."""
    records: list[dict[str, Any]] = list(read_records(path)) if path.is_file() else []
    text = "".join(str(r.get("text", "")) for r in records if not step or r["step"] <= step)
    counts = {"zh": len(_HAN.findall(text)), "en": len(_LATIN.findall(text))}
    return tuple(code for code, count in counts.items() if count > 0.2 * sum(counts.values()))


def data_of(run_dir: Path, config: Mapping[str, Any]) -> Data | None:
    """The size of a run's data; None if it is unknown.

    Raises:
        UserError: a file of the data is damaged.
    """
    if (run_dir / STORE / CONVERSATIONS).is_file():
        return _conversations(run_dir / STORE / CONVERSATIONS)
    path = config.get("data", {}).get("path") if isinstance(config.get("data"), dict) else None
    # The run has the tokens of raw texts.
    places = [run_dir / "data" / "tokens", *([Path(path)] if isinstance(path, str) and path else [])]
    return next((_tokens(place / TOKENS) for place in places if (place / TOKENS).is_file()), None)


def _tokens(path: Path) -> Data | None:
    manifest = read_json(path)
    sizes: dict[tuple[str, str], list[int]] = {}
    try:
        for shard in manifest["shards"]:
            size = sizes.setdefault((shard["domain"], shard["split"]), [0, 0, 0])
            for i, name in enumerate(("documents", "tokens", "bytes")):
                size[i] += shard[name]
        rows: list[Row] = [[domain, split, *counts] for (domain, split), counts in sizes.items()]
        training = sum(counts[1] for (_, split), counts in sizes.items() if split == "train")
        return Data(("domain", "split", "documents", "tokens", "bytes"), rows, training, manifest["vocab_size"])
    except (KeyError, TypeError) as error:
        raise UserError(f"{path}: is not a manifest of token data ({error}); bring it back or move it away") from error


def _conversations(path: Path) -> Data | None:
    try:
        manifest = read_json(path)["manifest"]
        groups = manifest["groups"]
        names = ("task", "split", "conversations", "turns", "tokens")
        rows: list[Row] = [[group[name] for name in names] for group in groups]
        training = sum(group["tokens"] for group in groups if group["split"] == "train")
        return Data(names, rows, training, manifest["vocab_size"])
    except (KeyError, TypeError) as error:
        raise UserError(f"{path}: is not a store of conversations ({error}); bring it back or move it away") from error


def without_folders(value: Any) -> Any:
    """The same values with absolute paths cut to their last part: folders often have a person's name."""
    if isinstance(value, dict):
        return {name: without_folders(one) for name, one in value.items()}
    if isinstance(value, list):
        return [without_folders(one) for one in value]
    is_path = isinstance(value, str) and "\n" not in value and (value.startswith(("/", "~")) or value[1:3] == ":\\")
    return re.split(r"[/\\]", value.rstrip("/\\"))[-1] if is_path else value


_STAGES = {
    "pretrain": "pretraining_config:PretrainConfig",
    "sft": "fine_tuning_config:FineTuneConfig",
    "reward": "preference.reward_config:RewardConfig",
    "classifier": "preference.classifier_config:ClassifierConfig",
    "dpo": "preference.dpo_config:DpoConfig",
    "ppo": "policy.ppo_config:PpoConfig",
    "grpo": "policy.grpo_config:GrpoConfig",
}
"""The configuration of each command that trains."""


def command_of(path: Path, names: set[str]) -> str:
    """The command with all values of a run that differ from the defaults; empty for an unknown kind of run."""
    name, kind = stage_of(names)
    if kind is None:
        return ""
    with suppress(UserError):  # the configuration of another version
        given, default = to_dict(load(kind, path)), to_dict(kind())
        changed = [key for key in keys(kind) if key != "run_dir" and _at(given, key) != _at(default, key)]
        flags = [f"--{key}={_flag_text(without_folders(_at(given, key)))}" for key in changed]
        return " \\\n  ".join([f"babyllm {name}", *map(shlex.quote, flags)])
    return ""


def stage_of(names: set[str]) -> tuple[str, Any]:
    """The command and the type of the configuration that has these fields, or nearly these, as of another version.

    The type is None if there is none.
    """
    best = (0.7, "", None)  # of two, the share of names that both have
    for command, where in _STAGES.items():
        module, _, name = where.partition(":")
        kind = getattr(import_module(f"babyllm.training.stages.{module}"), name)
        known = {one.name for one in fields(kind)}
        share = len(names & known) / len(names | known)
        if share > best[0]:
            best = share, command, kind
    return best[1:]


def _at(tree: Any, key: str) -> Any:
    for part in key.split("."):
        tree = tree[part]
    return tree


def _flag_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
