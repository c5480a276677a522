"""Documents of corpora chosen by shares, limits and importance weights: from directories to a directory.

IN... -> slices -> importance weights on request -> one choice among all -> OUT: corpus, scores.parquet, report
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from babyllm.config.values import check, without_paths
from babyllm.documents import exact_key
from babyllm.errors import UserError
from babyllm.files import sha256
from babyllm.pipeline.engines.beside import beside_others
from babyllm.pipeline.output import MADE, discard_work, is_done, publish, require_apart, work_directory
from babyllm.pipeline.partitions import run_partitions
from babyllm.pipeline.rejections import require_documents
from babyllm.pipeline.report import Report
from babyllm.pipeline.report_html import REPORT_FILES, write_report
from babyllm.selection.choosing import choose
from babyllm.selection.importance_scores import ImportanceScores, count_target_documents, ratios_to
from babyllm.selection.numeric.importance import ImportanceConfig, count
from babyllm.selection.score_tables import BYTES, FIELD, FILE, FIXED, KEY, PLACE, REASON, TABLE, TASK, read_candidates
from babyllm.selection.select_config import SelectConfig
from babyllm.selection.selection_report import selection_report, write_scores
from babyllm.store.corpus import MANIFEST, Corpus, Count, Part, about_corpus, open_corpus, write_corpus
from babyllm.store.parquet import parquet_writer
from babyllm.text.dedup.dedup_config import DedupConfig
from babyllm.text.dedup.slices import Slice, cut, files_of, read, read_texts, whole
from babyllm.text.dedup.steps import Setting, keep, named_in
from babyllm.text.readers import ReadConfig
from babyllm.text.takedowns import REASON as TAKEN_DOWN
from babyllm.text.takedowns import Takedowns, find_takedowns
from babyllm.text.text_scorers import TextScorer, load_text_scorer

_KNOWN = ("importance",)


@beside_others
def select_documents(inputs: Sequence[Path], out: Path, config: SelectConfig) -> Report | None:
    """Write the corpus `out`: the documents of corpora that a rule keeps, and the scores of all.

    Args:
        inputs: directories of corpora.
        out: directory of the result.
        config: rule and amounts; of the scorers, importance is for documents.

    Returns:
        The report; None if `out` had been made before, with the same inputs and settings.

    Raises:
        UserError: an input or a setting is wrong, nothing is left, or `out` holds something else.
    """
    check(config, "--")
    config.check()
    if others := [name for name in config.scores if name not in _KNOWN and not _is_function(name)]:
        raise UserError(
            f"--scores: {others[0]} is for conversations; documents have {', '.join(_KNOWN)}, or module:function"
        )
    if (budget := config.budget()) and budget[1] == "tokens":
        raise UserError(
            f"--limit={config.limit}: documents have no tokens yet; give a number of records, or such as 10MB"
        )
    if len(config.amounts) > 1 or config.chosen or config.table or config.vectors:
        raise UserError("--keep as a list, --chosen, --table and --vectors are for conversations; leave them out")
    require_apart(out, [*inputs, *map(Path, config.target)])
    corpora = [open_corpus(path) for path in inputs]
    target = (
        count_target_documents(list(map(Path, config.target)), ReadConfig(), config.importance)
        if config.target
        else None
    )
    takedowns = find_takedowns(inputs, config.takedowns)
    about = _about(corpora, config, target) | takedowns.about()
    if is_done(out, about_corpus(out), about):
        return None
    with work_directory(out, work=config.work) as directory:
        files = files_of(corpora)
        pieces = [piece for of_corpus in cut(files, config.work.partition_bytes) for piece in of_corpus]
        job = _Job(directory, pieces, about, config)
        scorer = (
            ratios_to(target, job.run(partial(_count, config=config.importance), "counts"), config.importance)
            if (target is not None)
            else None
        )
        functions = tuple(filter(_is_function, config.scores))
        job.run(partial(_score, scorer=scorer, functions=functions, takedowns=takedowns), "scores")
        candidates = read_candidates(job.folders("scores"), None, None, directory)
        choice = choose(candidates, config, np.empty(0, np.int64))
        report = selection_report(candidates, choice, config, [""], {}, "documents")
        removed = np.setdiff1d(np.arange(len(candidates)), choice.kept[0])
        require_documents(len(candidates) - len(removed), {}, out)
        np.save(directory / "removed.npy", removed)
        made = directory / MADE
        parts = _parts(job, corpora, whole(files, pieces), len(candidates), made)
        write_scores(candidates, choice, made / TABLE)
        write_report(made, report)
        write_corpus(made, parts, about)
        publish(out, [*(part.file for part in parts), TABLE, *REPORT_FILES, MANIFEST])
    discard_work(out)
    return report


class _Job:
    """The partitions of a selection."""

    def __init__(self, directory: Path, pieces: Sequence[Slice], about: dict[str, Any], config: SelectConfig) -> None:
        self.directory, self.pieces, self.about, self.config = directory, pieces, about, config

    def run(self, work: Any, folder: str, items: Sequence[Slice] | None = None, more: Any = None) -> list[Any]:
        """The results of `work` for the slices, or for other items."""
        chosen = self.pieces if items is None else items
        key = [self.about, [[p.path, *p.row_groups] for p in chosen], more]
        sizes = [piece.size_bytes for piece in chosen]
        how = self.config.work
        return run_partitions(chosen, work, self.directory / folder, key=key, work=how, sizes=sizes, title=folder)

    def folders(self, folder: str) -> list[Path]:
        """The folders of all slices."""
        return [self.directory / folder / f"{index:05d}" for index in range(len(self.pieces))]


def _about(corpora: Sequence[Corpus], config: SelectConfig, target: NDArray[np.int64] | None) -> dict[str, Any]:
    used = ("by", "within", "rule", "keep", "each", "share", "limit", "seed", "importance")
    settings = {name: value for name, value in without_paths(config).items() if name in used}
    about = {
        "stage": "select documents",
        "inputs": [sha256(corpus.directory / MANIFEST) for corpus in corpora],
        "settings": settings,
        "target": exact_key(json.dumps(target.tolist())).hex() if target is not None else None,
        "functions": [_scorer_of(name).identity for name in config.scores if _is_function(name)] or None,
    }
    values: dict[str, Any] = json.loads(json.dumps(about))
    return values


def _count(piece: Slice, folder: Path, *, config: ImportanceConfig) -> list[int]:
    del folder
    counts: list[int] = count((text for texts in read_texts(piece) for text in texts.to_pylist()), config).tolist()
    return counts


def _is_function(name: str) -> bool:
    return ":" in name and not name.startswith(FIELD)


def _scorer_of(name: str) -> TextScorer:
    return load_text_scorer("--scores", name)


def _score(
    piece: Slice, folder: Path, *, scorer: ImportanceScores | None, functions: Sequence[str], takedowns: Takedowns
) -> int:
    own = {name.partition(":")[2]: _scorer_of(name) for name in functions}
    names = [*(scorer.names if scorer else ()), *own]
    schema = pa.schema(
        [(name, pa.int64() if name == BYTES else pa.string()) for name in FIXED] + [(n, pa.float64()) for n in names]
    )
    n = 0
    with parquet_writer(folder / TABLE, schema) as table:
        for batch in read(piece, ["text", "domain", "id", *(["url"] if takedowns else [])]):
            texts = batch.column("text").to_pylist()
            rows: dict[str, Any] = {
                KEY: [exact_key(text).hex() for text in texts],
                PLACE: batch.column("id").to_pylist(),
                FILE: [Path(piece.path).name] * len(texts),
                TASK: batch.column("domain").to_pylist(),
                BYTES: [len(text.encode()) for text in texts],
                REASON: np.where(named_in(takedowns, batch, piece.prefix), TAKEN_DOWN, "").tolist(),
                **(scorer.score_texts(texts).columns if scorer else {}),
                **{column: score(texts) for column, score in own.items()},
            }
            table.write_table(pa.table({name: rows[name] for name in schema.names}, schema=schema))
            n += len(texts)
    return n


def _parts(job: _Job, corpora: Sequence[Corpus], items: Sequence[Slice], n: int, made: Path) -> list[Part]:
    """Write the files of the corpora without the documents that are not kept."""
    work = partial(keep, setting=Setting(DedupConfig(), n, job.directory))
    digest = sha256(job.directory / "removed.npy")
    counts = job.run(work, "kept", items, digest)
    names = [
        part.file if len(corpora) == 1 else f"{number:02d}-{part.file}"
        for number, corpus in enumerate(corpora)
        for part in corpus.parts
    ]
    parts = []
    for index, (name, domains) in enumerate(zip(names, counts, strict=True)):
        source = job.directory / "kept" / f"{index:05d}" / "part.parquet"
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        if source.exists():  # else an earlier, interrupted run has moved it
            os.replace(source, made / name)
        parts.append(Part(name, {domain: Count(*numbers) for domain, numbers in domains.items()}))
    return parts
