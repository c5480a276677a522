"""`babyllm select`: conversations scored, some of them kept by a rule, and written in the form they came in.

IN... -> scores of each partition -> one choice among all -> kept records of each partition
      -> OUT: chat files (a folder for each nested set), scores.parquet, rejected.jsonl, report, chats.json
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from babyllm.chat.formats import FormatConfig
from babyllm.chat.messages import Conversation
from babyllm.chat.reading import find_chats, find_conversation_partitions
from babyllm.chat_corpus.chat_output import ChatSink
from babyllm.chat_corpus.chat_records import read_records
from babyllm.chat_corpus.chat_stage import ChatRun, identity, summed
from babyllm.chat_corpus.diversity.diversity_report import report_of
from babyllm.chat_corpus.diversity.gather import diversity_of
from babyllm.chat_corpus.diversity.totals import Diversity, merge
from babyllm.config.values import check, without_paths
from babyllm.errors import UserError
from babyllm.files import sha256
from babyllm.integrity import RESUME, read_record
from babyllm.pipeline.engines.beside import beside_others
from babyllm.pipeline.output import MADE, discard_work, is_done, require_apart, work_directory
from babyllm.pipeline.report import Report
from babyllm.selection.choosing import Choice, choose
from babyllm.selection.importance_scores import count_chats, count_target_chats, ratios_to
from babyllm.selection.numeric.quality_rule import load
from babyllm.selection.score_tables import (
    FIELD,
    KEY,
    TABLE,
    Candidates,
    read_candidates,
    score_partitions,
)
from babyllm.selection.scorers.scored_batches import Scorer, Together
from babyllm.selection.scorers.vector_files import VectorFile
from babyllm.selection.select_config import SelectConfig
from babyllm.selection.selection_report import selection_report, write_scores
from babyllm.store.chat_folders import about_chat_files
from babyllm.store.parquet import open_parquet
from babyllm.text.readers import Partition, Rejected

MODEL_PIECE_BYTES = 1 << 17  # models are slow: an interrupted command repeats at most this much
LEVELS, WHY, REASONS, STARTS = "levels.npy", "why.npy", "reasons.json", "starts.json"
SIDES = ("read.json", "kept.json")  # how varied the conversations of a partition are


@beside_others
def select_chats(
    inputs: Sequence[Path], out: Path, config: SelectConfig, scorer: Scorer | None, models: Mapping[str, Any]
) -> Report | None:
    """Write into `out` the conversations that a rule keeps, and the scores of all.

    Args:
        inputs: chat files and folders of them.
        out: directory of the result.
        config: scores, rule and amounts.
        scorer: scorer of the conversations, made from `config.scores`; None for none.
        models: what identifies the models and files of the scorer, as JSON values.

    Returns:
        The report; None if `out` had been made before, with the same inputs and settings.

    Raises:
        UserError: an input or a setting is wrong, nothing is left, or `out` holds something else.
    """
    check(config, "--")
    config.check()
    require_apart(out, [*inputs, *map(Path, config.chosen)])
    about = _about(inputs, config, models)
    if is_done(out, about_chat_files(out), about):
        return None
    fields = [name.removeprefix(FIELD) for name in config.scores if name.startswith(FIELD)]
    with work_directory(out, work=config.work) as directory:
        run = _run(inputs, directory, about, config, _needs_one_process(config))
        scorers = [*([scorer] if scorer else []), *_importance(run, config)]
        score_partitions(run, Together(scorers) if scorers else None, fields, config.format)
        vectors = VectorFile(config.vectors, config.vector_column) if config.vectors else None
        table = Path(config.table) if config.table else None
        candidates = read_candidates(run.folders("scores"), table, vectors, directory)
        if config.quality_rule:
            candidates = _with_quality(candidates, Path(config.quality_rule))
        choice = choose(candidates, config, _already(candidates, config.chosen))
        _save_places(run, candidates, choice)
        names = _names(config)
        keep = partial(_keep, directory=directory, names=names, format=config.format)
        digest = [_digest(rows) for rows in choice.kept]
        results = run.run(keep, "kept", "select: bytes written", more=digest)
        write_scores(candidates, choice, directory / MADE / TABLE)
        unreadable = summed(result["unreadable"] for result in results)
        report = selection_report(candidates, choice, config, names, unreadable)
        report = _with_diversity(report, run, keep.keywords, digest)
        reasons = unreadable | Counter(filter(None, choice.why))
        run.publish(
            out,
            "kept",
            results,
            report,
            n_read=len(candidates),
            unreadable=unreadable,
            reasons=reasons,
            tables=[TABLE],
        )
    discard_work(out)
    return report


def _run(
    inputs: Sequence[Path], directory: Path, about: dict[str, Any], config: SelectConfig, in_one_process: bool
) -> ChatRun:
    if not in_one_process:
        return ChatRun(directory, find_chats(inputs, config.work.partition_bytes), about, config.work)
    size = min(config.work.partition_bytes, MODEL_PIECE_BYTES)
    return ChatRun(directory, find_conversation_partitions(inputs, size), about, config.work.alone())


def _needs_one_process(config: SelectConfig) -> bool:
    """Whether a scorer has a model, an endpoint or a process of its own."""
    return any(name not in ("text", "importance") and not name.startswith(FIELD) for name in config.scores)


def _importance(run: ChatRun, config: SelectConfig) -> list[Scorer]:
    """The scorer of likeness to the target, after a pass over all partitions; empty if it is not asked for."""
    if not config.target:
        return []
    target = count_target_chats([Path(path) for path in config.target], config.format, config.importance)
    work = partial(count_chats, format=config.format, config=config.importance)
    return [ratios_to(target, run.run(work, "counts", "select: bytes counted"), config.importance)]


def _about(inputs: Sequence[Path], config: SelectConfig, models: Mapping[str, Any]) -> dict[str, Any]:
    """What determines the result, as JSON values: inputs, settings, models, and files by their contents."""
    settings = {
        name: value for name, value in without_paths(config).items() if name not in ("work", "runtime", "judge")
    }
    files = {
        name: sha256(Path(path))
        for name in ("predictions", "table", "vectors", "quality_rule")
        if (path := getattr(config, name)) and Path(path).is_file()
    }
    chosen = [identity([Path(path)]) for path in config.chosen]
    target = identity([Path(path) for path in config.target]) if config.target else []
    about = {
        "stage": "select",
        "inputs": identity(inputs),
        "settings": settings,
        "judge": asdict(config.judge) if "judge" in config.scores else None,
        "models": dict(models),
        "files": files,
        "chosen": chosen,
        "target": target,
    }
    values: dict[str, Any] = json.loads(json.dumps(about, default=str))
    return values


def model_identity(directory: Path) -> dict[str, str]:
    """The sha256 of a model's weights: as recorded with a step, else of its files."""
    if (directory / RESUME).is_file():
        recorded = read_record(directory, "save the step again")["sha256"]
        return {name: value for name, value in recorded.items() if name.startswith(("model", "adapter"))}
    return {file.name: sha256(file) for file in sorted(directory.glob("*.safetensors"))}


