"""What cleaning did: counted per partition, added up, reported.

documents read and kept, tallies of the filters -> Outcome of a partition -> sum over partitions -> report
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from babyllm.pipeline.report import Bin, Cell, ExampleGroup, Fact, Histogram, LabelledTexts, Report, Table
from babyllm.store.corpus import Count
from babyllm.text.clean.filters.chain import Example, Tally
from babyllm.text.clean.filters.outliers import Sums, SumsByMeasure, add
from babyllm.text.readers import ReadConfig, left_out

# Ten bins in each power of ten, as far as whole numbers allow.
EDGES = [0, *sorted({round(10 ** (i / 10)) for i in range(101)})]
N_PLOTS = 12  # the largest domains have a plot each
Lengths = dict[str, dict[str, int]]
"""Domain -> index of a bin of `EDGES`, as text because JSON has no other keys -> number of documents."""


@dataclass
class Outcome:
    """What happened to the documents of one partition, or of many.

    Attributes:
        unreadable: number of records that could not be read as documents, by reason.
        notes: number of documents on which a reader made a note, by note.
        read: count of the documents read, by domain.
        kept: count of the documents kept, by domain.
        before: lengths of the documents read.
        after: lengths of the documents kept.
        sums: sums over the documents kept, by domain and measure, for the filter outliers.
        code: number of lines of code and tables in the documents kept, and of characters in these lines.
        tallies: tally of each filter, by label.
    """

    unreadable: dict[str, int] = field(default_factory=dict)
    notes: dict[str, int] = field(default_factory=dict)
    read: dict[str, Count] = field(default_factory=dict)
    kept: dict[str, Count] = field(default_factory=dict)
    before: Lengths = field(default_factory=dict)
    after: Lengths = field(default_factory=dict)
    sums: dict[str, SumsByMeasure] = field(default_factory=dict)
    code: list[int] = field(default_factory=lambda: [0, 0])
    tallies: dict[str, Tally] = field(default_factory=dict)

    @staticmethod
    def of(value: Mapping[str, Any]) -> Outcome:
        """The outcome whose `asdict` was stored as JSON."""
        tallies = {
            label: Tally(**{**tally, "examples": [Example(**example) for example in tally["examples"]]})
            for label, tally in value["tallies"].items()
        }
        counts = {name: {d: Count(**c) for d, c in value[name].items()} for name in ("read", "kept")}
        sums = {domain: {name: Sums(**s) for name, s in by.items()} for domain, by in value["sums"].items()}
        return Outcome(**{**value, **counts, "sums": sums, "tallies": tallies})

    def add(self, other: Outcome) -> None:
        """Add what happened to other documents."""
        for mine, theirs in ((self.read, other.read), (self.kept, other.kept)):
            for domain, count in theirs.items():
                mine[domain] = mine.get(domain, Count()) + count
        for domain, sums in other.sums.items():
            add(self.sums, domain, sums)
        self.code = [mine + theirs for mine, theirs in zip(self.code, other.code, strict=True)]
        for lengths, others in ((self.before, other.before), (self.after, other.after)):
            for domain, bins in others.items():
                _add(lengths.setdefault(domain, {}), bins)
        _add(self.unreadable, other.unreadable)
        _add(self.notes, other.notes)
        for label, tally in other.tallies.items():
            self.tallies.setdefault(label, Tally()).add(tally)


def total(outcomes: Iterable[Outcome]) -> Outcome:
    """The sum of all outcomes."""
    result = Outcome()
    for outcome in outcomes:
        result.add(outcome)
    return result


def to_json(outcome: Outcome) -> dict[str, Any]:
    """A JSON value that `Outcome.of` reads."""
    return asdict(outcome)


def length_bin(length: int) -> str:
    """The index, as text, of the bin of `EDGES` that a length in characters falls into."""
    return str(bisect_right(EDGES, length) - 1)


def _add(numbers: dict[str, int], others: Mapping[str, int]) -> None:
    for key, n in others.items():
        numbers[key] = numbers.get(key, 0) + n


def reasons_of(outcome: Outcome) -> dict[str, int]:
    """The number of records and documents rejected, by reason."""
    reasons = dict(outcome.unreadable)
    for label, tally in outcome.tallies.items():
        _add(reasons, {f"{label}: {reason}": n for reason, n in tally.reasons.items()})
    return reasons


# ---- the report


def report_on(inputs: Sequence[Path], outcome: Outcome, read_config: ReadConfig | None = None) -> Report:
    """The report (see `babyllm.pipeline.report`); it contains no times, so that equal results have equal reports."""
    read = sum(outcome.read.values(), Count())
    kept = sum(outcome.kept.values(), Count())
    n_unreadable = sum(outcome.unreadable.values())
    facts: list[Fact] = [
        ("documents read", read.documents),
        ("documents kept", kept.documents),
        ("characters read", read.characters),
        ("characters kept", kept.characters),
        ("bytes read", read.bytes),
        ("bytes kept", kept.bytes),
        ("records that could not be read", n_unreadable),
        ("lines of code and tables, left as they are", outcome.code[0]),
        ("characters in such lines", outcome.code[1]),
    ]
    facts += [(f"documents: {note}", n) for note, n in sorted(outcome.notes.items())]
    facts += [(f"files not read: {suffix}", n) for suffix, n in left_out(inputs, read_config).items()]
    return Report(
        f"Cleaning of {', '.join(path.name for path in inputs)}",
        facts,
        [_filters(outcome, read), *_reasons(outcome), _domains(outcome, kept)],
        _histograms(outcome),
        _examples(outcome.tallies),
    )


def _filters(outcome: Outcome, read: Count) -> Table:
    columns = ["filter", "documents removed", "documents changed", "characters removed", "bytes removed", "share"]
    rows: list[list[Cell]] = [
        [label, t.removed, t.changed, t.characters, t.bytes, t.removed / max(1, read.documents)]
        for label, t in outcome.tallies.items()
    ]
    return Table("Filters, in their order (share: of documents read, removed)", columns, rows)


def _reasons(outcome: Outcome) -> list[Table]:
    rows: list[list[Cell]] = [["(reading)", reason, n] for reason, n in _by_size(outcome.unreadable)]
    for label, tally in outcome.tallies.items():
        rows += [[label, reason, n] for reason, n in _by_size(tally.reasons)]
    columns = ["filter", "reason", "documents"]
    return [Table("Why documents were removed", columns, rows)] if rows else []


def _by_size(numbers: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(numbers.items(), key=lambda item: (-item[1], item[0]))


def _domains(outcome: Outcome, kept: Count) -> Table:
    columns = ["domain", "documents read", "documents kept", "characters kept", "bytes kept", "share"]
    rows: list[list[Cell]] = []
    for domain, before in sorted(outcome.read.items()):
        after = outcome.kept.get(domain, Count())
        share = after.bytes / max(1, kept.bytes)
        rows.append([domain, before.documents, after.documents, after.characters, after.bytes, share])
    return Table("Domains (share: of bytes kept)", columns, rows)


def _histograms(outcome: Outcome) -> list[Histogram]:
    largest = sorted(outcome.read, key=lambda domain: (-outcome.read[domain].documents, domain))[:N_PLOTS]
    return [
        Histogram(
            f"Length of documents: {domain}",
            unit="characters",
            is_log=True,
            series={
                "before": _bins(outcome.before.get(domain, {})),
                "after": _bins(outcome.after.get(domain, {})),
            },
        )
        for domain in sorted(largest)
    ]


def _bins(numbers: Mapping[str, int]) -> list[Bin]:
    return [(EDGES[i], EDGES[i + 1], numbers[str(i)]) for i in sorted(map(int, numbers))]


def _examples(tallies: Mapping[str, Tally]) -> list[ExampleGroup]:
    groups = []
    for label, tally in tallies.items():
        items = [
            LabelledTexts(
                f"{e.id} – {e.reason}" if e.reason else e.id,
                [e.before] if e.reason else [e.before, e.after],
            )
            for e in tally.examples
        ]
        if items:
            groups.append(ExampleGroup(f"Examples: {label}", items))
    return groups
