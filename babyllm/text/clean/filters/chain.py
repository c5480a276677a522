"""Run filters over documents, and count what each of them did.

    names, options -> steps -> [(label, step)]
    documents -> step after step -> documents left
                 tally of each: documents, characters and bytes removed, reasons, examples

The bytes of the documents read equal those of the documents left plus those that the tallies count as removed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import NamedTuple

from babyllm.documents import Document
from babyllm.text.clean.filters import CleanConfig
from babyllm.text.clean.filters.contract import Edit, Filter, Judge, JudgeTexts, Prepare, Resources, Test, TestUrl

N_EXAMPLES = 4
EXCERPT = 200  # characters of a document that are shown
_LEAD = 40  # characters shown before the first change


class Removed(NamedTuple):
    """A step's answer for a document that it rejects."""

    reason: str


Step = Callable[[Sequence[Document]], Sequence["str | Removed"]]
"""Documents -> the new text of each, or why it is rejected."""


def labels(names: Sequence[str]) -> list[str]:
    """The names made distinct: a number follows a repeated name, as in `length (2)`."""
    seen: dict[str, int] = {}
    result = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        result.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return result


def build(name: str, config: CleanConfig, resources: Resources) -> Step:
    """The filter of this name as a step.

    Raises:
        UserError: the filter needs a resource or an option that is missing.
    """
    chosen: Filter = getattr(config, name)
    if isinstance(chosen, Edit):
        edit = chosen.edit
        return lambda documents: [edit(document.text) for document in documents]
    judge = _judge(chosen, resources)
    return lambda documents: [
        document.text if reason is None else Removed(reason)
        for document, reason in zip(documents, judge(documents), strict=True)
    ]


def _judge(chosen: Test | TestUrl | JudgeTexts | Prepare, resources: Resources) -> Judge:
    if isinstance(chosen, Prepare):
        return chosen.prepare(resources)
    if isinstance(chosen, Test):
        test = chosen.test
        return lambda documents: [test(document.text) for document in documents]
    if isinstance(chosen, TestUrl):
        test_url = chosen.test_url
        return lambda documents: [test_url(document.url) for document in documents]
    judge = chosen.judge
    return lambda documents: judge([document.text for document in documents])


# ---- what each filter did


@dataclass(frozen=True, order=True)
class Example:
    """A document that was changed or rejected. Of many, those with the smallest keys are shown.

    Attributes:
        key: hash of filter and document, so that the choice depends on nothing else.
        id: document id.
        reason: reason of a rejection; empty if the document was changed.
        before: part of the text.
        after: the same part after the change; empty if the document was rejected.
    """

    key: str
    id: str
    reason: str
    before: str
    after: str


@dataclass
class Tally:
    """What one filter did.

    Attributes:
        removed: number of documents rejected.
        changed: number of documents changed.
        characters: number of characters removed, whole documents included; negative if more were added than removed.
        bytes: number of UTF-8 bytes removed, counted in the same way.
        reasons: number of documents rejected by reason.
        examples: examples with the `N_EXAMPLES` smallest keys, in order.
    """

    removed: int = 0
    changed: int = 0
    characters: int = 0
    bytes: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    examples: list[Example] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        """Add what the same filter did to other documents."""
        self.removed += other.removed
        self.changed += other.changed
        self.characters += other.characters
        self.bytes += other.bytes
        for reason, n in other.reasons.items():
            self.reasons[reason] = self.reasons.get(reason, 0) + n
        self.examples = sorted([*self.examples, *other.examples])[:N_EXAMPLES]

    def count(self, label: str, document: Document, after: str, reason: str = "") -> None:
        """Count a document that became `after`, or was rejected for a reason."""
        self.removed += bool(reason)
        self.changed += not reason
        self.characters += len(document.text) - len(after)
        self.bytes += len(document.text.encode()) - len(after.encode())
        if reason:
            self.reasons[reason] = self.reasons.get(reason, 0) + 1
        key = blake2b(f"{label}\0{document.id}".encode(), digest_size=8).hexdigest()
        if len(self.examples) < N_EXAMPLES or key < self.examples[-1].key:
            before, after = (excerpt(document.text), "") if reason else _excerpts(document.text, after)
            self.examples = sorted([*self.examples, Example(key, document.id, reason, before, after)])[:N_EXAMPLES]


def excerpt(text: str, start: int = 0) -> str:
    """At most `EXCERPT` characters of a text, with marks where it was cut."""
    cut = text[start : start + EXCERPT]
    return f"{'…' if start else ''}{cut}{'…' if start + EXCERPT < len(text) else ''}"


def _excerpts(before: str, after: str) -> tuple[str, str]:
    first = next((i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), len(after))
    start = max(0, first - _LEAD)
    return excerpt(before, start), excerpt(after, start)


def apply(
    steps: Sequence[tuple[str, Step]],
    tallies: Sequence[Tally],
    documents: Sequence[Document],
    reject: Callable[[Document, str, str], None],
) -> Sequence[Document]:
    """The documents that pass all steps, as the steps changed them.

    Args:
        steps: label and step of each filter.
        tallies: tally of each step, to which the step's effects are added.
        documents: batch of documents that fits into memory.
        reject: function called with document, label and reason of each rejection.
    """
    for (label, step), tally in zip(steps, tallies, strict=True):
        left = []
        for document, answer in zip(documents, step(documents) if documents else (), strict=True):
            if answer == document.text:
                left.append(document)
                continue
            reason = answer.reason if isinstance(answer, Removed) else "" if answer else "nothing is left of it"
            tally.count(label, document, "" if isinstance(answer, Removed) else answer, reason)
            if reason:
                reject(document, label, reason)
            elif isinstance(answer, str):
                left.append(replace(document, text=answer))
        documents = left
    return documents