def _with_quality(candidates: Candidates, path: Path) -> Candidates:
    """The candidates with the score `quality`: minus the logarithm of the loss that a fitted rule predicts."""
    return replace(candidates, scores=candidates.scores | {"quality": -load(path).predict(candidates.scores)})


def _already(candidates: Candidates, chosen: Sequence[str]) -> NDArray[np.int64]:
    """The numbers of the conversations that earlier selections hold, in the order of these selections."""
    numbers: dict[str, int] = {}
    for number, key in enumerate(candidates.keys):
        numbers.setdefault(key, number)
    found: dict[int, None] = {}
    for path in map(Path, chosen):
        if not (path / TABLE).is_file():
            raise UserError(f"--chosen={path}: holds no {TABLE}; name a directory that `babyllm select` made")
        with open_parquet(path / TABLE) as file:
            table = file.read([KEY, "rank"])
        rows = sorted(
            zip(table["rank"].to_pylist(), table[KEY].to_pylist(), strict=True), key=lambda r: (r[0] is None, r)
        )
        for rank, key in rows:
            if rank is not None and key in numbers:
                found[numbers[key]] = None
    return np.array(list(found), np.int64)


def _names(config: SelectConfig) -> list[str]:
    """The folder of each nested set; a single set needs none."""
    if len(config.amounts) == 1:
        return [""]
    return [f"{amount:g}" if isinstance(amount, float) else str(amount) for amount in config.amounts]


