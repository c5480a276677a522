"""Files of conversations rendered into a store, on all cores, with the outcome of every record.

files -> partitions -> one process each: read, choose the split, render, fit -> a file of ids by split and task
      -> ids.bin, turns.bin, index.bin; rejected.jsonl; report.json; conversations.json, the commit mark

Conversations are sorted by split, task and input order, so the store depends neither on the number of workers nor on
the size of the partitions. It is a cache beside the run: other settings or files rebuild it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from babyllm.chat.formats import FormatConfig
from babyllm.chat.limits import MessageLimits, limited
from babyllm.chat.load import ChatTemplate, Rendered, Supervise, TooLong, fit, split_turns
from babyllm.chat.messages import Conversation, Unusable
from babyllm.chat.reading import READ, find_conversation_partitions, read_conversation_partition
from babyllm.chat.supervise import message_weights
from babyllm.documents import check_held_out
from babyllm.files import read_sealed_json, write_sealed_json
from babyllm.pipeline.output import MADE, REJECTED, WORK, discard_work, publish, rejected_published, work_directory
from babyllm.pipeline.partitions import WorkConfig, run_partitions
from babyllm.pipeline.report import Report
from babyllm.pipeline.report_html import REPORT_FILES, write_report
from babyllm.prepare.conversations_report import Key, Result, Tally, report_of, require_training
from babyllm.prepare.held_out import first_kept, is_apart
from babyllm.store.conversations import FORMAT_VERSION, IDS, INDEX, MANIFEST, RECORD, TURNS, Group, Manifest, is_store
from babyllm.store.shards import Split, little_endian, token_dtype
from babyllm.text.readers import Partition, Rejected, Source, key_of
from babyllm.text.readers.line_numbers import LineNumbers
from babyllm.text.readers.records import rejected
from babyllm.tokenizer import TOKENIZER_FILES, load_tokenizer

PIECE = "conversations.bin"
# Rendering is slow, so even small files are split over cores; where depends on the files alone.
MIN_PIECE_BYTES, PIECE_SHARE = 1 << 20, 1 / 16
COPY_BYTES = 1 << 22
READING = 3  # version of how records become conversations; a store of another version is rebuilt


@dataclass(frozen=True)
class _Settings:
    """The settings that, with the files, decide the result; sent to worker processes."""

    format: FormatConfig
    supervise: Supervise
    is_split: bool
    seq_len: int
    too_long: TooLong
    limits: MessageLimits
    held_out: float
    held_out_files: tuple[str, ...]
    directory: Path
    template: str
    tokenizer_sha256: str
    first_kept: bytes = b""

    def makes(self) -> dict[str, Any]:
        """The settings as JSON values, without the template's location and without what follows from the files."""
        values = asdict(self)
        del values["directory"], values["first_kept"]
        return values | {"held_out_files": list(self.held_out_files)}


