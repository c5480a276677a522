"""Clean a corpus: from raw files or corpora to a corpus.

    IN... -> partitions -> documents -> filters -> parts, rejected.jsonl, outcomes -> OUT: corpus, report

One pass over the partitions is enough without the filter `outliers`. It needs the mean of each domain, which is known
after all documents have been measured, so the filters before it make a pass of their own.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from babyllm.config.values import without_paths
from babyllm.documents import Document
from babyllm.pipeline.engines.beside import beside_others
from babyllm.pipeline.output import (
    MADE,
    REJECTED,
    discard_work,
    is_done,
    join_rejected,
    publish,
    rejected_published,
    require_apart,
    work_directory,
)
from babyllm.pipeline.partitions import WorkConfig, run_partitions
from babyllm.pipeline.rejections import require_documents, warn_of_rejected
from babyllm.pipeline.report import Report
from babyllm.pipeline.report_html import REPORT_FILES, write_report
from babyllm.pipeline.step_times import with_times
from babyllm.store.corpus import MANIFEST, Part, about_corpus, add_counts, read_part, write_corpus, write_part
from babyllm.text.clean.filters import CleanConfig, check_names
from babyllm.text.clean.filters.chain import Step, Tally, apply, build, excerpt, labels
from babyllm.text.clean.filters.contract import Bounds, HasFiles, Resources, Scorer, Trained
from babyllm.text.clean.filters.outliers import add
from babyllm.text.clean.report import Outcome, length_bin, reasons_of, report_on, to_json, total
from babyllm.text.clean.syntax.code import count_code
from babyllm.text.readers import (
    WHOLE_FILES,
    Partition,
    ReadConfig,
    Rejected,
    find_partitions,
    key_of,
    read_partition,
    require_fields,
)
from babyllm.text.takedowns import Takedowns, find_takedowns

BATCH_DOCUMENTS = 512
BATCH_CHARACTERS = 1 << 19
PART = "part.parquet"
LoadScorer = Callable[[str], Scorer]


@beside_others
def clean(
    inputs: Sequence[Path],
    out: Path,
    config: CleanConfig,
    *,
    read: ReadConfig | None = None,
    work: WorkConfig | None = None,
    load_scorer: LoadScorer | None = None,
    takedowns: Sequence[Path] = (),
) -> Report | None:
    """Write the corpus `out`: the documents of `inputs` that pass the filters, as the filters changed them.

    `out` also contains `report.json`, `report.html` and the classifier if one was trained. If anything was rejected,
    `rejected.jsonl` lists every rejected record and document with the reason.

    Args:
        inputs: files, folders and corpora.
        out: directory of the corpus.
        config: filters and their options.
        read: settings of the readers of raw files.
        work: use of the machine; the documents do not depend on it.
        load_scorer: module-level function that loads the language model of the filter perplexity from its directory.
        takedowns: lists of documents to refuse, besides those in the inputs themselves.

    Returns:
        The report; None if `out` had been made before, with the same inputs and settings.

    Raises:
        UserError: an input or a setting is wrong, or `out` holds something else.
    """
    read, work = read or ReadConfig(), work or WorkConfig()
    check_names(config.filters)
    trained = {name: chosen for name, chosen in _chosen(config).items() if isinstance(chosen, Trained)}
    require_apart(out, [*inputs, *(path for chosen in trained.values() for path in chosen.examples())])
    refused = find_takedowns(inputs, takedowns)
    about = describe(inputs, config, read) | refused.about()
    if is_done(out, about_corpus(out), about):
        return None
    partitions = find_partitions(inputs, read, work.partition_bytes)
    require_fields(partitions, read)
    return clean_partitions(partitions, inputs, out, config, read, work, load_scorer, refused, about)


def clean_partitions(
    partitions: Sequence[Partition],
    inputs: Sequence[Path],
    out: Path,
    config: CleanConfig,
    read: ReadConfig,
    work: WorkConfig,
    load_scorer: LoadScorer | None,
    refused: Takedowns,
    about: dict[str, Any],
) -> Report:
    """Write the corpus `out` from partitions of the inputs, which `about` describes; see `clean`.

    Raises:
        UserError: a setting is wrong, or `out` holds something else.
    """
    trained = {name: chosen for name, chosen in _chosen(config).items() if isinstance(chosen, Trained)}
    with work_directory(out, work=work) as directory:
        learned: list[str] = []
        for name, chosen in trained.items():
            taught: Any
            taught, files = chosen.train(read, directory)
            config = replace(config, **{name: taught})
            learned += files
        run = _Run(config, read, load_scorer, refused)
        run.steps(config.filters, {})  # a missing library or file is reported before the work begins
        passes = _passes(run, partitions, directory, about, work)
        made = directory / MADE
        join_rejected([folder for folders, _ in passes for folder in folders], made)
        outcome = total(outcome for _, outcomes in passes for outcome in outcomes)
        with rejected_published(out):
            require_documents(sum(count.documents for count in outcome.kept.values()), reasons_of(outcome), out)
        parts = _move_parts(*passes[-1], made)
        for name in learned:
            shutil.copyfile(directory / name, made / name)
        report = report_on(inputs, outcome, read)
        write_report(made, report)
        write_corpus(made, parts, about)
        n_read = sum(count.documents for count in outcome.read.values())
        warn_of_rejected(outcome.unreadable, n_read, out / REJECTED)
        publish(out, [*(part.file for part in parts), REJECTED, *learned, *REPORT_FILES, MANIFEST])
        report = with_times(report, n_read)
    discard_work(out)
    return report


# ---- one partition


@dataclass(frozen=True)
class _Run:
    """The settings that all partitions share."""

    config: CleanConfig
    read: ReadConfig
    load_scorer: LoadScorer | None
    takedowns: Takedowns

    def steps(self, names: Sequence[str], usual: dict[str, Bounds]) -> list[Step]:
        """The filters of these names as steps, each tried on a short text."""
        steps = [build(name, self.config, Resources(self.load_scorer, usual)) for name in names]
        for step in steps:
            step([Document("text")])
        return steps


@dataclass(frozen=True)
class _Pass:
    """One pass over the partitions.

    Attributes:
        run: settings that all passes share.
        filters: (label, name) of each filter of the pass.
        usual: usual values by domain, for outliers.
        is_last: true if the parts of the pass are the result.
    """

    run: _Run
    filters: tuple[tuple[str, str], ...]
    usual: dict[str, Bounds] = field(default_factory=dict)
    is_last: bool = True


def _work(task: _Pass, item: Partition | str, folder: Path) -> dict[str, Any]:
    """Filter a partition of the input, or a part that an earlier pass wrote."""
    outcome = Outcome(tallies={label: Tally() for label, _ in task.filters})
    steps = task.run.steps([name for _, name in task.filters], task.usual)
    named = [(label, step) for (label, _), step in zip(task.filters, steps, strict=True)]
    is_first = isinstance(item, Partition)
    notes = Counter[str]()
    source: Iterator[Document | Rejected] = (
        task.run.takedowns.refuse(read_partition(item, task.run.read, notes))
        if isinstance(item, Partition)
        else read_part(Path(item))
    )
    with (folder / REJECTED).open("w", encoding="utf-8") as rejected:
        documents = _filtered(_readable(source, outcome, rejected), named, outcome, rejected, is_first, task)
        kept = write_part(documents, folder / PART)
    if task.is_last:
        outcome.kept = kept
    outcome.notes = dict(notes)
    return to_json(outcome)


def _readable(source: Iterator[Document | Rejected], outcome: Outcome, rejected: TextIO) -> Iterator[Document]:
    for record in source:
        if isinstance(record, Document):
            yield record
        else:
            outcome.unreadable[record.reason] = outcome.unreadable.get(record.reason, 0) + 1
            _write_line(rejected, record.place, "", record.reason, record.excerpt)


def _filtered(
    source: Iterator[Document],
    steps: Sequence[tuple[str, Step]],
    outcome: Outcome,
    rejected: TextIO,
    is_first: bool,
    task: _Pass,
) -> Iterator[Document]:
    def reject(document: Document, label: str, reason: str) -> None:
        _write_line(rejected, document.id, label, reason, excerpt(document.text))

    for batch in _batches(source):
        if is_first:
            add_counts(outcome.read, batch)
            for document in batch:
                _count_length(outcome.before, document)
        for document in apply(steps, list(outcome.tallies.values()), batch, reject):
            if task.is_last:
                _count_length(outcome.after, document)
                n_lines, n_characters = count_code(document.text)
                if n_lines:
                    outcome.code = [outcome.code[0] + n_lines, outcome.code[1] + n_characters]
            else:
                add(outcome.sums, document.domain, task.run.config.outliers.values(document.text))
            yield document


def _batches(documents: Iterator[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    n_characters = 0
    for document in documents:
        batch.append(document)
        n_characters += len(document.text)
        if len(batch) >= BATCH_DOCUMENTS or n_characters >= BATCH_CHARACTERS:
            yield batch
            batch, n_characters = [], 0
    if batch:
        yield batch


def _count_length(lengths: dict[str, dict[str, int]], document: Document) -> None:
    bins = lengths.setdefault(document.domain, {})
    number = length_bin(len(document.text))
    bins[number] = bins.get(number, 0) + 1


def _write_line(file: TextIO, place: str, label: str, reason: str, text: str) -> None:
    record = {"place": place, "filter": label or None, "reason": reason, "excerpt": text}
    file.write(json.dumps(record, ensure_ascii=False) + "\n")


# ---- all partitions


def _passes(
    run: _Run, partitions: Sequence[Partition], directory: Path, about: dict[str, Any], work: WorkConfig
) -> list[tuple[list[Path], list[Outcome]]]:
    """The folders and outcomes of every pass."""
    named = list(zip(labels(run.config.filters), run.config.filters, strict=True))
    starts = [i for i, (_, name) in enumerate(named) if name == "outliers"]
    groups = [tuple(named[a:b]) for a, b in zip([0, *starts], [*starts, len(named)], strict=True)]
    items: Sequence[Partition | str] = partitions
    sizes = [partition.size_bytes for partition in partitions]
    key = [about, key_of(partitions)]
    usual: dict[str, Bounds] = {}
    passes = []
    for number, group in enumerate(groups):
        task = _Pass(run, group, usual, is_last=number == len(groups) - 1)
        where = directory / f"pass{number}"
        values = run_partitions(
            items, partial(_work, task), where, key=key, work=work, sizes=sizes, title="clean: bytes read"
        )
        folders = [where / f"{index:05d}" for index in range(len(items))]
        outcomes = [Outcome.of(value) for value in values]
        usual = run.config.outliers.bounds(total(outcomes).sums)
        items = [str(folder / PART) for folder in folders]
        passes.append((folders, outcomes))
    return passes


def _move_parts(folders: Sequence[Path], outcomes: Sequence[Outcome], made: Path) -> list[Part]:
    parts = [
        Part(f"part-{number:05d}.parquet", dict(sorted(outcome.kept.items())))
        for number, outcome in enumerate(outcomes)
    ]
    for folder, part in zip(folders, parts, strict=True):
        if (folder / PART).exists():  # else an earlier, interrupted run has moved it
            os.replace(folder / PART, made / part.file)
    return parts


# ---- settings


def _chosen(config: CleanConfig) -> dict[str, Any]:
    """The chosen filters by name."""
    return {name: getattr(config, name) for name in config.filters}


def describe(inputs: Sequence[Path], config: CleanConfig, read: ReadConfig) -> dict[str, Any]:
    """What determines the result, as JSON values: inputs, filters, their options and files."""
    files: dict[str, str] = {}
    for chosen in _chosen(config).values():
        if isinstance(chosen, HasFiles):
            files |= chosen.digests(read)
    options = [
        [label, without_paths(getattr(config, name))]
        for label, name in zip(labels(config.filters), config.filters, strict=True)
    ]
    about = {
        "stage": "clean",
        "inputs": key_of(find_partitions(inputs, read, WHOLE_FILES)),
        "read": read.described(),
        "filters": options,
        "files": files,
    }
    values: dict[str, Any] = json.loads(json.dumps(about))
    return values