def _digest(rows: NDArray[np.int64]) -> str:
    return hashlib.sha256(rows.tobytes()).hexdigest()


# ---- the kept records of each partition


def _save_places(run: ChatRun, candidates: Candidates, choice: Choice) -> None:
    """Store, beside the scores of each partition, the smallest set of each conversation (-1 for none) and reasons."""
    level = np.full(len(candidates), -1, np.int64)
    for number in reversed(range(len(choice.kept))):
        level[choice.kept[number]] = number
    reasons = sorted(set(choice.why))
    numbers = {reason: number for number, reason in enumerate(reasons)}
    why = np.array([numbers[reason] for reason in choice.why], np.int64)
    np.save(run.directory / LEVELS, level)
    np.save(run.directory / WHY, why)
    (run.directory / REASONS).write_text(json.dumps(reasons, ensure_ascii=False), encoding="utf-8")
    first = 0
    starts = {}
    for partition, folder in zip(run.partitions, run.folders("scores"), strict=True):
        with open_parquet(folder / TABLE) as file:
            starts[_name(partition)] = first
            first += file.metadata.num_rows
    (run.directory / STARTS).write_text(json.dumps(starts), encoding="utf-8")


def _name(partition: Partition) -> str:
    first = partition.sources[0]
    return f"{first.name}:{first.start}"


def _level(partition: Partition, directory: Path) -> tuple[int, NDArray[np.int64]]:
    """The number of a partition's first conversation, and the smallest set of each conversation of all."""
    first = json.loads((directory / STARTS).read_text(encoding="utf-8"))[_name(partition)]
    return int(first), np.load(directory / LEVELS, mmap_mode="r")


def _keep(
    partition: Partition, folder: Path, *, directory: Path, names: Sequence[str], format: FormatConfig
) -> dict[str, Any]:
    number, level = _level(partition, directory)
    why = np.load(directory / WHY, mmap_mode="r")
    reasons = json.loads((directory / REASONS).read_text(encoding="utf-8"))
    sink, unreadable = ChatSink(folder), dict[str, int]()
    for record in read_records(partition, format):
        if isinstance(record, Rejected):
            unreadable[record.reason] = unreadable.get(record.reason, 0) + 1
            sink.reject(record)
            continue
        if level[number] < 0:
            sink.reject(record, reasons[why[number]], "select")
        else:
            for name in names[int(level[number]) :]:
                sink.keep(record, name)
        number += 1
    return {"unreadable": unreadable, "pieces": sink.close()}


# ---- how varied the kept ones are


def _with_diversity(report: Report, run: ChatRun, settings: Mapping[str, Any], digest: Sequence[str]) -> Report:
    """The report, followed by how varied the kept conversations are beside all that were read."""
    work = partial(_diverse, directory=settings["directory"], format=settings["format"])
    run.run(work, "diversity", "select: bytes compared", more=list(digest))
    before, after = (merge(_stored(run.folders("diversity"), side)) for side in SIDES)
    varied = report_of(after, before)
    return replace(
        report,
        tables=[*report.tables, *varied.tables],
        histograms=[*(report.histograms or ()), *(varied.histograms or ())],
    )


def _stored(folders: Sequence[Path], side: str) -> Iterator[Diversity]:
    for folder in folders:
        yield Diversity.of(json.loads((folder / side).read_text(encoding="utf-8")))


def _diverse(partition: Partition, folder: Path, *, directory: Path, format: FormatConfig) -> None:
    first, level = _level(partition, directory)

    def chats() -> Iterator[Conversation]:
        for record in read_records(partition, format):
            if not isinstance(record, Rejected):
                yield record.conversation

    kept = (chat for number, chat in enumerate(chats(), first) if level[number] >= 0)
    for side, some in zip(SIDES, (chats(), kept), strict=True):
        (folder / side).write_text(json.dumps(diversity_of(some).to_json()), encoding="utf-8")
