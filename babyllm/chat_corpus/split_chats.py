"""Chat files divided into parts that never share a prompt, such as for fine-tuning, for preferences and for a test.

record -> its first question -> a hash in [0, 1) -> the part whose share it falls into -> PART/file

The hash depends on the question alone: neither on the files nor on their order. So parts of a larger collection hold
those of a smaller one, and two collections that are divided by the same shares never share a prompt between parts.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

from babyllm.chat.formats import FormatConfig
from babyllm.chat.messages import Conversation
from babyllm.chat.reading import find_chats
from babyllm.chat_corpus.chat_output import ChatSink, join_chats
from babyllm.chat_corpus.chat_records import questions_of, read_records, text_of, to_any
from babyllm.chat_corpus.chat_stage import ChatRun, identity, require_conversations, summed
from babyllm.documents import spread_key
from babyllm.errors import UserError
from babyllm.files import write_json
from babyllm.pipeline.engines.beside import beside_others
from babyllm.pipeline.output import (
    MADE,
    REJECTED,
    discard_work,
    is_done,
    made_with,
    publish,
    rejected_published,
    require_apart,
    work_directory,
)
from babyllm.pipeline.partitions import WorkConfig
from babyllm.pipeline.rejections import warn_of_rejected
from babyllm.pipeline.report import Cell, Fact, Report, Table
from babyllm.pipeline.report_html import REPORT_FILES, write_report
from babyllm.prepare.rendered.unused import join_rejected
from babyllm.store.chat_folders import CHATS, write_chat_files
from babyllm.text.readers import Partition, Rejected

SPLIT = "split.json"
_NAME = re.compile(r"[\w-]+")


@beside_others
def split_chats(
    inputs: Sequence[Path],
    out: Path,
    parts: Mapping[str, float],
    format: FormatConfig,
    *,
    work: WorkConfig | None = None,
) -> Report | None:
    """Write the records of chat files into one folder for each part; those with the same first question stay together.

    Args:
        inputs: files and folders of conversations, preferences or prompts.
        out: directory of the parts. Each has its files in the form they came in, and `chats.json`.
        parts: share of the questions of each part, by name; together 1.
        format: rules by which records become conversations.
        work: use of the machine; the result does not depend on it.

    Returns:
        The report; None if `out` had been made before, with the same inputs and settings.

    Raises:
        UserError: an input or a share is wrong, a part stays empty, or `out` holds something else.
    """
    work = work or WorkConfig()
    _check(parts)
    require_apart(out, inputs)
    values = {"stage": "split", "inputs": identity(inputs), "parts": list(parts.items()), "format": asdict(format)}
    about: dict[str, Any] = json.loads(json.dumps(values))
    if is_done(out, made_with(out, SPLIT, SPLIT), about):
        return None
    with work_directory(out, work=work) as directory:
        run = ChatRun(directory, find_chats(inputs, work.partition_bytes), about, work)
        results = run.run(partial(_work, parts=parts, format=format), "parts", "split: bytes read")
        files, report = _write(run, results, parts, out)
        publish(out, [*files, REJECTED, *REPORT_FILES, SPLIT])
    discard_work(out)
    return report


def part_of(conversation: Conversation, parts: Mapping[str, float]) -> str:
    """The part that a conversation belongs to, by a hash of its first question; without one, of all its texts."""
    asked = questions_of(conversation)[:1] or [text_of(conversation)]
    prompt = " ".join(unicodedata.normalize("NFC", asked[0]).split())
    position = int.from_bytes(spread_key(f"split\0{prompt}"), "big") / 2.0**64
    ends = zip(parts, accumulate(parts.values()), strict=True)
    return next((name for name, end in ends if position < end), list(parts)[-1])


def _check(parts: Mapping[str, float]) -> None:
    for name, share in parts.items():
        if not _NAME.fullmatch(name):
            raise UserError(f"--parts: {name!r} cannot be the name of a folder; use letters, digits, - and _")
        if not 0 < share <= 1:
            raise UserError(f"--parts: {name}={share:g} must be a share above 0 and at most 1")
    if len(parts) < 2 or abs(sum(parts.values()) - 1) > 1e-6:
        raise UserError(
            f"--parts: the shares of {len(parts)} part(s) add up to {sum(parts.values()):g}; name two parts or more "
            "whose shares add up to 1, such as {sft: 0.75, preference: 0.25}"
        )


def _work(partition: Partition, folder: Path, *, parts: Mapping[str, float], format: FormatConfig) -> dict[str, Any]:
    sink = ChatSink(folder)
    unreadable: dict[str, int] = {}
    for record in read_records(partition, format, to_any):
        if isinstance(record, Rejected):
            unreadable[record.reason] = unreadable.get(record.reason, 0) + 1
            sink.reject(record)
        else:
            sink.keep(record, part_of(record.conversation, parts))
    return {"unreadable": unreadable, "pieces": sink.close()}


def _write(
    run: ChatRun, results: Sequence[Mapping[str, Any]], parts: Mapping[str, float], out: Path
) -> tuple[list[str], Report]:
    """Write the files of all parts, and return their names and the report."""
    made, folders = run.directory / MADE, run.folders("parts")
    sources = {source.path: source for partition in run.partitions for source in partition.sources}
    join_rejected(folders, made, sources)
    files = join_chats(folders, [result["pieces"] for result in results], made)
    unreadable = summed(result["unreadable"] for result in results)
    with rejected_published(out):
        require_conversations(sum(files.values()), unreadable, out)
    of_part = {part: {n: k for n, k in files.items() if n.startswith(f"{part}/")} for part in parts}
    for part, own in of_part.items():
        if not own:
            raise UserError(f"--parts: no record falls into {part}; the files hold too few, or its share is too small")
        names = {name.removeprefix(f"{part}/"): n for name, n in own.items()}
        write_chat_files(made / part, names, run.about | {"part": part})
    report = _report(of_part, parts, unreadable)
    write_report(made, report)
    write_json(made / SPLIT, run.about)
    warn_of_rejected(unreadable, sum(files.values()), out / REJECTED)
    return [*files, *(f"{part}/{CHATS}" for part in parts)], report


def _report(
    of_part: Mapping[str, Mapping[str, int]], parts: Mapping[str, float], unreadable: Mapping[str, int]
) -> Report:
    total = sum(n for files in of_part.values() for n in files.values())
    facts: list[Fact] = [("records", total)]
    facts += [(f"rejected: {reason}", n) for reason, n in sorted(unreadable.items())]
    rows: list[list[Cell]] = []
    for part, files in of_part.items():
        rows.append([part, "all", sum(files.values()), sum(files.values()) / total, parts[part]])
        rows += [[part, name.removeprefix(f"{part}/"), n, n / total, None] for name, n in files.items()]
    columns = ["part", "file", "records", "share", "wanted share"]
    return Report("Parts without common prompts", facts, [Table("parts", columns, rows)])
