"""`babyllm select`: conversations scored, some of them kept by a rule, and written in the form they came in.

IN... -> scores of each partition -> one choice among all -> kept records of each partition
      -> OUT: chat files (a folder for each nested set), scores.parquet, rejected.jsonl, report, chats.json
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from babyllm.chat.formats import FormatConfig
from babyllm.chat.reading import find_conversation_partitions
from babyllm.chat_corpus.chat_output import ChatSink
from babyllm.chat_corpus.chat_records import find_chats, read_records
from babyllm.chat_corpus.chat_stage import ChatRun, identity
from babyllm.config.values import check, without_paths
from babyllm.errors import UserError
from babyllm.files import fsync, sha256
from babyllm.integrity import RESUME, read_record
from babyllm.pipeline.output import MADE, discard_work, is_done, require_apart, work_directory
from babyllm.pipeline.report import Report
from babyllm.selection.choosing import Choice, choose
from babyllm.selection.score_tables import (
    FIELD,
    KEY,
    PLACE,
    TABLE,
    Candidates,
    read_candidates,
    score_partitions,
)
from babyllm.selection.scorers.scored_batches import Scorer
from babyllm.selection.scorers.vector_files import VectorFile
from babyllm.selection.select_config import SelectConfig
from babyllm.selection.selection_report import selection_report
from babyllm.store.chat_folders import about_chat_files
from babyllm.store.parquet import open_parquet, parquet_writer
from babyllm.text.readers import Partition, Rejected

MODEL_PIECE_BYTES = 1 << 17  # models are slow: an interrupted command repeats at most this much
WHERE = "where.npz"


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
    with work_directory(out) as directory:
        run = _run(inputs, directory, about, config, has_model=scorer is not None)
        score_partitions(run, scorer, fields, config.format)
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
        _write_scores(candidates, choice, directory / MADE / TABLE)
        unreadable = _sum([result["unreadable"] for result in results])
        report = selection_report(candidates, choice, config, names, unreadable)
        reasons = unreadable | _sum([{why: 1} for why in choice.why if why])
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
    inputs: Sequence[Path], directory: Path, about: dict[str, Any], config: SelectConfig, has_model: bool
) -> ChatRun:
    if not has_model:
        return ChatRun(directory, find_chats(inputs, config.work.partition_bytes), about, config.work)
    size = min(config.work.partition_bytes, MODEL_PIECE_BYTES)
    return ChatRun(directory, find_conversation_partitions(inputs, size), about, replace(config.work, workers=1))


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
    about = {
        "stage": "select",
        "inputs": identity(inputs),
        "settings": settings,
        "judge": asdict(config.judge) if "judge" in config.scores else None,
        "models": dict(models),
        "files": files,
        "chosen": chosen,
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
    """The candidates with the score `quality` of a fitted linear rule."""
    from babyllm.selection.numeric.quality_rule import load_rule

    return replace(candidates, scores=candidates.scores | {"quality": load_rule(path).apply(candidates.scores)})


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


def _sum(counts: Sequence[Mapping[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for count in counts:
        for name, n in count.items():
            total[name] = total.get(name, 0) + n
    return total


# ---- the kept records of each partition


def _save_places(run: ChatRun, candidates: Candidates, choice: Choice) -> None:
    """Store, beside the scores of each partition, the smallest set of each conversation (-1 for none) and reasons."""
    level = np.full(len(candidates), -1, np.int64)
    for number in reversed(range(len(choice.kept))):
        level[choice.kept[number]] = number
    reasons = sorted(set(choice.why))
    numbers = {reason: number for number, reason in enumerate(reasons)}
    why = np.array([numbers[reason] for reason in choice.why], np.int64)
    np.savez(run.directory / WHERE, level=level, why=why, reasons=np.array(reasons))
    first = 0
    starts = {}
    for partition, folder in zip(run.partitions, run.folders("scores"), strict=True):
        with open_parquet(folder / TABLE) as file:
            starts[_name(partition)] = first
            first += file.metadata.num_rows
    (run.directory / "starts.json").write_text(json.dumps(starts), encoding="utf-8")


def _name(partition: Partition) -> str:
    first = partition.sources[0]
    return f"{first.name}:{first.start}"


def _keep(
    partition: Partition, folder: Path, *, directory: Path, names: Sequence[str], format: FormatConfig
) -> dict[str, Any]:
    number = json.loads((directory / "starts.json").read_text(encoding="utf-8"))[_name(partition)]
    with np.load(directory / WHERE) as where:
        level, why, reasons = where["level"], where["why"], where["reasons"].tolist()
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


def _write_scores(candidates: Candidates, choice: Choice, path: Path) -> None:
    """The scores of all conversations, with the rank of those that are kept, from 0, and why others are not."""
    rank = np.full(len(candidates), -1, np.int64)
    rank[choice.kept[-1]] = np.arange(len(choice.kept[-1]))
    columns: dict[str, Any] = {
        KEY: candidates.keys,
        PLACE: candidates.places,
        "file": candidates.files,
        "task": candidates.tasks,
        "bytes": candidates.sizes,
        **candidates.scores,
        "missing": [reason or None for reason in candidates.reasons],
        "rank": pa.array(rank, mask=rank < 0),
        "why": [reason or None for reason in choice.why],
    }
    table = pa.table(columns)
    with parquet_writer(path, table.schema) as file:
        file.write_table(table, row_group_size=1 << 16)
    fsync(path)
