"""The configuration of one run: flags of base and arm, the seed, the run directory.

base, arm -> values by dotted key, later ones over earlier ones -> seeds and run_dir -> YAML, checked as the stage does
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Collection, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml

from babyllm.config import load
from babyllm.config.command_line import keys
from babyllm.config.option_names import instead
from babyllm.errors import UserError

STAGES = {
    "pretrain": ("pretraining_config", "PretrainConfig"),
    "sft": ("fine_tuning_config", "FineTuneConfig"),
    "reward": ("preference.reward_config", "RewardConfig"),
    "classifier": ("preference.classifier_config", "ClassifierConfig"),
    "dpo": ("preference.dpo_config", "DpoConfig"),
    "ppo": ("policy.ppo_config", "PpoConfig"),
    "grpo": ("policy.grpo_config", "GrpoConfig"),
}
"""The module and the type of the configuration of each command that trains."""
SEEDS = ("plan.seed", "data.seed", "rollout.seed", "ptx.seed")
"""Keys that the seed of a run sets: initial weights and dropout, order of the data, draws of a policy."""
MIX = "data.mix"


def configuration(stage: str) -> Any:
    """The type of a stage's configuration."""
    # One module at a time is loaded, since most need torch.
    module, name = STAGES[stage]
    return getattr(import_module(f"babyllm.training.stages.{module}"), name)


def run_values(stage: str, parts: Mapping[str, Mapping[str, Any]], seed: int, run_dir: Path) -> dict[str, Any]:
    """The values of a run by dotted key.

    Args:
        stage: name of the stage.
        parts: flags by their origin in words, such as "base"; a later one overrides earlier ones. A key is nested or
            dotted; one below a setting that is a mapping, such as data.mix.zh, changes this entry alone.
        seed: seed of the run; it sets the keys in `SEEDS` that no flag sets.
        run_dir: directory of the run.

    Raises:
        UserError: a key is unknown, or is set by the study itself; the message names the origin.
    """
    known = keys(configuration(stage))
    values: dict[str, Any] = {}
    for origin, flags in parts.items():
        for key, value in flags.items():
            _put(values, key, value, known, origin)
    if "run_dir" in values:
        raise UserError("run_dir: a study chooses it for each run; set 'out', the directory of all runs")
    for key in SEEDS:
        if key in known:
            values.setdefault(key, seed)
    return {"run_dir": str(run_dir), **values}


def _put(values: dict[str, Any], key: str, value: Any, known: Collection[str], origin: str) -> None:
    """Set a key, all keys of a section, or an entry of a setting that is a mapping."""
    if key in known:
        values[key] = value
        return
    if outer := next((name for name in known if key.startswith(f"{name}.")), None):
        before, entry = values.get(outer) or {}, key[len(outer) + 1 :]
        if not isinstance(before, dict):
            raise UserError(f"{origin}: '{key}' is an entry of {outer}, which is {before!r} and not a mapping")
        if outer == MIX and not set(before) - {entry}:
            raise UserError(
                f"{origin}: '{key}' would be the only weight of {outer}, and the run would read this domain alone; "
                f"give the weights of the others in 'base', such as {outer}: {{en: 1.0}}"
            )
        values[outer] = {**before, entry: value}
    elif isinstance(value, dict) and any(name.startswith(f"{key}.") for name in known):
        for name, each in value.items():
            _put(values, f"{key}.{name}", each, known, origin)
    else:
        raise UserError(f"{origin}: unknown key '{key}': {instead(key, known, known, is_flag=False)}")


def as_yaml(values: Mapping[str, Any]) -> str:
    """Values by dotted key as the YAML of a configuration, which `--config` reads."""
    nested: dict[str, Any] = {}
    for key, value in values.items():
        section = nested
        *names, last = key.split(".")
        for name in names:
            section = section.setdefault(name, {})
        section[last] = value
    text: str = yaml.safe_dump(nested, sort_keys=False, allow_unicode=True, default_flow_style=None, width=2**20)
    return text


def check_values(stage: str, values: Mapping[str, Any], where: str) -> Any:
    """The configuration of these values, of the stage's type.

    Args:
        stage: name of the stage.
        values: values by dotted key.
        where: the place of the values for messages.

    Raises:
        UserError: a value is of the wrong type or beyond its limits.
    """
    with tempfile.TemporaryDirectory(prefix="babyllm-") as folder:
        file = Path(folder, "run.yaml")
        file.write_text(as_yaml(values), encoding="utf-8")
        try:
            return load(configuration(stage), file)
        except UserError as error:
            raise UserError(f"{where}: {re.sub(rf'{re.escape(str(file))}(:[0-9]+)?: ', '', str(error))}") from None


def changed_keys(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The differences of two configurations as read from YAML, nested by section: `key: old -> new` for each key."""
    before, after = _flat(old), _flat(new)
    return [
        f"{key}: {_show(before, key)} -> {_show(after, key)}"
        for key in dict.fromkeys([*before, *after])
        if (key in before, before.get(key)) != (key in after, after.get(key))
    ]


def _show(values: Mapping[str, Any], key: str) -> str:
    return str(values[key]) if key in values else "(absent)"


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat
