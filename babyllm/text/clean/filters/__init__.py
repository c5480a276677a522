"""Filters: functions that change or reject texts, chosen and ordered by name.

`CleanConfig` is the table of all filters, those with a resource included. To add one, write it as `contract` says and
name it there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields

from babyllm.config import nearest
from babyllm.errors import UserError
from babyllm.text.clean.filters.addresses import Emails, Urls
from babyllm.text.clean.filters.edits import Controls, Traditional, Unicode, Whitespace
from babyllm.text.clean.filters.measures import Language, Length, Shares, Words
from babyllm.text.clean.filters.models import Perplexity, Quality
from babyllm.text.clean.filters.outliers import Outliers
from babyllm.text.clean.filters.punctuation import Punctuation, Runs, Width
from babyllm.text.clean.filters.repetition import Repetition
from babyllm.text.clean.filters.rules import Repeats, Rules
from babyllm.text.clean.filters.sites import Sites
from babyllm.text.clean.syntax.markup import Html

# Cheap filters that reject much come first; tests of the content see the edited text.
DEFAULT_FILTERS = (
    *("length", "unicode", "html", "controls", "urls", "emails", "width", "punctuation", "runs", "whitespace"),
    *("length", "shares", "repetition"),
)


@dataclass(frozen=True)
class CleanConfig:
    """The filters that work on a text, their order and their options.

    Attributes:
        filters: names of filters in the order in which they work; a name may occur twice. Further filters, which are
            slower or a matter of taste: sites, rules, repeats, traditional, language, words, outliers, quality,
            perplexity.
    """

    filters: list[str] = field(default_factory=lambda: list(DEFAULT_FILTERS))
    sites: Sites = field(default_factory=Sites)
    rules: Rules = field(default_factory=Rules)
    repeats: Repeats = field(default_factory=Repeats)
    length: Length = field(default_factory=Length)
    unicode: Unicode = field(default_factory=Unicode)
    html: Html = field(default_factory=Html)
    controls: Controls = field(default_factory=Controls)
    urls: Urls = field(default_factory=Urls)
    emails: Emails = field(default_factory=Emails)
    traditional: Traditional = field(default_factory=Traditional)
    width: Width = field(default_factory=Width)
    punctuation: Punctuation = field(default_factory=Punctuation)
    runs: Runs = field(default_factory=Runs)
    whitespace: Whitespace = field(default_factory=Whitespace)
    shares: Shares = field(default_factory=Shares)
    repetition: Repetition = field(default_factory=Repetition)
    language: Language = field(default_factory=Language)
    words: Words = field(default_factory=Words)
    outliers: Outliers = field(default_factory=Outliers)
    quality: Quality = field(default_factory=Quality)
    perplexity: Perplexity = field(default_factory=Perplexity)


def check_names(names: Sequence[str]) -> None:
    """Check that every name is the name of a filter.

    Raises:
        UserError: a name is unknown; the message suggests the nearest.
    """
    known = [f.name for f in fields(CleanConfig) if f.name != "filters"]
    for name in names:
        if name not in known:
            raise UserError(f"--filters: there is no filter '{name}': did you mean '{nearest(name, known)}'?")