def prepare_conversations(
    paths: Sequence[Path],
    directory: Path,
    template: ChatTemplate,
    format: FormatConfig,
    *,
    seq_len: int,
    supervise: Supervise,
    is_split: bool = False,
    too_long: TooLong = "drop_oldest",
    limits: MessageLimits = MessageLimits(),  # noqa: B008  # frozen
    held_out: float = 0.02,
    held_out_paths: Sequence[Path] = (),
    work: WorkConfig | None = None,
) -> Report | None:
    """Render conversations into a store, on all cores, and return the report; None if the same store exists already.

    If a call is interrupted, the same call continues with the partitions that are left. A store of other settings or
    files is replaced.

    Args:
        paths: files and folders of conversations.
        directory: directory of the store; created if absent.
        template: chat template that renders them; it and its tokenizer are saved in the directory.
        format: rules by which records become conversations.
        seq_len: largest number of inputs of a conversation.
        supervise: messages that are trained on.
        is_split: whether each answer becomes a conversation of its own, with all messages before it.
        too_long: treatment of longer conversations; see `fit`.
        limits: largest lengths of messages.
        held_out: share of the conversations in the "val" split or, as an integer, their number; a hash of roles and
            contents decides.
        held_out_paths: files and folders whose conversations are all in the "val" split.
        work: number of processes, and bytes of a partition.

    Raises:
        UserError: a setting is not valid, an input cannot be read, no conversation is left to train on, or the
            directory cannot be written.
    """
    if held_out < 0 or not isinstance(held_out, int):
        check_held_out(held_out)
    work = work or WorkConfig()
    partitions = _partitions([*paths, *held_out_paths], work.partition_bytes)
    files = {source.path: source for partition in partitions for source in partition.sources}
    held = tuple(s.name for file, s in files.items() if any(p == file or p in file.parents for p in held_out_paths))
    sha256, parts = template.tokenizer.sha256, directory / WORK
    settings = _Settings(
        format,
        supervise,
        is_split,
        seq_len,
        too_long,
        limits,
        held_out,
        held,
        parts / "template",
        template.source,
        sha256,
    )
    inputs = [[source.name, *source.stamp] for source in files.values()]
    made = {"version": FORMAT_VERSION, "reading": READING, "settings": settings.makes(), "inputs": inputs}
    made_of = json.loads(json.dumps(made))
    if _made_of(directory) == made_of:
        discard_work(directory)
        return None
    with work_directory(directory, _files_of(directory)):
        template.tokenizer.adding_bos(False).save(settings.directory, chat_template=template.source)
        key = made_of | {"pieces": key_of(partitions)}
        if held_out and isinstance(held_out, int):
            found = first_kept(partitions, held_out, format, held, parts / "held_out", key=key, work=work)
            settings = replace(settings, first_kept=found)
        results = run_partitions(
            partitions,
            partial(_prepare_piece, settings=settings),
            parts,
            key=key,
            workers=work.workers,
            sizes=[partition.size_bytes for partition in partitions],
            title="conversations",
        )
        report = _write(directory, settings, [Result.of(result) for result in results], template, files, made_of)
    discard_work(directory)
    return report


def _partitions(paths: Sequence[Path], partition_bytes: int) -> list[Partition]:
    total = sum(partition.size_bytes for partition in find_conversation_partitions(paths, partition_bytes))
    return find_conversation_partitions(paths, min(partition_bytes, max(MIN_PIECE_BYTES, round(total * PIECE_SHARE))))


