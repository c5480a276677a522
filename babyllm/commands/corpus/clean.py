"""Repair the documents of files or corpora, and drop those that are not worth learning from."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path

from babyllm.pipeline.partitions import WorkConfig
from babyllm.pipeline.report import print_report
from babyllm.text.clean.filters import CleanConfig
from babyllm.text.clean.filters.contract import Scorer
from babyllm.text.clean.stage import clean
from babyllm.text.readers import ReadConfig

ARGUMENTS = "IN... OUT"


@dataclass(frozen=True)
class Flags(CleanConfig):
    """Flags of `babyllm clean`.

    Attributes:
        read: settings for reading files other than corpora.
        work: number of processes and size of partitions.
    """

    read: ReadConfig = field(default_factory=ReadConfig)
    work: WorkConfig = field(default_factory=WorkConfig)


def run(flags: Flags, *arguments: str) -> None:
    """Clean the files and corpora IN into the corpus OUT and print the report."""
    *inputs, out = map(Path, arguments)
    config = CleanConfig(**{f.name: getattr(flags, f.name) for f in fields(CleanConfig)})
    report = clean(inputs, out, config, read=flags.read, work=flags.work, load_scorer=_load_scorer)
    if report is None:
        print(f"{out}: complete already, with these settings and inputs; nothing to do")
        return
    print_report(report)
    print(f"\n{out / 'report.html'} shows this with plots and examples")


def _load_scorer(model: str) -> Scorer:
    from babyllm.evaluate.language.texts import load_scorer  # imports torch, which is rarely needed here

    return load_scorer(model)
