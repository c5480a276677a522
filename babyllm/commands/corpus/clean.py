"""Repair documents or conversations of files or corpora, and drop those that are not worth learning from."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal

from babyllm.chat.formats import FormatConfig
from babyllm.chat_corpus.chat_filters import ChatFilters
from babyllm.config.values import PathText
from babyllm.errors import UserError
from babyllm.object_store.object_addresses import named
from babyllm.object_store.stage_paths import stage_paths
from babyllm.pipeline.partitions import WorkConfig
from babyllm.pipeline.report import Report, print_report
from babyllm.text.clean.filters import CleanConfig
from babyllm.text.clean.filters.contract import Scorer
from babyllm.text.clean.stage import clean
from babyllm.text.readers import ReadConfig

ARGUMENTS = "IN... OUT"


@dataclass(frozen=True)
class Flags(CleanConfig):
    """Flags of `babyllm clean`.

    Attributes:
        kind: contents of the files: documents, which become a corpus, or conversations, which become chat files of the
            same form.
        chat: filters of conversations.
        format: settings for reading records as conversations.
        read: settings for reading files other than corpora as documents.
        takedowns: files of documents to refuse, or directories with a takedowns.jsonl; those of the inputs always
            count.
        work: number of processes and size of partitions.
        plan: whether to say how long it will take, with how much memory and disk, from samples of the input, instead of
            doing it.
    """

    kind: Literal["documents", "conversations"] = "documents"
    chat: ChatFilters = field(default_factory=ChatFilters)
    format: FormatConfig = field(default_factory=FormatConfig)
    read: ReadConfig = field(default_factory=ReadConfig)
    takedowns: list[PathText] = field(default_factory=list)
    work: WorkConfig = field(default_factory=WorkConfig)
    plan: bool = False


def run(flags: Flags, *arguments: str) -> None:
    """Clean the files and corpora IN into OUT and print the report."""
    if flags.plan:
        with stage_paths([*arguments[:-1], Path()], flags.work.cache) as (inputs, _):
            print_report(_planned(flags, inputs))
        return
    with stage_paths(arguments, flags.work.cache) as (inputs, out):
        report = _cleaned(flags, inputs, out)
    place = named(arguments[-1])
    if report is None:
        print(f"{place}: complete already, with these settings and inputs; nothing to do")
        return
    print_report(report)
    print(f"\n{place / 'report.html'} shows this with plots and examples")


def _planned(flags: Flags, inputs: list[Path]) -> Report:
    from babyllm.text.clean.plan import plan_clean

    if flags.kind != "documents":
        raise UserError("--plan: is for documents; leave it out")
    takedowns = [Path(path) for path in flags.takedowns]
    read, work = flags.read, flags.work
    return plan_clean(inputs, _config(flags), read=read, work=work, load_scorer=_load_scorer, takedowns=takedowns)


def _config(flags: Flags) -> CleanConfig:
    return CleanConfig(**{f.name: getattr(flags, f.name) for f in fields(CleanConfig)})


def _cleaned(flags: Flags, inputs: list[Path], out: Path) -> Report | None:
    config = _config(flags)
    if flags.kind == "documents":
        takedowns = [Path(path) for path in flags.takedowns]
        read, work = flags.read, flags.work
        return clean(inputs, out, config, read=read, work=work, load_scorer=_load_scorer, takedowns=takedowns)
    if flags.takedowns:
        raise UserError("--takedowns: is for documents; leave it out")
    if config.filters != CleanConfig().filters:
        raise UserError("--filters: is for documents; name the filters of conversations in --chat.filters, by role")
    from babyllm.chat_corpus.clean_chats import clean_chats

    return clean_chats(inputs, out, config, flags.chat, flags.format, work=flags.work, load_scorer=_load_scorer)


def _load_scorer(model: str) -> Scorer:
    from babyllm.evaluate.language.texts import load_scorer  # imports torch, which is rarely needed here

    return load_scorer(model)
