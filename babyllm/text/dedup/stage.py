"""Deduplicate corpora: from directories to a directory.

    IN... -> trimmed -> links -> clusters -> documents to remove -> the rest -> without repeated spans
    -> OUT: documents, clusters.parquet, report

`work.partition_bytes` bounds the data processed at once; the main process holds some bytes per document and some more
per repetition. Every step can be interrupted. No result depends on the order or the number of workers.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from babyllm.config.values import check, without_paths
from babyllm.errors import UserError
from babyllm.files import fsync, sha256
from babyllm.pipeline.engines.beside import beside_others
from babyllm.pipeline.output import MADE, discard_work, is_done, publish, require_apart, work_directory
from babyllm.pipeline.rejections import require_documents
from babyllm.pipeline.report import Report
from babyllm.pipeline.report_html import REPORT_FILES, write_report
from babyllm.pipeline.step_times import with_times
from babyllm.store.corpus import MANIFEST, Corpus, Count, Part, about_corpus, open_corpus, write_corpus
from babyllm.store.parquet import parquet_writer
from babyllm.text.dedup import decontaminate, steps
from babyllm.text.dedup.dedup_config import DedupConfig
from babyllm.text.dedup.index.kept_documents import open_kept
from babyllm.text.dedup.near.linking import Steps, find_links, save
from babyllm.text.dedup.near.methods import METHODS
from babyllm.text.dedup.report import summarize
from babyllm.text.dedup.results import Result, collect, contaminated_table, member_table, reasons_of
from babyllm.text.dedup.slices import Files, Slice, cut, files_of, prefixes, whole
from babyllm.text.dedup.steps import Setting
from babyllm.text.dedup.substrings.cutting import Cutting, cut_substrings
from babyllm.text.dedup.trimming import Trimming, trim_inputs, write_trimmed
from babyllm.text.readers import Source
from babyllm.text.takedowns import find_takedowns

CLUSTERS, CONTAMINATED, TRIMMED = "clusters.parquet", "contaminated.parquet", "trimmed.parquet"
CUT = "substrings.parquet"


@beside_others
def dedup(inputs: Sequence[Path], out: Path, config: DedupConfig) -> Report | None:
    """Write the corpus `out`: the documents of the corpora `inputs` without repetitions.

    `out` also contains `clusters.parquet`, `report.json` and `report.html`; `contaminated.parquet` if evaluation sets
    are kept out; `trimmed.parquet` if repeated lines are removed; and `substrings.parquet` if repeated spans are. With
    several corpora, ids begin with the end of the corpus's path that distinguishes it from the others.

    Args:
        inputs: directories of the corpora.
        out: directory of the result.
        config: settings of the deduplication.

    Returns:
        The report; None if `out` had been made before, with the same inputs and settings.

    Raises:
        UserError: an input is not a corpus, a setting cannot be met, or `out` holds something else.
    """
    _check(config)
    kept_in = [config.index] if config.index else []
    require_apart(out, [*inputs, *map(Path, (*config.against, *config.decontaminate, *kept_in))])
    corpora = [open_corpus(path) for path in (*inputs, *map(Path, config.against))]
    evaluation = decontaminate.evaluation_files(config.decontaminate)
    about = _about(corpora, evaluation, config)
    kept = open_kept(config, about)
    takedowns = find_takedowns([*inputs, *map(Path, config.against), *kept.directories()], config.takedowns)
    about |= kept.about() | takedowns.about()
    if is_done(out, about_corpus(out), about):
        kept.require_added(out)
        return None
    with work_directory(out, work=config.work) as directory, kept.held():
        files = files_of(corpora)
        trimming = _trimming(files, len(inputs), Setting(config, 0, directory, takedowns), about, out)
        files = [*trimming.files, *files[len(inputs) :]] if trimming else files
        slices = cut(files, config.work.partition_bytes)
        pieces = [piece for of_corpus in slices for piece in of_corpus]
        run = Steps(Setting(config, _n_documents(pieces), directory, takedowns), about)
        benchmarks = _benchmarks(evaluation, config, directory)
        items = [(piece, number < len(inputs)) for number, of_corpus in enumerate(slices) for piece in of_corpus]
        run, recalled, fetch = kept.recalled(run, items)
        slices, pieces = [*slices, recalled], [*pieces, *recalled]
        result = collect(run, slices, len(inputs), find_links(run, items, fetch))
        n_left = sum(piece.n for of_corpus in slices[: len(inputs)] for piece in of_corpus) - len(result.removed)
        require_documents(n_left, reasons_of(result) | (trimming.reasons() if trimming else {}), out)
        made = directory / MADE
        _write_table(member_table(result), made / CLUSTERS)
        if benchmarks:
            _write_table(contaminated_table(result, benchmarks, evaluation), made / CONTAMINATED)
        if trimming:
            write_trimmed(trimming.tables, made / TRIMMED)
        folders, counts = _keep(run, result, whole(files[: len(inputs)], pieces))
        cutting = _cutting(run, folders, files[len(inputs) :], out)
        if cutting:
            write_trimmed([folder / "trimmed.parquet" for folder in cutting.folders], made / CUT)
            folders, counts = cutting.folders, cutting.counts
        parts = _move(corpora[: len(inputs)], folders, counts, made)
        report = summarize(result, corpora[: len(inputs)], pieces, benchmarks, evaluation, config, trimming, cutting)
        write_report(made, report)
        write_corpus(made, parts, about)
        kept.add(run, [piece for of_corpus in slices[: len(inputs)] for piece in of_corpus], result.removed)
        publish(out, [*(part.file for part in parts), CLUSTERS, CONTAMINATED, TRIMMED, CUT, *REPORT_FILES, MANIFEST])
        report = with_times(report, sum(piece.n for of_corpus in slices[: len(inputs)] for piece in of_corpus))
    discard_work(out)
    return report


def _check(config: DedupConfig) -> None:
    if not 0 < config.threshold <= 1:
        raise UserError(f"--threshold={config.threshold}: give a Jaccard similarity above 0 and at most 1")
    for flag, n in (("shingles.n", config.shingles.n), ("decontaminate_words", config.decontaminate_words)):
        if n < 1:
            raise UserError(f"--{flag}={n}: give 1 or more")
    if not 0 <= config.simhash.distance <= 8:
        raise UserError(f"--simhash.distance={config.simhash.distance}: give 0 to 8 bits")
    if not 0 < config.minhash.recall < 1:
        raise UserError(f"--minhash.recall={config.minhash.recall}: give a probability between 0 and 1")
    check(config.lines, "--lines.")
    check(config.substrings, "--substrings.")
    check(config.soft, "--soft.")
    if config.soft.power and (config.index or config.substrings.min_characters is not None):
        other = "index" if config.index else "substrings.min_characters"
        raise UserError(
            f"--soft.power={config.soft.power:g}: keeps repetitions, which --{other} removes; leave one out"
        )
    for name in config.near:
        METHODS[name].build(config, 0, None)


def _about(corpora: Sequence[Corpus], evaluation: Sequence[Source], config: DedupConfig) -> dict[str, Any]:
    """What determines the result: contents of the corpora, prefixes of ids and settings, but no paths."""
    inputs = [
        [prefix, sha256(corpus.directory / MANIFEST)]
        for prefix, corpus in zip(prefixes([corpus.directory for corpus in corpora]), corpora, strict=True)
    ]
    chosen = {name: value for name, value in without_paths(config).items() if name != "work"}
    if config.clusters == "chains":  # corpora made before these settings existed do not name them
        del chosen["clusters"]
    if config.lines.min_documents is None:
        del chosen["lines"]
    if config.substrings.min_characters is None:
        del chosen["substrings"]
    if not config.soft.power:
        del chosen["soft"]
    counts = {"against": len(config.against), "decontaminate": [sha256(source.path) for source in evaluation]}
    return {"stage": "dedup", "inputs": inputs, "config": chosen | counts}


def _trimming(
    files: Sequence[Files], n_inputs: int, setting: Setting, about: dict[str, Any], out: Path
) -> Trimming | None:
    """The inputs without repeated lines; None if lines are not removed."""
    if setting.config.lines.min_documents is None:
        return None
    slices = cut(files, setting.config.work.partition_bytes)
    n_documents = _n_documents([piece for of_corpus in slices for piece in of_corpus])
    trimming = trim_inputs(Steps(replace(setting, n_documents=n_documents), about), slices, files[:n_inputs])
    n_before = sum(piece.n for of_corpus in slices[:n_inputs] for piece in of_corpus)
    require_documents(n_before - trimming.total().removed, trimming.reasons(), out)
    return trimming


def _n_documents(pieces: Sequence[Slice]) -> int:
    n = sum(piece.n for piece in pieces)
    if n >= 1 << 32:
        raise UserError(f"{n:,} documents cannot be numbered with 32 bits; deduplicate them in portions with --against")
    return n


def _benchmarks(files: Sequence[Source], config: DedupConfig, directory: Path) -> decontaminate.Benchmarks | None:
    path = directory / steps.GRAMS
    if not files:
        path.unlink(missing_ok=True)
        return None
    benchmarks = decontaminate.read_benchmarks(files, config.decontaminate_words)
    decontaminate.save(benchmarks, path)
    return benchmarks


def _keep(run: Steps, result: Result, items: Sequence[Slice]) -> tuple[list[Path], list[dict[str, list[int]]]]:
    """Write the parts without the removed documents; returns their folders and their sizes by domain."""
    save(run.setting.directory / "removed.npy", result.removed)
    counts = run.run("keep", steps.keep, items, "documents kept", [item.size_bytes for item in items])
    return run.setting.folders("keep"), counts


def _cutting(run: Steps, folders: Sequence[Path], against: Sequence[Files], out: Path) -> Cutting | None:
    """The kept documents without spans that repeat; None if spans are not removed."""
    if run.setting.config.substrings.min_characters is None:
        return None
    cutting = cut_substrings(run, [str(folder / "part.parquet") for folder in folders], against)
    n_left = sum(documents for of_part in cutting.counts for documents, *_ in of_part.values())
    require_documents(n_left, cutting.reasons(), out)
    return cutting


def _move(
    corpora: Sequence[Corpus], folders: Sequence[Path], counts: Sequence[dict[str, list[int]]], made: Path
) -> list[Part]:
    """Move the finished parts to their places; those of several corpora begin with a number."""
    names = [
        part.file if len(corpora) == 1 else f"{number:02d}-{part.file}"
        for number, corpus in enumerate(corpora)
        for part in corpus.parts
    ]
    parts = []
    for name, folder, domains in zip(names, folders, counts, strict=True):
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        if (folder / "part.parquet").exists():  # else an earlier, interrupted run has moved it
            os.replace(folder / "part.parquet", made / name)
        parts.append(Part(name, {domain: Count(*numbers) for domain, numbers in domains.items()}))
    return parts


def _write_table(table: pa.Table, path: Path) -> None:
    with parquet_writer(path, table.schema) as file:
        file.write_table(table)
    fsync(path)
