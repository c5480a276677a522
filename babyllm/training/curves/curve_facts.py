"""What must be known of a run to judge its curve: its records by column, its stage, its model and its rates."""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from babyllm.config.yaml_nodes import load_yaml
from babyllm.errors import UserError
from babyllm.run_directory import CONFIG, meant_step
from babyllm.schedule import Plan, learning_rate
from babyllm.training.curves.trends import Values

if TYPE_CHECKING:
    from babyllm.training.run_config import RunConfig
    from babyllm.training.state import TrainState

REWARD, FIRST_LOSS = "rollout/reward", "first_loss"
COLUMNS = ("step", "loss", "grad_norm", "lr", "tokens", "val/all/loss", "val/all/bpb", FIRST_LOSS, REWARD, "epoch")
_SAMPLED_RATES = 256
_MIXED = ("mix", "interleave", "concat", "stages")


class Curve:
    """The numbers of a run that its findings depend on, in columns; NaN stands for a number that is not there."""

    def __init__(self, records: list[Mapping[str, Any]] | None = None) -> None:
        self._columns = {name: array("d") for name in COLUMNS}
        for record in records or []:
            self.add(record)

    def __len__(self) -> int:
        return len(self._columns["step"])

    def add(self, record: Mapping[str, Any]) -> None:
        """Add the record of a step; it replaces the last one if that is of the same step."""
        epochs = [value for name, value in record.items() if name.startswith("epoch") and value is not None]
        values = {**record, "epoch": max(epochs, default=None)}
        is_same = len(self) and self._columns["step"][-1] == record["step"]
        for name, column in self._columns.items():
            if is_same:
                column.pop()
            value = values.get(name)
            column.append(math.nan if value is None else float(value))

    def near(self, name: str, step: float) -> float | None:
        """The mean of a column over the records near a step, a twentieth of them at most; None if there are none."""
        steps, values = self.column("step"), self.column(name)
        steps, values = steps[known := np.isfinite(values)], values[known]
        if not len(values):
            return None
        nearest = np.argsort(np.abs(steps - step), kind="stable")[: max(3, len(values) // 20)]
        return float(values[nearest].mean())

    def column(self, name: str) -> Values:
        """A copy of a column: (n,) float64, NaN where the number is missing."""
        return np.array(self._columns[name])


@dataclass(frozen=True)
class RunFacts:
    """What a run is, as far as it decides which losses are usual.

    Attributes:
        stage: name of the command that trains so, such as sft; empty if it is not known.
        is_fresh: whether the weights were drawn at random.
        vocab_size: ids of the vocabulary; 0 if unknown.
        d_model: width of the model; 0 if unknown.
        n_parameters: number of parameters; 0 if unknown.
        clip_norm: largest gradient norm, to which larger ones are scaled down; 0 for none.
        distance: sum of the learning rates of all steps of the plan, with the largest factor of a group; NaN if the
            plan is unknown. AdamW moves no weight farther (Kingma and Ba 2015, section 2.1).
        n_steps: steps of the plan; 0 if unknown.
        data_change: whether the data become harder or change during the run.
        is_comparable: whether training and held-out loss are means over the same things: tokens, as they occur.
        has_other_losses: whether the loss has parts besides that of the language model.
        reference: name or path of the curve to compare with; auto chooses one, none draws none.
        data: path of the training data, as it was configured.
        loss: name of the loss where a stage has several; of a policy, what rewards it.
    """

    stage: str = ""
    is_fresh: bool = False
    vocab_size: int = 0
    d_model: int = 0
    n_parameters: int = 0
    clip_norm: float = 0.0
    distance: float = math.nan
    n_steps: int = 0
    data_change: bool = False
    is_comparable: bool = True
    has_other_losses: bool = False
    reference: str = "auto"
    data: str = ""
    loss: str = ""


def stage_of(config: Mapping[str, Any]) -> str:
    """The stage whose configuration has these sections; empty if there is none."""
    if "rollout" in config:
        return "ppo" if "critic" in config else "grpo"
    own = {"aux": "pretrain", "normalise": "sft", "reference_set": "reward", "reference": "dpo"}
    for key, stage in own.items():
        if key in config:
            return stage
    return "classifier" if "lora" in config else ""


def facts_of_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The facts that a configuration holds, given as nested values."""
    data, optim = config.get("data") or {}, config.get("optim") or {}
    changing = [data.get("stages"), *((data.get(name) or {}).get("by") for name in ("curriculum", "vocabulary"))]
    return {
        "stage": stage_of(config),
        "is_fresh": config.get("init_from") is None and "aux" in config,
        "clip_norm": float((config.get("plan") or {}).get("clip_norm") or 0.0),
        "data_change": any(changing),
        "is_comparable": config.get("normalise", "token") == "token" and not any(data.get(name) for name in _MIXED),
        "has_other_losses": bool((config.get("aux") or {}).get("pos_weight")),
        "reference": str(config.get("reference_curve") or "auto"),
        "data": str(data.get("path") or ""),
        "loss": _name_of_loss(config),
        "n_steps": int((config.get("plan") or {}).get("steps") or 0),
        "distance": math.nan if not optim else _largest_factor(optim),  # of one step at rate 1
    }


def _name_of_loss(config: Mapping[str, Any]) -> str:
    if functions := (config.get("reward") or {}).get("functions"):
        return ", ".join(sorted(functions))
    return str((config.get("loss") or {}).get("name") or "")


def _largest_factor(optim: Mapping[str, Any]) -> float:
    return max(1.0, float(optim.get("matrices_lr", 1.0)), float(optim.get("embedding_lr", 1.0)))


def facts_of_state(config: RunConfig, state: TrainState, plan: Plan) -> RunFacts:
    """The facts of a run that is about to train."""
    from babyllm.config import to_dict

    facts, shape = facts_of_config(to_dict(config)), state.model.config
    known = {
        "vocab_size": shape.vocab_size,
        "d_model": shape.d_model,
        "n_parameters": sum(parameter.numel() for parameter in state.model.parameters()),
        "n_steps": plan.n_steps,
        "distance": _sum_of_rates(plan) * facts["distance"],
    }
    return RunFacts(**facts | known)


def _sum_of_rates(plan: Plan) -> float:
    """The sum of a plan's learning rates, from some of them."""
    steps = np.unique(np.linspace(0, plan.n_steps - 1, _SAMPLED_RATES).astype(int))
    return plan.n_steps * float(np.mean([learning_rate(plan, int(step)) for step in steps]))


def facts_of_run(run_dir: Path) -> RunFacts:
    """The facts of a run, read from its directory; what it does not hold is left unknown."""
    config: Any = None
    with suppress(OSError, ValueError, yaml.YAMLError):
        config = load_yaml((run_dir / CONFIG).read_text(encoding="utf-8"))
    if not isinstance(config, dict):
        return RunFacts()
    facts, total = facts_of_config(config), math.nan
    with suppress(TypeError, UserError):  # a plan of another version, or one without its number of steps
        total = _sum_of_rates(Plan(**config["plan"])) if facts["n_steps"] else math.nan
    return RunFacts(**facts | {"distance": total * facts["distance"]} | _shape(run_dir))


def _shape(run_dir: Path) -> dict[str, int]:
    """The sizes of a run's model, by its newest step."""
    step = meant_step(run_dir)
    if step is None or not (step / "config.json").is_file():
        return {}
    from babyllm.config.json_fields import read_json
    from babyllm.interop.hf_config import config_from_json
    from babyllm.model.config import parameter_counts

    with suppress(UserError, OSError):
        shape = config_from_json(read_json(step / "config.json"))
        n = sum(parameter_counts(shape).values())
        return {"vocab_size": shape.vocab_size, "d_model": shape.d_model, "n_parameters": n}
    return {}
