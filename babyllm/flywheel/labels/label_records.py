"""Records of files with their labels: task, difficulty, quality, language and safety.

files -> records -> Labelling -> records.jsonl, rejected.jsonl, report
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

from babyllm.chat.formats import FormatConfig
from babyllm.chat.messages import ASSISTANT
from babyllm.chat.reading import find_conversation_partitions
from babyllm.chat_corpus.chat_records import ChatRecord, read_records, to_any
from babyllm.endpoint.config import Request
from babyllm.endpoint.price_report import DryRun
from babyllm.endpoint.replies import Reply
from babyllm.endpoint.shared_budget import BudgetConfig
from babyllm.endpoint.spending import Spending
from babyllm.errors import UserError
from babyllm.files import fsync, write_bytes
from babyllm.flywheel.labels.judged_labels import Item
from babyllm.flywheel.labels.labeller_config import LabellerConfig
from babyllm.flywheel.labels.labelling import Labelling, counted, label_tables
from babyllm.flywheel.labels.record_labels import Labels
from babyllm.pipeline.output import MADE, REJECTED, WORK, discard_work, publish, require_apart, work_directory
from babyllm.pipeline.report import Fact, Report, Table
from babyllm.pipeline.report_html import write_report
from babyllm.pipeline.report_markdown import as_markdown
from babyllm.text.readers import Rejected

RECORDS, CACHE, FIELD = "records.jsonl", "cache", "labels"
RESULTS = (RECORDS, REJECTED, "report.md", "report.html", "report.json")
_AT_ONCE = 1024  # records that are labelled together


def label_records(
    inputs: Sequence[Path], out: Path, config: LabellerConfig, budget: BudgetConfig, format: FormatConfig
) -> tuple[Report, dict[str, Spending]]:
    """Write the records of files with their labels into `out`, in place of an earlier result there.

    A record keeps its fields, and has its labels in `labels`, and in `task` where it has none. The judge's replies stay
    in `out`: what was answered is not asked again, whatever the result of the call.

    Args:
        inputs: files and folders of conversations, preferences or prompts.
        out: directory of the result.
        config: who labels.
        budget: what all endpoints together may spend.
        format: fields of the records.

    Returns:
        The report, and what this call has spent at each endpoint.

    Raises:
        UserError: an input, a setting or every endpoint is at fault, there are no records, or no reply has labels.
    """
    require_apart(out, inputs)
    judges, spendings = config.judges(), dict[str, Spending]()
    facts: list[Fact] = [("records of", ", ".join(map(str, inputs)))]
    facts += [(f"judge {name}".strip(), f"{one.model} at {one.url}") for name, one in judges.items()]
    facts += [(f"classifier of {name}", path) for name, path in config.classifiers.items()]
    with work_directory(out, [CACHE, *RESULTS]):
        made = out / WORK / MADE
        if judges:
            from babyllm.endpoint.client import Client

        with Client(judges, out / CACHE, budget=budget) if judges else nullcontext() as client:
            labelling = Labelling(config, client.replies if client else None)
            counts, n, unread = _write(inputs, format, labelling, made)
            spendings = client.spendings if client else {}
        _check(labelling, n, unread, inputs)
        write_bytes(made / REJECTED, "".join(map(_unread_line, unread)).encode("utf-8", "backslashreplace"))
        report = _report(facts, labelling, counts, n, unread)
        write_bytes(made / "report.md", as_markdown(report).encode("utf-8", "backslashreplace"))
        write_report(made, report)
        publish(out, RESULTS, [name for name in reversed(RESULTS) if (out / name).exists()])
    discard_work(out)
    return report, spendings


def dry_run(inputs: Sequence[Path], config: LabellerConfig, format: FormatConfig) -> tuple[DryRun, Report]:
    """What a judge would be asked, and cost at most, without asking; what was answered before is in the price."""
    dry, n = DryRun(judges := config.judges()), 0

    def ask(requests: Sequence[Request]) -> Iterator[Reply]:
        dry.count(requests, "labels")
        return iter([Reply(error="not asked")] * len(requests))

    labelling = Labelling(LabellerConfig(config.language, config.structured), ask if judges else None)
    for some in _batches(inputs, format, []):
        labelling.labels([_item(one) for one in some])
        n += len(some)
    return dry, dry.report("label", [("records", n)])


def _batches(inputs: Sequence[Path], format: FormatConfig, unread: list[Rejected]) -> Iterator[list[ChatRecord]]:
    """The records in lists of many; reasons why others cannot be read are added to `unread`."""

    def records() -> Iterator[ChatRecord]:
        for partition in find_conversation_partitions(inputs, sys.maxsize):
            for one in read_records(partition, format, to_any):
                if isinstance(one, Rejected):
                    unread.append(one)
                else:
                    yield one

    found = records()
    while some := list(islice(found, _AT_ONCE)):
        yield some


def _item(record: ChatRecord) -> Item:
    """The messages before the last answer, and its text; empty if the record is a question alone."""
    messages = [{"role": one.role, "content": one.content} for one in record.conversation.messages]
    answer = messages.pop()["content"] if messages and messages[-1]["role"] == ASSISTANT else ""
    return messages, answer


def _write(
    inputs: Sequence[Path], format: FormatConfig, labelling: Labelling, made: Path
) -> tuple[Counter[tuple[str, str]], int, list[Rejected]]:
    """Write the records as they are labelled; returns the number of each label, of records, and what is unread."""
    counts, n, unread = Counter[tuple[str, str]](), 0, list[Rejected]()
    with (made / RECORDS).open("wb") as file:
        for some in _batches(inputs, format, unread):
            for record, labels in zip(some, labelling.labels([_item(one) for one in some]), strict=True):
                counts.update(counted(labels).items())
                line = json.dumps(_labelled(record.fields, labels), ensure_ascii=False, default=str)
                file.write(f"{line}\n".encode("utf-8", "backslashreplace"))
            n += len(some)
        file.flush()
    fsync(made / RECORDS)
    return counts, n, unread


def _labelled(fields: Mapping[str, Any], labels: Labels) -> dict[str, Any]:
    return {"task": labels.task, **fields, FIELD: labels.to_json()}


def _unread_line(one: Rejected) -> str:
    return f"{json.dumps({'id': one.place, 'reason': one.reason}, ensure_ascii=False)}\n"


def _check(labelling: Labelling, n: int, unread: Sequence[Rejected], inputs: Sequence[Path]) -> None:
    if not n:
        why = f"; the first was refused: {unread[0].reason}" if unread else ""
        raise UserError(f"{', '.join(map(str, inputs))}: no records{why}")
    if labelling.n_asked and labelling.problems.total() == labelling.n_asked:
        ((most, _),) = labelling.problems.most_common(1)
        raise UserError(f"none of the {labelling.n_asked:,} replies has labels, most often because: {most}")


def _report(
    facts: Sequence[Fact], labelling: Labelling, counts: Counter[tuple[str, str]], n: int, unread: Sequence[Rejected]
) -> Report:
    more: list[Fact] = [("records", n), ("records that cannot be read", len(unread))]
    if labelling.n_asked:
        more.append(("records that the judge was to label", labelling.n_asked))
    tables = label_tables(counts, n, "records")
    for title, reasons in (
        ("Records without the judge's labels", labelling.problems),
        ("Records that cannot be read", Counter(one.reason for one in unread)),
    ):
        if reasons := +reasons:
            tables.append(Table(title, ["reason", "number"], [list(one) for one in reasons.most_common()]))
    return Report("label", [*facts, *more], tables)
