"""The outcome of every record when conversations are prepared, and the refusal where none is left to train on.

The outcomes of a split and task add up to its conversations or, where each answer is one of its own, to its samples.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, field
from pathlib import Path
from typing import Any

from babyllm.errors import UserError
from babyllm.pipeline.output import REJECTED
from babyllm.pipeline.report import Fact, Report, Table
from babyllm.prepare.rendered.data_record import DataTally, data_table
from babyllm.store.conversations import Group
from babyllm.store.data_sets import DataRecord
from babyllm.store.shards import Split

MAX_NAMES = 1000  # of unused fields that are counted by name; others are counted together


@dataclass
class Tally:
    """The outcomes of the conversations of a split and task; a sample is a conversation, or each of its answers.

    Attributes:
        conversations: number of conversations that were read.
        whole: number of samples used as they are.
        dropped: number of samples used without their oldest turns.
        truncated: number of samples whose end was cut off.
        skipped: number of samples that are not used.
        not_drawn: number of conversations beyond the limit or the share of their data set.
        repeated: number of conversations that are not used because they repeat another one exactly.
        turns_lost: number of supervised turns that were dropped, cut off or skipped.
    """

    conversations: int = 0
    whole: int = 0
    dropped: int = 0
    truncated: int = 0
    skipped: int = 0
    not_drawn: int = 0
    repeated: int = 0
    turns_lost: int = 0

    def count(self, outcome: str, turns_lost: int) -> None:
        """Count one sample, by the name of its outcome, and its lost supervised turns."""
        setattr(self, outcome, getattr(self, outcome) + 1)
        self.turns_lost += turns_lost

    @property
    def used(self) -> int:
        """The number of samples in the store."""
        return self.whole + self.dropped + self.truncated

    def __add__(self, other: Tally) -> Tally:
        return Tally(*(mine + its for mine, its in zip(astuple(self), astuple(other), strict=True)))


Key = tuple[Split, str]


@dataclass
class Result:
    """The result of a partition, whose file holds the groups one after the other, each as records, ids and turns.

    Attributes:
        groups: sizes of each split and task, in the order of the file.
        tallies: outcomes of the conversations of each split and task.
        skipped: number of samples that are not used, by reason.
        rejected: number of records that are not conversations, by reason.
        left_out: number of conversations with an unused field, by its name.
        cut: number of messages that were cut, by kind.
        data: outcomes of the records of each data set, by its index.
    """

    groups: list[Group] = field(default_factory=list)
    tallies: dict[Key, Tally] = field(default_factory=dict)
    skipped: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    cut: Counter[str] = field(default_factory=Counter)
    data: dict[int, DataTally] = field(default_factory=dict)

    def of_data(self, index: int) -> DataTally:
        """The outcomes of a data set so far, to count another record in."""
        return self.data.setdefault(index, DataTally())

    def count_left_out(self, names: Sequence[str]) -> None:
        """Count a conversation for each unused field of its record."""
        for name in names:
            self.left_out[name if name in self.left_out or len(self.left_out) < MAX_NAMES else "(others)"] += 1

    def to_json(self) -> dict[str, Any]:
        """The result as JSON values, for `of`."""
        return {
            "groups": [asdict(group) for group in self.groups],
            "tallies": [[*key, asdict(tally)] for key, tally in self.tallies.items()],
            "skipped": dict(self.skipped),
            "rejected": dict(self.rejected),
            "left_out": dict(self.left_out),
            "cut": dict(self.cut),
            "data": [[index, tally.to_json()] for index, tally in self.data.items()],
        }

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Result:
        """The result whose `to_json` returned these values."""
        tallies = {(split, task): Tally(**tally) for split, task, tally in values["tallies"]}
        groups = [Group(**group) for group in values["groups"]]
        names = ("skipped", "rejected", "left_out", "cut")
        counters = {name: Counter[str](values[name]) for name in names}
        data = {index: DataTally.of(tally) for index, tally in values.get("data", [])}
        return cls(groups, tallies, **counters, data=data)


Tallies = Mapping[tuple[Split, str], Tally]


def require_training(
    directory: Path,
    tallies: Tallies,
    result: Result,
    kind: str = "conversation",
    advice: str = "a larger data.seq_len, data.too_long or another data.template",
) -> None:
    """Refuse files without a usable conversation, or another `kind` of record, in the training split.

    Raises:
        UserError: there is none; the message says what happened to the records, and what to change.
    """
    total = {split: sum((t for k, t in tallies.items() if k[0] == split), Tally()) for split in ("train", "val")}
    if total["train"].used:
        return
    why = (result.skipped + result.rejected).most_common(1)
    most_often = f"; most often: {why[0][0]} (all are listed in {directory / REJECTED})" if why else ""
    if not total["train"].conversations and total["val"].conversations:
        raise UserError(
            f"data.held_out: all {total['val'].conversations:,} {kind}s are held out, none is left to train on; "
            f"add {kind}s, or hold out fewer"
        )
    if total["train"].repeated and total["train"].repeated == total["train"].conversations:
        raise UserError(
            f"data.path: all of its {total['train'].repeated:,} {kind}s repeat held-out ones; give others, or keep "
            "them with --data.repetitions=keep"
        )
    if total["train"].conversations:
        raise UserError(
            f"data.path: none of its {total['train'].conversations:,} {kind}s can be used{most_often}; {advice} "
            "may help"
        )
    raise UserError(
        f"data.path: none of its {result.rejected.total():,} records is a {kind}{most_often}; see data.format"
    )


def report_of(
    directory: Path,
    groups: Sequence[Group],
    tallies: Tallies,
    result: Result,
    data: Sequence[DataRecord] = (),
) -> Report:
    """The report: the size of each split and task, the outcome of every record, and what was left out or cut."""
    tokens = sum(group.tokens for group in groups)
    read = sum(tally.conversations for tally in tallies.values())
    facts: list[Fact] = [("records", read + result.rejected.total()), ("conversations", read), ("tokens", tokens)]
    facts += repetitions(tallies)
    facts += facts_of(result)
    used = Table(
        "used, by task",
        ["split", "task", "samples", "turns", "tokens", "supervised", "share"],
        [[g.split, g.task, g.conversations, g.turns, g.tokens, g.supervised, g.tokens / tokens] for g in groups],
    )
    outcomes = Table(
        "what became of the conversations",
        ["split", "task", *(name.replace("_", " ") for name in vars(Tally()))],
        [[*key, *astuple(tallies[key])] for key in sorted(tallies)],
    )
    return Report(f"conversations: {directory}", facts, [used, outcomes, *data_table(data)])


def repetitions(tallies: Tallies) -> list[Fact]:
    """How many records repeat another one and were dropped; nothing if there are none."""
    dropped = sum(tally.repeated for tally in tallies.values())
    return [("exact repetitions dropped", dropped)] if dropped else []


def facts_of(result: Result) -> list[Fact]:
    """What was skipped, cut, rejected and left out, by reason."""
    facts: list[Fact] = [(f"skipped: {reason}", count) for reason, count in result.skipped.most_common()]
    facts += result.cut.most_common()
    facts += [(f"rejected: {reason}", count) for reason, count in result.rejected.most_common()]
    return facts + [(f"field left out: {name}", count) for name, count in result.left_out.most_common()]