def _made_of(directory: Path) -> Any:
    try:
        return read_sealed_json(directory / MANIFEST)["made_of"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


# ---- one partition


@dataclass
class _Block:
    """The rendered conversations of a split and task, and their counts."""

    ids: list[bytes] = field(default_factory=list)
    turns: list[bytes] = field(default_factory=list)
    records: list[tuple[int, int, int, int]] = field(default_factory=list)
    tokens: int = 0

    def add(self, rendered: Rendered, ids_kind: np.dtype[Any], turns_kind: np.dtype[Any]) -> None:
        supervised = rendered.turns[1:][rendered.turns[1:] > 0]  # the first id is not a target
        n_turns, n_ids = int(np.count_nonzero(np.bincount(supervised))), len(rendered.ids)
        self.records.append((self.tokens, n_ids, n_turns, len(supervised)))
        self.ids.append(rendered.ids.astype(ids_kind).tobytes())
        self.turns.append(rendered.turns.astype(turns_kind).tobytes())
        self.tokens += n_ids

    def group(self, key: Key) -> Group:
        _, lengths, turns, supervised = zip(*self.records, strict=True)
        return Group(*key, len(self.records), sum(turns), self.tokens, sum(supervised), max(lengths))


def _prepare_piece(partition: Partition, folder: Path, *, settings: _Settings) -> dict[str, Any]:
    """Render the conversations of a partition into one file, one split and task after the other."""
    allowed = tuple(settings.format.allow_special)
    template = _load_once(settings.directory, settings.template, settings.tokenizer_sha256, allowed)
    ids_kind, turns_kind = _kinds(template.tokenizer.vocab_size, settings.seq_len)
    result = Result()
    blocks: dict[Key, _Block] = {}
    with (folder / REJECTED).open("w", encoding="utf-8") as unused:
        for key, found in _rendered(partition, settings, template, result):
            if isinstance(found, Rejected):
                unused.write(json.dumps(asdict(found), ensure_ascii=False) + "\n")
            else:
                blocks.setdefault(key, _Block()).add(found, ids_kind, turns_kind)
    result.groups = [block.group(key) for key, block in blocks.items()]
    with (folder / PIECE).open("wb") as file:
        for block in blocks.values():
            file.writelines([np.array(block.records, RECORD).tobytes(), *block.ids, *block.turns])
        file.flush()
        os.fsync(file.fileno())
    return result.to_json()


@lru_cache(maxsize=1)
def _load_once(directory: Path, source: str, sha256: str, allow_special: tuple[str, ...]) -> ChatTemplate:
    """The template of a worker process; cached, because a tokenizer may take a while to load."""
    tokenizer = load_tokenizer(directory, sha256)
    assert tokenizer is not None
    return ChatTemplate(source, tokenizer, allow_special=allow_special)


def _kinds(vocab_size: int, seq_len: int) -> tuple[np.dtype[Any], np.dtype[Any]]:
    """The types on disk of ids and of turn numbers; a conversation has at most as many turns as ids."""
    return little_endian(token_dtype(vocab_size)), little_endian(token_dtype(seq_len + 2))


def _rendered(
    partition: Partition, settings: _Settings, template: ChatTemplate, result: Result
) -> Iterator[tuple[Key, Rendered | Rejected]]:
    """The conversations of a partition as ids, and the unused records with reasons; `result` counts both."""
    for source in partition.sources:
        is_held = source.name in settings.held_out_files
        for record in read_conversation_partition(Partition((source,), source.size_bytes), settings.format):
            if isinstance(record, Rejected):
                result.rejected[record.reason] += 1
                yield ("train", ""), record
                continue
            is_val = is_held or is_apart(record, settings.held_out, settings.first_kept)
            split: Split = "val" if is_val else "train"
            key = split, record.task
            tally = result.tallies.setdefault(key, Tally())
            tally.conversations += 1
            result.count_left_out(record.left_out)
            for found in _samples(record, settings, template, tally, result.cut):
                if isinstance(found, Rejected):
                    result.skipped[found.reason] += 1
                yield key, found


def _samples(
    record: Conversation, settings: _Settings, template: ChatTemplate, tally: Tally, cut: Counter[str]
) -> Iterator[Rendered | Rejected]:
    """The samples of a conversation: one, or one for each of its answers."""
    try:
        record, cuts = limited(record, settings.limits, template.tokenizer)
    except Unusable as error:
        tally.count("skipped", sum(message_weights(record.messages, settings.supervise)))
        yield rejected(record.id, str(error), record.messages[0].content)
        return
    if cuts:
        cut.update(cuts)
    for sample in split_turns(record) or [record] if settings.is_split else [record]:
        yield _fitted(sample, settings, template, tally)


def _fitted(
    conversation: Conversation, settings: _Settings, template: ChatTemplate, tally: Tally
) -> Rendered | Rejected:
    weights = message_weights(conversation.messages, settings.supervise)
    rendered, reason = None, ""
    try:
        rendered, outcome = fit(template, conversation, settings.supervise, settings.seq_len, settings.too_long)
        reason = f"longer than seq_len {settings.seq_len}" if any(weights) else "nothing in it is trained on"
    except Unusable as error:
        outcome, reason = "skipped", str(error)
    n_turns = 0 if rendered is None else int(rendered.turns.max())
    tally.count(outcome, sum(weights) - n_turns)
    if rendered is None:
        return rejected(conversation.id, reason, conversation.messages[0].content)
    return rendered


# ---- all partitions together


def _files_of(directory: Path) -> list[str]:
    """The files of a finished store, which another store may replace; the commit mark first."""
    names = (MANIFEST, IDS, TURNS, INDEX, REJECTED, *REPORT_FILES, *TOKENIZER_FILES)
    return [name for name in names if (directory / name).is_file()] if is_store(directory) else []


def _write(
    directory: Path,
    settings: _Settings,
    results: Sequence[Result],
    template: ChatTemplate,
    files: Mapping[Path, Source],
    made_of: Any,
) -> Report:
    """Build the store from the finished partitions, the manifest last, and return the report."""
    parts, made, before = directory / WORK, directory / WORK / MADE, _files_of(directory)
    folders = [parts / f"{index:05d}" for index in range(len(results))]
    shutil.rmtree(made)  # left by an earlier attempt
    shutil.copytree(settings.directory, made)
    _join_rejected(folders, made, files)
    tallies: dict[Key, Tally] = {}
    for result in results:
        for key, tally in result.tallies.items():
            tallies[key] = tallies.get(key, Tally()) + tally
    skipped = sum((result.skipped for result in results), Counter[str]())
    unusable = sum((result.rejected for result in results), Counter[str]())
    left_out = sum((result.left_out for result in results), Counter[str]())
    cut = sum((result.cut for result in results), Counter[str]())
    with rejected_published(directory, [name for name in before if name == REJECTED]):
        require_training(directory, tallies, skipped, unusable)
    tokenizer = template.tokenizer
    groups, digests = _join(made, folders, results, _kinds(tokenizer.vocab_size, settings.seq_len))
    report = report_of(directory, groups, tallies, skipped, unusable, left_out, cut)
    write_report(made, report)
    names = token_dtype(tokenizer.vocab_size), token_dtype(settings.seq_len + 2)
    manifest = Manifest(*names, tokenizer.vocab_size, tokenizer.eos_id, tokenizer.sha256, tuple(groups), digests)
    write_sealed_json(made / MANIFEST, {"manifest": asdict(manifest), "made_of": made_of})
    publish(directory, [*(name for name in sorted(os.listdir(made)) if name != MANIFEST), MANIFEST], before)
    return report


def _join_rejected(folders: Sequence[Path], directory: Path, files: Mapping[Path, Source]) -> None:
    """Join the unused records into one `rejected.jsonl`, in order; add line numbers for files of several partitions."""
    lines = {s.name: LineNumbers(replace(s, start=0, end=None), READ) for s in files.values() if s.format != ".parquet"}
    target = directory / REJECTED
    with target.open("w", encoding="utf-8") as joined:
        for folder in folders:
            with (folder / REJECTED).open(encoding="utf-8") as piece:
                for text in piece:
                    record = json.loads(text)
                    name, _, offset = record["place"].rpartition(":")
                    if record["line"] is None and name in lines and offset.isdigit():
                        record["line"] = lines[name].at(int(offset))
                    joined.write(json.dumps(record, ensure_ascii=False) + "\n")
    if not target.stat().st_size:
        target.unlink()


def _join(
    directory: Path, folders: Sequence[Path], results: Sequence[Result], kinds: tuple[np.dtype[Any], np.dtype[Any]]
) -> tuple[list[Group], dict[str, str]]:
    """Write the three files, one split and task after the other; returns the totals, and each file's sha256."""
    places: dict[Key, list[tuple[Path, int, Group]]] = {}
    for folder, result in zip(folders, results, strict=True):
        offset = 0
        for group in result.groups:
            places.setdefault((group.split, group.task), []).append((folder / PIECE, offset, group))
            offset += group.conversations * RECORD.itemsize + group.tokens * sum(kind.itemsize for kind in kinds)
    groups: list[Group] = []
    digests = {name: hashlib.sha256() for name in (IDS, TURNS, INDEX)}
    before = 0
    with ExitStack() as stack:
        out = {name: stack.enter_context((directory / name).open("wb")) for name in digests}

        def write(name: str, content: bytes) -> None:
            out[name].write(content)
            digests[name].update(content)

        for key in sorted(places):
            mine = [group for _, _, group in places[key]]
            for path, offset, group in places[key]:
                with path.open("rb") as piece:
                    piece.seek(offset)
                    records = np.fromfile(piece, RECORD, group.conversations)
                    records["offset"] += before
                    write(INDEX, records.tobytes())
                    for name, kind in zip((IDS, TURNS), kinds, strict=True):
                        left = group.tokens * kind.itemsize
                        while left:
                            left -= len(content := piece.read(min(left, COPY_BYTES)))
                            write(name, content)
                before += group.tokens
            groups.append(_total(key, mine))
        for file in out.values():
            file.flush()
            os.fsync(file.fileno())
    return groups, {name: digest.hexdigest() for name, digest in digests.items()}


def _total(key: Key, groups: Sequence[Group]) -> Group:
    counted = ("conversations", "turns", "tokens", "supervised")
    sums = {name: sum(getattr(group, name) for group in groups) for name in counted}
    return Group(*key, **sums, longest=max(group.longest for group in groups))
