"""Curves that a run's own is compared with: built-in ones, each with its source, or those of another run.

built_in/*.yaml or a run's metrics.jsonl -> Reference -> those that fit a run, on the axis of its steps -> NamedCurve

Nats per token compare only with the same tokenizer. A built-in curve of another tokenizer is scaled to the same bits
per byte where both runs have logged them, and otherwise is not drawn unless it is named.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from babyllm.config.yaml_nodes import load_yaml
from babyllm.errors import UserError
from babyllm.runtime.machine import Language
from babyllm.training.curves.curve_facts import REWARD, Curve, RunFacts, facts_of_run
from babyllm.training.recording.records import METRICS_FILE, read_metrics, read_records

_SIMILAR, _ALIKE = 4.0, 1.5  # ratios of sizes up to which a curve, or a published point, fits a run
_FEW_IDS = 16
_PER_TOKEN = ("pretrain", "sft")  # stages whose loss depends on the tokenizer


@dataclass(frozen=True)
class Reference:
    """A curve or a single result of a run that went well.

    Attributes:
        name: name by which `reference_curve` chooses it.
        stage: name of the command that trained so.
        model: the model in words.
        n_parameters: number of its parameters.
        vocab_size: ids of its vocabulary.
        tokenizer: the tokenizer in words.
        data: the data in words.
        metric: name in metrics.jsonl of the value.
        x: unit of the first number of a point: tokens or steps.
        points: (x, value) pairs in order; a single one is the end of a run of which no more is known.
        held_out: (x, loss in nats per token, bits per byte or null) of the evaluations.
        bytes_per_token: UTF-8 bytes of its held-out text for a token; null if unknown.
        loss: name of the loss where a stage has several; of a policy, what rewarded it.
        source: where the numbers are from: the command, machine, commit and date, or the publication.
    """

    name: str
    stage: str
    model: str
    n_parameters: int
    vocab_size: int
    tokenizer: str
    data: str
    metric: str
    x: Literal["tokens", "steps"]
    points: Sequence[tuple[float, float]]
    source: str
    held_out: Sequence[tuple[float, float, float | None]] = ()
    bytes_per_token: float | None = None
    loss: str = ""


class NamedCurve(NamedTuple):
    """A reference on the axis of a run.

    Attributes:
        name: name of the reference.
        label: what it is, in a few words.
        steps: steps of the run that correspond to its points.
        values: its values, in the unit of the run.
        source: where the numbers are from.
        metric: name in metrics.jsonl of what is compared.
        is_point: whether it is a single result instead of a curve.
        is_raw: whether it has the noise of single records.
        note: what limits the comparison; empty if nothing does.
    """

    name: str
    label: str
    steps: list[float]
    values: list[float]
    source: str
    metric: str
    is_point: bool
    is_raw: bool
    note: str


@cache
def built_in() -> tuple[Reference, ...]:
    """The references that come with the package, by name."""
    found = []
    for file in sorted(files("babyllm.training.curves").joinpath("built_in").iterdir(), key=lambda one: one.name):
        if file.name.endswith(".yaml"):
            found.append(_reference(load_yaml(file.read_text(encoding="utf-8")), file.name))
    return tuple(found)


def _reference(values: Mapping[str, Any], where: str) -> Reference:
    if values.get("name") != where.removesuffix(".yaml"):
        raise ValueError(f"{where}: its name is {values.get('name')}")
    return Reference(**values)


def references_of_run(run_dir: Path, chosen: str | None = None, language: Language = "en") -> list[NamedCurve]:
    """The curves that a run is compared with, on the axis of its steps and up to its last step.

    Args:
        run_dir: directory of the run.
        chosen: as the setting `reference_curve`; None takes that of the run.
        language: language of labels and notes.

    Raises:
        UserError: a metrics.jsonl is missing or damaged, or `chosen` names nothing.
    """
    facts = facts_of_run(run_dir)
    return references(Curve(list(read_metrics(run_dir))), facts, chosen or facts.reference, language)


def references(curve: Curve, facts: RunFacts, chosen: str = "auto", language: Language = "en") -> list[NamedCurve]:
    """The curves that a run with these records is compared with; see `references_of_run`."""
    if chosen == "none" or not len(curve):
        return []
    if chosen != "auto":
        return list(_named(curve, facts, chosen, language))
    fitting = sorted((one for one in built_in() if _fits(one, facts)), key=lambda one: _distance(one, facts))
    curves = [found for one in fitting if len(one.points) > 1 for found in _placed(one, curve, facts, language)]
    points = [found for one in fitting if len(one.points) == 1 for found in _placed(one, curve, facts, language)]
    return curves[:1] + points


def _fits(one: Reference, facts: RunFacts) -> bool:
    """Whether a reference is of the same stage and of a model of similar size.

    Losses of preferences and labels, and rewards, have another level for other data, and there is no unit that makes
    up for it: these need the same data and the same loss.
    """
    if one.stage != facts.stage:
        return False
    if one.stage not in _PER_TOKEN and (one.loss != facts.loss or not _is_same_data(one, facts)):
        return False
    limit = _SIMILAR if len(one.points) > 1 else _ALIKE
    return not facts.n_parameters or abs(math.log(one.n_parameters / facts.n_parameters)) <= math.log(limit)


def _is_same_data(one: Reference, facts: RunFacts) -> bool:
    return facts.data.startswith(one.data)


def _distance(one: Reference, facts: RunFacts) -> tuple[bool, float]:
    size = abs(math.log(one.n_parameters / facts.n_parameters)) if facts.n_parameters else 0.0
    return not _is_same_tokenizer(one, facts), size


def _is_same_tokenizer(one: Reference, facts: RunFacts) -> bool:
    """Whether the vocabularies have the same size, up to some special tokens."""
    return abs(one.vocab_size - facts.vocab_size) <= _FEW_IDS


def _placed(one: Reference, curve: Curve, facts: RunFacts, language: Language) -> Iterator[NamedCurve]:
    """A reference on the axis of a run, in the run's unit; nothing if it cannot be compared."""
    factor, note = 1.0, ""
    if one.stage in _PER_TOKEN and not _is_same_tokenizer(one, facts):
        mine = bytes_per_token(curve)
        if not mine or not one.bytes_per_token:
            return
        factor = mine / one.bytes_per_token
        note = _say(language, "other tokenizer: same bits per byte", "分词器不同：按每字节比特数折算")
    elif one.stage in _PER_TOKEN and not _is_same_data(one, facts):
        note = _say(language, "other data", "数据不同")
    steps, values = _on_steps(one, curve)
    if steps:
        yield _curve(one, steps, [value * factor for value in values], note, language)


