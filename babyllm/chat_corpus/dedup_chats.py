"""Deduplicate chat files by question, answer or both, and keep evaluation sets out of them.

partition -> the compared text of each record -> a corpus in the work directory -> `text.dedup` -> places to remove
partition -> records without these -> files of the form they came in

The comparison is that of documents: exact forms, MinHash and SimHash with true similarities, clusters, n-grams of
evaluation sets.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from babyllm.chat.formats import FormatConfig
from babyllm.chat.reading import find_chats
from babyllm.chat_corpus.chat_output import ChatSink
from babyllm.chat_corpus.chat_records import ChatRecord, answers_of, questions_of, read_records
from babyllm.chat_corpus.chat_stage import ChatRun, identity, in_words_of_chats, summed
from babyllm.config.json_fields import read_json
from babyllm.config.values import without_paths
from babyllm.documents import Document, exact_key
from babyllm.errors import UserError
from babyllm.files import fsync, sha256
from babyllm.pipeline.engines.beside import beside_others
from babyllm.pipeline.output import MADE, discard_work, is_done, require_apart, work_directory
from babyllm.pipeline.report import Report
from babyllm.store.chat_folders import about_chat_files
from babyllm.store.corpus import Count, Part, is_corpus, write_corpus, write_part
from babyllm.store.parquet import open_parquet, parquet_writer
from babyllm.text.dedup.decontaminate import evaluation_files
from babyllm.text.dedup.dedup_config import DedupConfig
from babyllm.text.dedup.stage import CLUSTERS, CONTAMINATED, dedup
from babyllm.text.readers import Partition, Rejected

By = Literal["question", "answer", "both"]
CHATS, AGAINST, UNIQUE, VIEWS = "chats", "against", "unique", "views"
PART = "part.parquet"


@beside_others
def dedup_chats(inputs: Sequence[Path], out: Path, config: DedupConfig, by: By, format: FormatConfig) -> Report | None:
    """Write into `out` the chat files of `inputs` without repetitions.

    `out` also contains `clusters.parquet`, `report.json` and `report.html`; `contaminated.parquet` if evaluation sets
    are kept out; and `rejected.jsonl` with file, line and reason of each record that was left out. A conversation
    without the compared text stays.

    Args:
        inputs: chat files and folders of them.
        out: directory of the result.
        config: settings of the deduplication; `against` names chat files.
        by: text that is compared: the user's messages, the assistant's, or both in their order.
        format: rules by which records become conversations.

    Returns:
        The report; None if `out` had been made before, with the same inputs and settings.

    Raises:
        UserError: an input or a setting is wrong, nothing is left, or `out` holds something else.
    """
    if config.lines.min_documents is not None:
        raise UserError("--lines.min_documents: is for documents; leave it out with --kind=conversations")
    if config.substrings.min_characters is not None:
        raise UserError("--substrings.min_characters: is for documents; leave it out with --kind=conversations")
    against = [Path(path) for path in config.against]
    require_apart(out, [*inputs, *against, *map(Path, config.decontaminate)])
    about = _about(inputs, against, config, by, format)
    if is_done(out, about_chat_files(out), about):
        return None
    with work_directory(out, work=config.work) as directory:
        run = ChatRun(directory, find_chats(inputs, config.work.partition_bytes), about, config.work)
        corpora = [_views(run, by, format, directory / VIEWS / CHATS)]
        if against:
            other = replace(run, partitions=find_chats(against, config.work.partition_bytes))
            corpora.append(_views(other, by, format, directory / VIEWS / AGAINST))
        unique = directory / UNIQUE
        told = replace(config, against=[str(path) for path in corpora[1:]])
        report = dedup(corpora[:1], unique, told) or Report.from_json(read_json(unique / "report.json"))
        prefix = f"{CHATS}/" if against else ""
        _save_reasons(_reasons(unique, prefix), directory / "reasons", run.partitions)
        results = run.run(partial(_keep, format=format, reasons=directory / "reasons"), "kept", "chats kept")
        tables = [name for name in (CLUSTERS, CONTAMINATED) if (unique / name).is_file()]
        for name in tables:
            _copy_table(unique / name, directory / MADE / name, prefix)
        counts = [sum(result[name] for result in results) for name in ("read", "removed")]
        unreadable = summed(result["unreadable"] for result in results)
        report = _report(report, by, unreadable)
        reasons = unreadable | {"repeats another one, or is in an evaluation set": counts[1]}
        run.publish(
            out, "kept", results, report, n_read=counts[0], unreadable=unreadable, reasons=reasons, tables=tables
        )
    discard_work(out)
    return report


def _about(
    inputs: Sequence[Path], against: Sequence[Path], config: DedupConfig, by: By, format: FormatConfig
) -> dict[str, Any]:
    chosen = {
        name: value for name, value in without_paths(config).items() if name not in ("work", "lines", "substrings")
    }
    about = {
        "stage": "dedup chats",
        "inputs": identity(inputs),
        "against": identity(against) if against else [],
        "decontaminate": [sha256(source.path) for source in evaluation_files(config.decontaminate)],
        "by": by,
        "format": asdict(format),
        "config": chosen,
    }
    values: dict[str, Any] = json.loads(json.dumps(about))
    return values


# ---- the compared texts as a corpus


def compared(record: ChatRecord, by: By) -> str:
    """The text by which a conversation is compared with others."""
    if by == "question":
        return "\n".join(questions_of(record.conversation))
    if by == "answer":
        return "\n".join(answers_of(record.conversation))
    return "\n".join(m.content for m in record.conversation.messages if m.role in ("user", "assistant"))


def _views(run: ChatRun, by: By, format: FormatConfig, corpus: Path) -> Path:
    """The corpus of the compared texts, with places as ids."""
    folder = f"{VIEWS}-{corpus.name}"
    results = run.run(partial(_view, by=by, format=format), folder, "dedup: bytes read")
    if is_corpus(corpus):
        return corpus
    corpus.mkdir(parents=True, exist_ok=True)
    parts = []
    for number, (place, domains) in enumerate(zip(run.folders(folder), results, strict=True)):
        name = f"part-{number:05d}.parquet"
        (corpus / name).unlink(missing_ok=True)
        (corpus / name).hardlink_to(place / PART)
        parts.append(Part(name, {domain: Count(*numbers) for domain, numbers in domains.items()}))
    fsync(corpus)
    write_corpus(corpus, parts, {"stage": "views", "inputs": run.about["inputs"]})
    return corpus


def _view(partition: Partition, folder: Path, *, by: By, format: FormatConfig) -> dict[str, list[int]]:
    def documents() -> Iterator[Document]:
        for record in read_records(partition, format):
            if not isinstance(record, Rejected) and (text := compared(record, by)).strip():
                yield Document(text, record.conversation.task, record.conversation.id)

    counts = write_part(documents(), folder / PART)
    return {domain: [count.documents, count.characters, count.bytes] for domain, count in sorted(counts.items())}


# ---- what is removed


def _reasons(unique: Path, prefix: str) -> dict[str, str]:
    """The reason for each removed record, by its place."""
    reasons: dict[str, str] = {}
    with open_parquet(unique / CLUSTERS) as file:
        for batch in file.iter_batches(columns=["id", "cluster", "removed", "similarity", "method"]):
            for row in batch.filter(batch.column("removed")).to_pylist():
                alike = "repeats" if row["method"] == "exact" else f"is {row['similarity']:.2f} similar to"
                reasons[row["id"].removeprefix(prefix)] = f"{alike} {row['cluster'].removeprefix(prefix)}"
    if (unique / CONTAMINATED).is_file():
        with open_parquet(unique / CONTAMINATED) as file:
            for row in file.read(["id", "file", "matches"]).to_pylist():
                reasons[row["id"].removeprefix(prefix)] = f"shares words with the evaluation set {row['file']}"
    return reasons


def _save_reasons(reasons: Mapping[str, str], directory: Path, partitions: Sequence[Partition]) -> None:
    """Store the reasons in one file for each file of records, which may be read by several workers."""
    directory.mkdir(exist_ok=True)
    of_file: dict[str, dict[str, str]] = {}
    for place, reason in reasons.items():
        of_file.setdefault(place.rpartition(":")[0], {})[place] = reason
    for name in {source.name for partition in partitions for source in partition.sources} | set(of_file):
        (directory / _file_name(name)).write_text(json.dumps(of_file.get(name, {})), encoding="utf-8")


def _file_name(name: str) -> str:
    return f"{exact_key(name).hex()}.json"


def _keep(partition: Partition, folder: Path, *, format: FormatConfig, reasons: Path) -> dict[str, Any]:
    sink, known = ChatSink(folder), dict[str, dict[str, str]]()
    n_read = n_removed = 0
    unreadable: dict[str, int] = {}
    for record in read_records(partition, format):
        if isinstance(record, Rejected):
            unreadable[record.reason] = unreadable.get(record.reason, 0) + 1
            sink.reject(record)
            continue
        n_read += 1
        name = record.source.name
        if name not in known:
            file = reasons / _file_name(name)
            known = {name: json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}}
        if reason := known[name].get(record.conversation.id):
            n_removed += 1
            sink.reject(record, reason, "dedup")
        else:
            sink.keep(record)
    return {"read": n_read, "removed": n_removed, "unreadable": unreadable, "pieces": sink.close()}


def _copy_table(source: Path, target: Path, prefix: str) -> None:
    """Copy a table; ids lose the prefix of the inputs, which the files of --against do not have."""
    with open_parquet(source) as file, parquet_writer(target, file.schema_arrow) as out:
        for batch in file.iter_batches():
            table = pa.Table.from_batches([batch])
            for name in ("cluster", "id", "neighbour"):
                if prefix and name in table.column_names:
                    bare = pc.replace_substring_regex(table[name], f"^{prefix}", "")
                    table = table.set_column(table.column_names.index(name), name, bare)
            out.write_table(table.cast(file.schema_arrow))
    fsync(target)


def _report(report: Report, by: By, unreadable: Mapping[str, int]) -> Report:
    report = in_words_of_chats(report)
    words = {"question": "questions", "answer": "answers", "both": "questions and answers"}
    facts = [("compared texts", words[by]), *report.facts]
    facts += [(f"rejected: {reason}", n) for reason, n in sorted(unreadable.items())]
    return replace(report, title="Deduplication of conversations", facts=facts)
