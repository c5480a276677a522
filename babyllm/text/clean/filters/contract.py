"""The methods that a filter may have, and the resources that it may use besides its options.

A filter is a frozen dataclass of its options. It has one of these methods:

    edit(text) -> text                          changes texts
    test(text) -> reason | None                 rejects texts
    test_url(url) -> reason | None              rejects documents by their URL
    judge(texts) -> [reason | None, ...]        rejects texts, many at a time because that is faster
    prepare(resources) -> Judge                 rejects documents with the help of a resource

A filter whose options name files also has `digests`. One that learns from files has `examples` and `train`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

from babyllm.documents import Document
from babyllm.text.readers import ReadConfig

Judge = Callable[[Sequence[Document]], Sequence[str | None]]
"""Documents -> the reason why each is rejected; None for those that stay."""

Scorer = Callable[[Sequence[str]], Sequence[float]]
"""Texts -> the bits per byte of each."""

Bounds = dict[str, tuple[float, float]]
"""Measure -> its lowest and its highest usual value."""


@dataclass(frozen=True)
class Resources:
    """What a filter may use besides its options.

    Attributes:
        load_scorer: function from the directory of a language model to its scorer; None if models cannot be loaded.
        usual: usual values by domain, measured in earlier passes; empty in the first pass.
    """

    load_scorer: Callable[[str], Scorer] | None = None
    usual: Mapping[str, Bounds] = field(default_factory=dict)


@runtime_checkable
class Edit(Protocol):
    """A filter that changes texts."""

    def edit(self, text: str) -> str:
        """The changed text."""


@runtime_checkable
class Test(Protocol):
    """A filter that rejects texts."""

    def test(self, text: str) -> str | None:
        """The reason why the text is rejected, or None."""


@runtime_checkable
class TestUrl(Protocol):
    """A filter that rejects documents by their URL."""

    def test_url(self, url: str) -> str | None:
        """The reason why the document is rejected, or None."""


@runtime_checkable
class JudgeTexts(Protocol):
    """A filter that rejects texts, many at a time."""

    def judge(self, texts: Sequence[str]) -> Sequence[str | None]:
        """The reason why each text is rejected, or None."""


@runtime_checkable
class Prepare(Protocol):
    """A filter that needs a resource."""

    def prepare(self, resources: Resources) -> Judge:
        """The function that judges documents.

        Raises:
            UserError: the resource or an option is missing.
        """


Filter = Edit | Test | TestUrl | JudgeTexts | Prepare


@runtime_checkable
class HasFiles(Protocol):
    """A filter whose options name files."""

    def digests(self, read: ReadConfig) -> dict[str, str]:
        """Values by name that identify the contents of the files; a finished corpus is valid only for these."""


@runtime_checkable
class Trained(Protocol):
    """A filter that learns from files before it works."""

    def examples(self) -> list[Path]:
        """The files and folders to learn from."""

    def train(self, read: ReadConfig, directory: Path) -> tuple[Trained, Sequence[str]]:
        """Learn, and store the result.

        Args:
            read: how the examples are read.
            directory: existing directory for the result.

        Returns:
            The filter that uses the result, and the names of the stored files, which are kept with the corpus. The
            filter itself and no names if there is nothing to learn from.

        Raises:
            UserError: the examples cannot be read, or are too few.
        """
