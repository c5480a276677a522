"""Files of chats rendered into a store, whatever the chats are: the part that conversations and pairs share.

files -> partitions -> Job.piece, one process each -> a file of blocks by split and task
      -> ids.bin, turns.bin, index.bin, labels; rejected.jsonl; report.json; conversations.json, the commit mark

The chats are sorted by split, task and input order, so the store depends neither on the number of workers nor on the
size of the partitions. It is a cache beside the run: other settings or files rebuild it.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from babyllm.chat.load import ChatTemplate
from babyllm.chat.reading import find_chats
from babyllm.chat.registry.data_set import DataSet
from babyllm.documents import check_held_out
from babyllm.files import read_sealed_json, write_sealed_json
from babyllm.pipeline.engines.beside import beside_others
from babyllm.pipeline.output import MADE, REJECTED, WORK, discard_work, publish, rejected_published, work_directory
from babyllm.pipeline.partitions import WorkConfig, run_partitions
from babyllm.pipeline.report import Report
from babyllm.pipeline.report_html import REPORT_FILES, write_report
from babyllm.prepare.conversations_report import Key, Result, Tally
from babyllm.prepare.held_out import first_kept
from babyllm.prepare.rendered.chat_blocks import Labels, join, kinds_of
from babyllm.prepare.rendered.data_record import DataTally, described, sources_by_data
from babyllm.prepare.rendered.record_keys import ALL_KEYS, cuts_of, write_keys
from babyllm.prepare.rendered.render_settings import Read, RenderSettings, files_of, places_of, undecided
from babyllm.prepare.rendered.repetitions import write_repetitions
from babyllm.prepare.rendered.unused import join_rejected
from babyllm.store.conversations import FORMAT_VERSION, IDS, INDEX, MANIFEST, TURNS, Group, Manifest, is_store
from babyllm.store.data_sets import DATA_SETS, DataRecord, read_data_sets, write_data_sets
from babyllm.store.pair_store import ANSWERS, PAIRS
from babyllm.store.shards import token_dtype
from babyllm.text.readers import Partition, Source, key_of
from babyllm.tokenizer import TOKENIZER_FILES

S = TypeVar("S", bound=RenderSettings)


class Outcome(NamedTuple):
    """What became of all records together, for a report.

    Attributes:
        directory: directory of the store.
        made: directory that holds its finished files.
        groups: sizes of each split and task.
        tallies: outcomes of each split and task.
        result: counts of all partitions; its groups and tallies are empty.
        data: what became of the records of each data set.
    """

    directory: Path
    made: Path
    groups: Sequence[Group]
    tallies: Mapping[Key, Tally]
    result: Result
    data: Sequence[DataRecord]


@dataclass(frozen=True)
class Job(Generic[S]):
    """What differs between stores.

    Attributes:
        title: title of the progress line.
        version: JSON values that change when the reading of records does.
        piece: function `(partition, folder, settings)` that renders a partition into a folder and returns the JSON form
            of a `Result`.
        read: function `(partition, format)` that returns its records, or the reasons why they cannot be used.
        contents: function that returns the text of a record that decides its split.
        identity: function that returns a text that only equal records share.
        require: function that refuses an outcome without anything to train on.
        report: function that returns the report.
        labels: numbers kept for the chats; None for none.
        more: function `(folders, folder, settings)` that renders into a folder what follows from all partitions.
    """

    title: str
    version: Mapping[str, Any]
    piece: Callable[..., dict[str, Any]]
    read: Read
    contents: Callable[[Any], str]
    identity: Callable[[Any], str]
    require: Callable[[Outcome], None]
    report: Callable[[Outcome], Report]
    labels: Labels | None = None
    more: Callable[[Sequence[Path], Path, S], Result] | None = None


@beside_others
def render_store(
    paths: Sequence[Path | DataSet],
    held_out_paths: Sequence[Path | DataSet],
    directory: Path,
    template: ChatTemplate,
    settings: S,
    work: WorkConfig,
    job: Job[S],
) -> Report | None:
    """Render chats into a store, on all cores, and return the report; None if the same store exists already.

    If a call is interrupted, the same call continues with the partitions that are left. A store of other settings or
    files is replaced.

    Args:
        paths: files, folders and data sets of chats.
        held_out_paths: files, folders and data sets whose chats are all in the "val" split.
        directory: directory of the store; created if absent.
        template: chat template that renders them; it and its tokenizer are saved in the directory.
        settings: settings; those that follow from the other arguments are filled in here.
        work: number of processes, and bytes of a partition.
        job: how the records are read and rendered.

    Raises:
        UserError: a setting is not valid, an input cannot be read, nothing is left to train on, or the directory
            cannot be written.
    """
    held_out = settings.held_out
    if held_out < 0 or not isinstance(held_out, int):
        check_held_out(held_out)
    data = tuple(one if isinstance(one, DataSet) else DataSet((one,)) for one in (*paths, *held_out_paths))
    partitions = find_chats([path for one in data for path in one.paths], work.partition_bytes)
    files = {source.path: source for partition in partitions for source in partition.sources}
    indices = files_of(data, [(path, source.name) for path, source in files.items()])
    sha256, parts = template.tokenizer.sha256, directory / WORK
    where = parts / "template"
    settings = replace(
        settings,
        held_out_files=tuple(name for name, index in indices if index >= len(paths)),
        data=data,
        files=indices,
        directory=where,
        template=template.source,
        tokenizer_sha256=sha256,
    )
    settings.reading()  # contradictions are found before any work
    inputs = [[source.name, *source.stamp] for source in files.values()]
    made = {"version": FORMAT_VERSION, **job.version, "settings": settings.makes(), "inputs": inputs}
    made_of = json.loads(json.dumps(made))
    if _made_of(directory) == made_of:
        discard_work(directory)
        _describe_again(directory, data)
        return None
    with work_directory(directory, _files_of(directory), work):
        template.tokenizer.adding_bos(False).save(where, chat_template=template.source)
        key = made_of | {"pieces": key_of(partitions)}
        settings = _chosen(partitions, settings, parts, work, job, key)
        if held_out and isinstance(held_out, int):
            contents = partial(
                undecided, settings=settings, read=job.read, identity=job.identity, contents=job.contents
            )
            found = first_kept(partitions, held_out, contents, parts / "held_out", key=key, work=work)
            settings = replace(settings, first_kept=found)
        results = run_partitions(
            partitions,
            partial(job.piece, settings=settings),
            parts,
            key=key,
            work=work,
            sizes=[partition.size_bytes for partition in partitions],
            title=job.title,
        )
        report = _write(directory, settings, [Result.of(result) for result in results], template, files, made_of, job)
    discard_work(directory)
    return report


def _chosen(partitions: Sequence[Partition], settings: S, parts: Path, work: WorkConfig, job: Job[S], key: Any) -> S:
    """The settings with the part of each data set that is read, and the repetitions that are dropped."""
    is_limited = any(one.limit is not None for one in settings.data)
    files, keys, place = dict(settings.files), None, parts / "keys"
    if settings.repetitions == "drop" or is_limited:
        records = partial(places_of, settings=settings, read=job.read, identity=job.identity)
        keys = write_keys(partitions, records, place, key=key, work=work)
    cuts = cuts_of(keys, files, settings.data)
    if settings.repetitions == "drop" and keys:
        by_file = {name: cuts[index] for name, index in files.items()}
        write_repetitions(keys, partitions, frozenset(settings.held_out_files), by_file, place)
    is_sampled = any(cut < ALL_KEYS for cut in cuts)
    repeats = place if settings.repetitions == "drop" else None
    return replace(settings, cuts=cuts if is_sampled else (), repeats=repeats)


def _describe_again(directory: Path, data: Sequence[DataSet]) -> None:
    """Record what people have changed in a registry since, where it does not decide what is read."""
    before = read_data_sets(directory)
    if len(before) == len(data):
        write_data_sets(directory, [replace(old, **one.about()) for old, one in zip(before, data, strict=True)])


def _made_of(directory: Path) -> Any:
    try:
        return read_sealed_json(directory / MANIFEST)["made_of"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _files_of(directory: Path) -> list[str]:
    """The files of a finished store, which another store may replace; the commit mark first."""
    names = (MANIFEST, IDS, TURNS, INDEX, PAIRS, ANSWERS, REJECTED, DATA_SETS, *REPORT_FILES, *TOKENIZER_FILES)
    return [name for name in names if (directory / name).is_file()] if is_store(directory) else []


def _write(
    directory: Path,
    settings: S,
    results: Sequence[Result],
    template: ChatTemplate,
    files: Mapping[Path, Source],
    made_of: Any,
    job: Job[S],
) -> Report:
    """Build the store from the finished partitions, the manifest last, and return the report."""
    parts, made, before = directory / WORK, directory / WORK / MADE, _files_of(directory)
    folders = [parts / f"{index:05d}" for index in range(len(results))]
    if job.more:
        (more := parts / "more").mkdir(exist_ok=True)
        results = [*results, job.more(folders, more, settings)]
        folders.append(more)
    shutil.rmtree(made)  # left by an earlier attempt
    shutil.copytree(settings.directory, made)
    join_rejected(folders, made, files)
    tallies: dict[Key, Tally] = {}
    for result in results:
        for key, tally in result.tallies.items():
            tallies[key] = tallies.get(key, Tally()) + tally
    counters = ("skipped", "rejected", "left_out", "cut")
    counts: dict[str, Any] = {
        name: sum((getattr(result, name) for result in results), Counter[str]()) for name in counters
    }
    sources = sources_by_data(files, dict(settings.files), len(settings.data))
    data = [
        described(one, sources[index], sum((result.data.get(index, DataTally()) for result in results), DataTally()))
        for index, one in enumerate(settings.data)
    ]
    outcome = Outcome(directory, made, [], tallies, Result(**counts), data)
    with rejected_published(directory, [name for name in before if name == REJECTED]):
        job.require(outcome)
    tokenizer = template.tokenizer
    groups, digests = join(made, folders, results, kinds_of(tokenizer.vocab_size, settings.seq_len), job.labels)
    report = job.report(outcome._replace(groups=groups))
    write_report(made, report)
    write_data_sets(made, data)
    names = token_dtype(tokenizer.vocab_size), token_dtype(settings.seq_len + 2)
    manifest = Manifest(*names, tokenizer.vocab_size, tokenizer.eos_id, tokenizer.sha256, tuple(groups), digests)
    write_sealed_json(made / MANIFEST, {"manifest": asdict(manifest), "made_of": made_of})
    publish(directory, [*(name for name in sorted(os.listdir(made)) if name != MANIFEST), MANIFEST], before)
    return report
