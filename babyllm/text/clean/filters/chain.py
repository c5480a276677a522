"""Filters at work on documents, and the account of what each of them did.

    names, options -> steps -> [(label, step)]
    documents -> step after step -> documents left
                 tally of each: documents, characters and bytes removed, reasons, examples

What goes in is what comes out and what the tallies say was removed, to the byte.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import NamedTuple, Protocol, runtime_checkable

from babyllm.documents import Document
from babyllm.errors import UserError
from babyllm.text.clean.filters import CleanConfig
from babyllm.text.clean.filters.models import Scorer
from babyllm.text.clean.filters.outliers import Bounds

N_EXAMPLES = 4
EXCERPT = 200  # characters of a document that are shown
_LEAD = 40  # characters shown before the first change


class Removed(NamedTuple):
    """What a step says of a document that it turns away."""

    reason: str


Step = Callable[[Sequence[Document]], Sequence["str | Removed"]]
"""Documents -> the new text of each, or why it is turned away."""


@runtime_checkable
class Edit(Protocol):
    """A filter that mends."""

    def edit(self, text: str) -> str:
        """The mended text."""


@runtime_checkable
class Test(Protocol):
    """A filter that turns away."""

    def test(self, text: str) -> str | None:
        """The reason, or None."""


@runtime_checkable
class TestUrl(Protocol):
    """A filter that turns away by the address of a document."""

    def test_url(self, url: str) -> str | None:
        """The reason, or None."""


@dataclass(frozen=True)
class Supplies:
    """What filters need beside their options.

    Attributes:
        scorer: of the filter perplexity.
        usual: least and greatest by domain and measure, of the filter outliers.
    """

    scorer: Scorer | None = None
    usual: Mapping[str, Bounds] = field(default_factory=dict)


def labels(names: Sequence[str]) -> list[str]:
    """The names, those that come again with a number behind."""
    seen: dict[str, int] = {}
    result = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        result.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return result


def build(name: str, config: CleanConfig, supplies: Supplies) -> Step:
    """The filter of that name as a step."""
    chosen = getattr(config, name)
    if isinstance(chosen, Edit):
        edit = chosen.edit
        return lambda documents: [edit(document.text) for document in documents]
    if isinstance(chosen, Test):
        test = chosen.test
        return lambda documents: _answers(documents, [test(document.text) for document in documents])
    if isinstance(chosen, TestUrl):
        test_url = chosen.test_url
        return lambda documents: _answers(documents, [test_url(document.url) for document in documents])
    if name == "outliers":
        usual = supplies.usual
        return lambda documents: _answers(
            documents, [config.outliers.test_in(document.text, usual[document.domain]) for document in documents]
        )
    if name == "perplexity":
        if supplies.scorer is None:
            raise UserError("--filters: perplexity needs a model; name its directory with --perplexity.model")
        scorer = supplies.scorer
        return lambda documents: _answers(documents, config.perplexity.judge(_texts(documents), scorer))
    judge: Callable[[Sequence[str]], Sequence[str | None]] = chosen.judge
    return lambda documents: _answers(documents, judge(_texts(documents)))


def _texts(documents: Sequence[Document]) -> list[str]:
    return [document.text for document in documents]


def _answers(documents: Sequence[Document], reasons: Sequence[str | None]) -> list[str | Removed]:
    return [
        document.text if reason is None else Removed(reason)
        for document, reason in zip(documents, reasons, strict=True)
    ]


# ---- the account


@dataclass(frozen=True, order=True)
class Example:
    """A document that was changed or turned away; of many, those with the smallest keys are shown.

    Attributes:
        key: a hash of filter and document, so that the choice depends on nothing else.
        id: of the document.
        reason: why it was turned away; empty if it was changed.
        before: part of the text.
        after: the same part when it was changed; empty if it was turned away.
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
        removed: documents turned away.
        changed: documents mended.
        characters: fewer than before, in documents turned away and mended; negative if there are more.
        bytes: the same in UTF-8.
        reasons: documents turned away for each.
        examples: the `N_EXAMPLES` with the smallest keys, in order.
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
        """Enter a document that became `after`, or was turned away for a reason."""
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
    """A part of a text of at most `EXCERPT` characters, with marks where it was cut."""
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
    """The documents that all steps leave, mended.

    Args:
        steps: label and step.
        tallies: one per step; what it does is added.
        documents: a handful, at work at once.
        reject: is told document, label and reason of what is turned away.
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
