"""Files of conversations rendered into a store, on all cores, with the outcome of every record.

partition -> read, choose the split, render, fit -> blocks of ids by split and task -> `rendered.rendered_store`
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from babyllm.chat.formats import FormatConfig
from babyllm.chat.limits import MessageLimits, limited
from babyllm.chat.load import ChatTemplate, Rendered, Supervise, TooLong, fit, split_turns
from babyllm.chat.messages import Conversation, Unusable
from babyllm.chat.reading import read_conversation_partition
from babyllm.chat.registry.data_set import DataSet
from babyllm.chat.supervise import message_weights
from babyllm.pipeline.output import REJECTED
from babyllm.pipeline.partitions import WorkConfig
from babyllm.pipeline.report import Report
from babyllm.prepare.conversations_report import Key, Result, Tally, report_of, require_training
from babyllm.prepare.held_out import contents_of, identity_of, is_apart
from babyllm.prepare.rendered.chat_blocks import Block, kinds_of, write_blocks
from babyllm.prepare.rendered.render_settings import RenderSettings, records_of
from babyllm.prepare.rendered.rendered_store import Job, Outcome, render_store
from babyllm.prepare.rendered.unused import left
from babyllm.store.shards import Split
from babyllm.text.readers import Partition, Rejected
from babyllm.text.readers.records import rejected

READING = 3  # version of how records become conversations; a store of another version is rebuilt


@dataclass(frozen=True, kw_only=True)
class _Settings(RenderSettings):
    """The settings that, with the files, decide the result; sent to worker processes."""

    supervise: Supervise
    is_split: bool
    too_long: TooLong


def prepare_conversations(
    paths: Sequence[Path | DataSet],
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
    held_out_paths: Sequence[Path | DataSet] = (),
    repetitions: Literal["drop", "keep"] = "keep",
    work: WorkConfig | None = None,
) -> Report | None:
    """Render conversations into a store, on all cores, and return the report; None if the same store exists already.

    If a call is interrupted, the same call continues with the partitions that are left. A store of other settings or
    files is replaced.

    Args:
        paths: files, folders and data sets of conversations.
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
        held_out_paths: files, folders and data sets whose conversations are all in the "val" split.
        repetitions: whether conversations that repeat another one exactly are dropped. Of equal ones the first stays;
            one of `held_out_paths` stays before any of the others.
        work: number of processes, and bytes of a partition.

    Raises:
        UserError: a setting is not valid, an input cannot be read, no conversation is left to train on, or the
            directory cannot be written.
    """
    settings = _Settings(
        format=format,
        supervise=supervise,
        is_split=is_split,
        seq_len=seq_len,
        too_long=too_long,
        limits=limits,
        held_out=held_out,
        repetitions=repetitions,
    )
    return render_store(paths, held_out_paths, directory, template, settings, work or WorkConfig(), _JOB)


def _require(outcome: Outcome) -> None:
    require_training(outcome.directory, outcome.tallies, outcome.result)


def _report(outcome: Outcome) -> Report:
    return report_of(outcome.directory, outcome.groups, outcome.tallies, outcome.result, outcome.data)


# ---- one partition


def _contents(conversation: Conversation) -> str:
    return contents_of(conversation.messages)


def _identity(conversation: Conversation) -> str:
    return identity_of(conversation.messages)


def _prepare_piece(partition: Partition, folder: Path, settings: _Settings) -> dict[str, Any]:
    """Render the conversations of a partition into one file, one split and task after the other."""
    template = settings.loaded()
    kinds = kinds_of(template.tokenizer.vocab_size, settings.seq_len)
    result = Result()
    blocks: dict[Key, Block] = {}
    with (folder / REJECTED).open("w", encoding="utf-8") as unused:
        for key, found in _rendered(partition, settings, template, result):
            if isinstance(found, Rejected):
                unused.write(json.dumps(asdict(found), ensure_ascii=False) + "\n")
            else:
                blocks.setdefault(key, Block()).add(found, kinds)
    result.groups = write_blocks(folder, blocks)
    return result.to_json()


def _rendered(
    partition: Partition, settings: _Settings, template: ChatTemplate, result: Result
) -> Iterator[tuple[Key, Rendered | Rejected]]:
    """The conversations of a partition as ids, and the unused records with reasons; `result` counts both."""
    for record in records_of(partition, settings, read_conversation_partition, _identity):
        item, of_data = record.item, result.of_data(record.data_index)
        of_data.records += 1
        if isinstance(item, Rejected):
            result.rejected[item.reason] += 1
            of_data.unused += 1
            yield ("train", ""), item
            continue
        contents, data_set = _contents(item), settings.data[record.data_index]
        is_val = record.is_held or is_apart(contents, settings.held_out, settings.first_kept)
        split: Split = "val" if is_val else "train"
        key = split, data_set.task or item.task
        tally = result.tallies.setdefault(key, Tally())
        tally.conversations += 1
        if not record.is_read:
            if unread := left(record, tally, of_data, item.messages[0].content):
                yield key, unread
            continue
        result.count_left_out(item.left_out)
        conversation = replace(item, messages=data_set.with_system(item.messages, contents))
        is_used = False
        for found in _samples(conversation, settings, template, tally, result.cut):
            if isinstance(found, Rejected):
                result.skipped[found.reason] += 1
            is_used |= not isinstance(found, Rejected)
            yield key, found
        of_data.use(*key, is_used)


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


_JOB: Job[_Settings] = Job(
    *("conversations", {"reading": READING}, _prepare_piece, read_conversation_partition, _contents, _identity),
    *(_require, _report),
)