def bytes_per_token(curve: Curve) -> float | None:
    """The UTF-8 bytes of a token of a run's held-out text, by the loss and the bits per byte of its last evaluation."""
    loss, bits = curve.column("val/all/loss"), curve.column("val/all/bpb")
    known = np.flatnonzero(np.isfinite(loss) & np.isfinite(bits) & (bits > 0))
    return float(loss[known[-1]] / math.log(2) / bits[known[-1]]) if len(known) else None


def _on_steps(one: Reference, curve: Curve) -> tuple[list[float], list[float]]:
    """The steps of a run at which a reference had read as many tokens, and the values there, up to the last step."""
    steps, tokens = curve.column("step"), curve.column("tokens")
    places = np.array([point[0] for point in one.points], dtype=float)
    if one.x == "tokens":
        known = np.isfinite(tokens)
        if not known.any() or not tokens[known][-1]:
            return [], []
        end_step, end_tokens = steps[known][-1], tokens[known][-1]
        inside = np.interp(places, np.r_[0.0, tokens[known]], np.r_[0.0, steps[known]])
        places = np.where(places > end_tokens, places / end_tokens * end_step, inside)
    kept = [i for i, place in enumerate(places) if place <= steps[-1]]
    return [float(places[i]) for i in kept], [float(one.points[i][1]) for i in kept]


def _curve(one: Reference, steps: list[float], values: list[float], note: str, language: Language) -> NamedCurve:
    amount = _amount(one.points[-1][0], one.x, language)
    label = _say(language, f"{one.name}, {amount}", f"{one.name}，{amount}")
    return NamedCurve(one.name, label, steps, values, one.source, one.metric, len(one.points) == 1, False, note)


def _amount(x: float, unit: str, language: Language) -> str:
    size, sign = next((s, u) for s, u in ((1e9, " B"), (1e6, " M"), (1e3, " k"), (1, "")) if x >= s or s == 1)
    return f"{x / size:.3g}{sign} {_say(language, unit, 'token' if unit == 'tokens' else '步')}"


def _named(curve: Curve, facts: RunFacts, chosen: str, language: Language) -> Iterator[NamedCurve]:
    """The reference of a name, or of the run in a directory or file, whether or not it can be compared."""
    for one in built_in():
        if one.name == chosen:
            places, losses = _on_steps(one, curve)
            is_same = one.stage not in _PER_TOKEN or _is_same_tokenizer(one, facts)
            note = "" if is_same else _say(language, "other tokenizer: not comparable", "分词器不同：不可直接比较")
            yield _curve(one, places, losses, note, language)
            return
    require_reference(chosen)
    path = Path(chosen)
    file = path / METRICS_FILE if path.is_dir() else path
    theirs = Curve(list(read_records(file)))
    name = REWARD if np.isfinite(curve.column(REWARD)).any() else "loss"
    raw, steps = theirs.column(name), theirs.column("step")
    known = np.isfinite(raw)
    label = file.resolve().parent.name
    yield NamedCurve(label, label, steps[known].tolist(), raw[known].tolist(), str(file), name, False, True, "")


def require_reference(chosen: str) -> None:
    """Refuse a setting `reference_curve` that names nothing.

    Raises:
        UserError: it is neither auto, none, a built-in curve, a run directory nor a file.
    """
    if chosen in ("auto", "none") or Path(chosen).exists():
        return
    names = [one.name for one in built_in()]
    if chosen not in names:
        raise UserError(
            f"reference_curve={chosen}: neither a run directory nor a metrics.jsonl nor a built-in curve; choose auto, "
            f"none or one of {', '.join(names)}"
        )


def _say(language: Language, english: str, chinese: str) -> str:
    return chinese if language == "zh" else english
