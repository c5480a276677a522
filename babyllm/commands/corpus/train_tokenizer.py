"""Train a tokenizer on a sample of corpora or files, and compare it with others by domain."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path

from babyllm.config.values import PathText
from babyllm.pipeline.partitions import WorkConfig
from babyllm.prepare.vocabulary_config import VocabularyConfig
from babyllm.text.readers import ReadConfig

ARGUMENTS = "IN... OUT"


@dataclass(frozen=True)
class Flags(VocabularyConfig):
    """Flags of `babyllm train-tokenizer`.

    Attributes:
        compare: tokenizers (directories or files) to show beside the new one.
        read: settings for reading files other than corpora.
        takedowns: files of documents to leave out, or directories with a takedowns.jsonl; those of the inputs always
            count.
        work: number of processes and size of partitions.
    """

    compare: list[PathText] = field(default_factory=list)
    read: ReadConfig = field(default_factory=ReadConfig)
    takedowns: list[PathText] = field(default_factory=list)
    work: WorkConfig = field(default_factory=WorkConfig)


def run(flags: Flags, *arguments: str) -> None:
    """Train a tokenizer on the inputs, write it into the directory named last, and print a comparison."""
    from babyllm.errors import UserError
    from babyllm.object_store.object_addresses import is_remote
    from babyllm.object_store.stage_paths import stage_paths
    from babyllm.pipeline.report import print_report
    from babyllm.prepare.compression import load_by_name
    from babyllm.prepare.vocabulary import learn_vocabulary

    if is_remote(arguments[-1]):
        raise UserError(f"{arguments[-1]}: a tokenizer is small and is read from disk; give a local directory")
    config = VocabularyConfig(**{f.name: getattr(flags, f.name) for f in fields(VocabularyConfig)})
    with stage_paths(arguments, flags.work.cache) as (inputs, out):
        report = learn_vocabulary(
            inputs,
            out,
            config,
            compare=load_by_name(flags.compare),
            read=flags.read,
            work=flags.work,
            takedowns=[Path(path) for path in flags.takedowns],
        )
    if report is None:
        print(f"{out}: complete already, with these settings and inputs; nothing to do")
    else:
        print_report(report)
