"""Clean chat files: the conversations that pass the filters, in files of the form they came in.

partition -> records -> text filters by role, one after the other -> rules about turns -> kept, or rejected with reason

An edit changes the fields of the record in which the text stands, and the record is read again. So what is written is
what training will read. A test looks at the messages.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from babyllm.chat.formats import FormatConfig, to_conversation
from babyllm.chat.messages import Unusable
from babyllm.chat.reading import READ, find_chats
from babyllm.chat_corpus.chat_filters import EVERY, ChatFilters, reason_against
from babyllm.chat_corpus.chat_output import ChatSink
from babyllm.chat_corpus.chat_records import ChatRecord, read_records, text_of
from babyllm.chat_corpus.chat_stage import ChatRun, identity, in_words_of_chats
from babyllm.chat_corpus.record_texts import texts_in, with_texts
from babyllm.config.values import check, without_paths
from babyllm.documents import Document
from babyllm.errors import UserError
from babyllm.pipeline.engines.beside import beside_others
from babyllm.pipeline.output import discard_work, is_done, require_apart, work_directory
from babyllm.pipeline.partitions import WorkConfig
from babyllm.pipeline.report import Report
from babyllm.store.chat_folders import about_chat_files
from babyllm.store.corpus import add_counts
from babyllm.text.clean.filters import CleanConfig
from babyllm.text.clean.filters.chain import Removed, Step, Tally, build
from babyllm.text.clean.filters.contract import Edit, HasFiles, Resources, Trained
from babyllm.text.clean.report import Outcome, length_bin, reasons_of, report_on, to_json, total
from babyllm.text.clean.stage import LoadScorer
from babyllm.text.clean.syntax.code import count_code
from babyllm.text.readers import Partition, Rejected

BATCH_RECORDS = 256
TURNS = "turns"
"""The label of the rules about turns among the filters."""


@beside_others
def clean_chats(
    inputs: Sequence[Path],
    out: Path,
    config: CleanConfig,
    filters: ChatFilters,
    format: FormatConfig,
    *,
    work: WorkConfig | None = None,
    load_scorer: LoadScorer | None = None,
) -> Report | None:
    """Write into `out` the chat files of `inputs`, with the records that pass the filters.

    `out` also contains `report.json`, `report.html` and, if anything was rejected, `rejected.jsonl` with file, line and
    reason of each.

    Args:
        inputs: chat files and folders of them.
        out: directory of the result.
        config: options of the text filters; its list of filters is not used.
        filters: text filters by role, and rules about turns.
        format: rules by which records become conversations.
        work: use of the machine; the result does not depend on it.
        load_scorer: module-level function that loads the language model of the filter perplexity from its directory.

    Returns:
        The report; None if `out` had been made before, with the same inputs and settings.

    Raises:
        UserError: an input or a setting is wrong, nothing is left, or `out` holds something else.
    """
    work = work or WorkConfig()
    check(filters, "--chat.")
    filters.check()
    require_apart(out, inputs)
    job = _Job(config, filters, format, load_scorer)
    about = _about(inputs, job)
    if is_done(out, about_chat_files(out), about):
        return None
    job.steps()  # a missing library or file is reported before the work begins
    with work_directory(out, work=work) as directory:
        run = ChatRun(directory, find_chats(inputs, work.partition_bytes), about, work)
        results = run.run(partial(_work, job=job), "pass0", "clean: bytes read")
        outcome = total(Outcome.of(result["outcome"]) for result in results)
        report = in_words_of_chats(report_on(inputs, outcome, READ))
        run.publish(
            out,
            "pass0",
            results,
            report,
            n_read=sum(count.documents for count in outcome.read.values()),
            unreadable=outcome.unreadable,
            reasons=reasons_of(outcome),
        )
    discard_work(out)
    return report


@dataclass(frozen=True)
class _Job:
    """The settings that all partitions share."""

    config: CleanConfig
    filters: ChatFilters
    format: FormatConfig
    load_scorer: LoadScorer | None

    def steps(self) -> list[tuple[str, str, bool, Step]]:
        """Label, role, whether it edits, and function of each text filter, tried on a short text."""
        found: list[tuple[str, str, bool, Step]] = []
        for role, name in self.filters.steps:
            chosen = getattr(self.config, name)
            if isinstance(chosen, Trained):
                raise UserError(f"--chat.filters: {name} is trained on documents; leave it out")
            step = build(name, self.config, Resources(self.load_scorer))
            step([Document("text")])
            label = name if role == EVERY else f"{role}: {name}"
            while label in [other for other, *_ in found]:
                label += " again"
            found.append((label, role, isinstance(chosen, Edit), step))
        return found


def _about(inputs: Sequence[Path], job: _Job) -> dict[str, Any]:
    files: dict[str, str] = {}
    names = sorted({name for _, name in job.filters.steps})
    for chosen in (getattr(job.config, name) for name in names):
        if isinstance(chosen, HasFiles):
            files |= chosen.digests(READ)
    about = {
        "stage": "clean chats",
        "inputs": identity(inputs),
        "format": asdict(job.format),
        "chat": asdict(job.filters),
        "filters": {name: without_paths(getattr(job.config, name)) for name in names},
        "files": files,
    }
    values: dict[str, Any] = json.loads(json.dumps(about))
    return values


# ---- one partition


def _work(partition: Partition, folder: Path, *, job: _Job) -> dict[str, Any]:
    steps = job.steps()
    outcome = Outcome(tallies={label: Tally() for label in [*(label for label, *_ in steps), TURNS]})
    sink = ChatSink(folder)
    for batch in _batches(partition, job.format, outcome, sink):
        for record in batch:
            _count(outcome.before, record)
        add_counts(outcome.read, map(_document, batch))
        kept: Sequence[ChatRecord] = batch
        for label, role, edits, step in steps:
            tally = outcome.tallies[label]
            if edits:
                kept = list(_edited(kept, role, step, label, tally, sink, job.format))
            else:
                kept = list(_tested(kept, role, step, label, tally, sink))
        kept = list(_ruled(kept, job.filters, outcome.tallies[TURNS], sink))
        for record in kept:
            _count(outcome.after, record)
            n_lines, n_characters = count_code(text_of(record.conversation))
            outcome.code = [outcome.code[0] + n_lines, outcome.code[1] + n_characters]
            sink.keep(record)
        add_counts(outcome.kept, map(_document, kept))
    return {"outcome": to_json(outcome), "pieces": sink.close()}


def _batches(
    partition: Partition, format: FormatConfig, outcome: Outcome, sink: ChatSink
) -> Iterator[list[ChatRecord]]:
    batch: list[ChatRecord] = []
    for found in read_records(partition, format):
        if isinstance(found, Rejected):
            outcome.unreadable[found.reason] = outcome.unreadable.get(found.reason, 0) + 1
            sink.reject(found)
            continue
        batch.append(found)
        if len(batch) == BATCH_RECORDS:
            yield batch
            batch = []
    yield batch


def _document(record: ChatRecord) -> Document:
    """The whole conversation as a document, by which it is counted."""
    return Document(text_of(record.conversation), record.conversation.task, record.conversation.id)


def _count(lengths: dict[str, dict[str, int]], record: ChatRecord) -> None:
    bins = lengths.setdefault(record.conversation.task, {})
    number = length_bin(len(text_of(record.conversation)))
    bins[number] = bins.get(number, 0) + 1


def _edited(
    records: Sequence[ChatRecord],
    role: str,
    step: Step,
    label: str,
    tally: Tally,
    sink: ChatSink,
    format: FormatConfig,
) -> Iterator[ChatRecord]:
    """The records as an edit changes their texts; one that is then not a conversation is rejected."""
    places = [
        [
            (i, place, text)
            for place, (owner, text) in texts_in(r.fields, r.conversation).items()
            if role in (EVERY, owner)
        ]
        for i, r in enumerate(records)
    ]
    flat = [item for of_record in places for item in of_record]
    answers = step([Document(text, records[i].conversation.task) for i, _, text in flat]) if flat else []
    changes: dict[int, dict[Any, str]] = {}
    for (i, place, text), answer in zip(flat, answers, strict=True):
        if isinstance(answer, str) and answer != text:
            changes.setdefault(i, {})[place] = answer
    for i, record in enumerate(records):
        if i not in changes:
            yield record
            continue
        fields, old = with_texts(record.fields, changes[i]), record.conversation
        try:
            new = record._replace(
                fields=fields, conversation=to_conversation(fields, format, task=record.source.domain, id=old.id)
            )
        except Unusable as error:
            tally.count(label, _document(record), "", str(error))
            sink.reject(record, str(error), label)
            continue
        tally.count(label, _document(record), text_of(new.conversation))
        yield new


def _tested(
    records: Sequence[ChatRecord],
    role: str,
    step: Step,
    label: str,
    tally: Tally,
    sink: ChatSink,
) -> Iterator[ChatRecord]:
    """The records none of whose messages a test rejects."""
    flat = [
        (i, message.content)
        for i, record in enumerate(records)
        for message in record.conversation.messages
        if role in (EVERY, message.role)
    ]
    answers = step([Document(text, records[i].conversation.task) for i, text in flat]) if flat else []
    reasons: dict[int, str] = {}
    for (i, _), answer in zip(flat, answers, strict=True):
        if isinstance(answer, Removed):
            reasons.setdefault(i, answer.reason)
    for i, record in enumerate(records):
        if i in reasons:
            tally.count(label, _document(record), "", reasons[i])
            sink.reject(record, reasons[i], label)
        else:
            yield record


def _ruled(records: Sequence[ChatRecord], rules: ChatFilters, tally: Tally, sink: ChatSink) -> Iterator[ChatRecord]:
    """The records that the rules about turns leave."""
    for record in records:
        reason = reason_against(record.conversation, rules)
        if reason is None:
            yield record
        else:
            tally.count(TURNS, _document(record), "", reason)
            sink.reject(record, reason, TURNS)
