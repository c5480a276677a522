"""Topics of the documents of corpora: from directories to a directory.

IN... -> slices -> a sample of texts -> topics (or those of an earlier OUT) -> slices -> each document's topic
-> OUT: corpus with topics as domains, topics.parquet, topics.npz, report

The topic of a document depends on its text and the topics alone. Memory is that of the sample and of one slice for each
worker.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from babyllm.config.values import check, without_paths
from babyllm.documents import Document
from babyllm.errors import UserError
from babyllm.files import fsync, sha256
from babyllm.pipeline.engines.beside import beside_others
from babyllm.pipeline.output import MADE, discard_work, is_done, publish, require_apart, work_directory
from babyllm.pipeline.partitions import WorkConfig, run_partitions
from babyllm.pipeline.rejections import require_documents
from babyllm.pipeline.report import Report
from babyllm.pipeline.report_html import REPORT_FILES, write_report
from babyllm.selection.numeric.keys import text_keys, uniform
from babyllm.selection.topics.topic_model import TOPICS, Embedding, TopicModel, cluster, load_topics
from babyllm.selection.topics.topic_report import Totals, joined, topic_report
from babyllm.selection.topics.topics_config import TopicsConfig
from babyllm.selection.topics.word_vectors import fit_words, read_sample, top_words
from babyllm.store.corpus import MANIFEST, Count, Part, about_corpus, open_corpus, write_corpus, write_part
from babyllm.store.parquet import open_parquet, parquet_writer
from babyllm.text.dedup.slices import Slice, cut, files_of, prefixes, read
from babyllm.text.dedup.steps import named_in
from babyllm.text.takedowns import REASON as TAKEN_DOWN
from babyllm.text.takedowns import Takedowns, find_takedowns

TABLE, SAMPLE, PART = "topics.parquet", "sample.parquet", "part.parquet"
_SCHEMA = pa.schema([("id", pa.string()), ("domain", pa.string()), ("topic", pa.string()), ("distance", pa.float64())])
_BATCH = 256
_EXAMPLES, _EXAMPLE_CHARACTERS = 2, 200


@beside_others
def find_topics(
    inputs: Sequence[Path],
    out: Path,
    config: TopicsConfig,
    embedding: Embedding | None = None,
    model: str = "",
) -> Report | None:
    """Write the corpus `out`: the documents of corpora, with topics as their domains.

    `out` also contains `topics.parquet` (id, domain, topic and the distance to its centre), `topics.npz` (the topics,
    for later corpora), `report.json` and `report.html`.

    Args:
        inputs: directories of corpora.
        out: directory of the result.
        config: number of topics, and how documents are compared.
        embedding: language model that turns texts into vectors; None takes words.
        model: identity of that model.

    Returns:
        The report; None if `out` had been made before, with the same inputs and settings.

    Raises:
        UserError: an input or a setting is wrong, no document is left, or `out` holds something else.
    """
    check(config, "--")
    like = Path(config.like) if config.like else None
    require_apart(out, [*inputs, *([like] if like else [])])
    corpora = [open_corpus(path) for path in inputs]
    earlier = load_topics(like) if like else None
    if earlier and earlier.model != model:
        raise UserError(
            f"--like={like}: its topics were found with {'a' if earlier.model else 'no'} --model; give the same"
        )
    takedowns = find_takedowns(inputs, config.takedowns)
    about = _about(inputs, config, like, model) | takedowns.about()
    if is_done(out, about_corpus(out), about):
        return None
    with work_directory(out, work=config.work) as directory:
        pieces = [piece for of_corpus in cut(files_of(corpora), config.work.partition_bytes) for piece in of_corpus]
        job = _Job(directory, pieces, about, config.work.alone() if embedding else config.work)
        made = directory / MADE
        topics, examples = (earlier, []) if earlier else _found(job, config, takedowns, embedding, model)
        topics.save(made / TOPICS)
        digest = sha256(made / TOPICS)
        work = partial(_assign, place=made, digest=digest, config=config, takedowns=takedowns, embedding=embedding)
        results = job.run(work, "assigned", pieces, digest)
        totals = joined([result["totals"] for result in results])
        require_documents(totals.documents, {TAKEN_DOWN: totals.taken} if totals.taken else {}, out)
        parts = _parts(job, [result["sizes"] for result in results], made)
        report = topic_report(topics, totals, examples)
        write_report(made, report)
        write_corpus(made, parts, about)
        publish(out, [*(part.file for part in parts), TABLE, TOPICS, *REPORT_FILES, MANIFEST])
    discard_work(out)
    return report


@dataclass(frozen=True)
class _Job:
    """The partitions of a run."""

    directory: Path
    pieces: Sequence[Slice]
    about: dict[str, Any]
    work: WorkConfig

    def run(self, work: Any, folder: str, items: Sequence[Any], more: Any = None) -> list[Any]:
        """The results of `work` for items."""
        key = [self.about, [[p.path, *p.row_groups] for p in self.pieces], more]
        sizes = [getattr(item, "size_bytes", 1) for item in items]
        where = self.directory / folder
        return run_partitions(items, work, where, key=key, work=self.work, sizes=sizes, title=f"topics: {folder}")

    def files(self, folder: str, name: str) -> list[Path]:
        """A file of each slice."""
        return [self.directory / folder / f"{index:05d}" / name for index in range(len(self.pieces))]


def _about(inputs: Sequence[Path], config: TopicsConfig, like: Path | None, model: str) -> dict[str, Any]:
    """What determines the result: contents of the corpora, prefixes of ids and settings, but no paths."""
    settings = {name: value for name, value in without_paths(config).items() if name not in ("work", "runtime")}
    names = zip(prefixes(list(inputs)), (sha256(path / MANIFEST) for path in inputs), strict=True)
    source = {"like": sha256(like / TOPICS) if like else None, "model": model}
    return {"stage": "topics", "inputs": [list(pair) for pair in names], "settings": settings | source}


# ---- topics of a sample


def _found(
    job: _Job, config: TopicsConfig, takedowns: Takedowns, embedding: Embedding | None, model: str
) -> tuple[TopicModel, list[list[str]]]:
    """The topics of a sample of the documents, and the texts of the sample nearest to the centre of each."""
    n = sum(piece.n for piece in job.pieces)
    choose = partial(_choose, config=config, rate=min(1.0, config.sample / max(1, n)), takedowns=takedowns)
    job.run(choose, "sample", job.pieces)
    files = job.files("sample", SAMPLE)
    fit = partial(_fit, config=config, embedding=embedding, model=model)
    examples = job.run(fit, "fit", [files])[0]
    return load_topics(job.directory / "fit" / "00000"), examples


def _choose(piece: Slice, folder: Path, *, config: TopicsConfig, rate: float, takedowns: Takedowns) -> int:
    """Write the beginnings of the texts of a slice that a hash of them chooses."""
    n, schema = 0, pa.schema([("text", pa.large_string())])
    with parquet_writer(folder / SAMPLE, schema) as table:
        for rows, is_taken in _batches(piece, takedowns):
            texts = rows.column("text").to_pylist()
            is_in = (uniform(text_keys(texts), config.seed) < rate) & ~is_taken
            chosen = [texts[i][: config.characters] for i in np.flatnonzero(is_in).tolist()]
            table.write_table(pa.table({"text": chosen}, schema=schema))
            n += len(chosen)
    return n


def _sample_texts(files: Sequence[Path]) -> Iterator[str]:
    for path in files:
        with open_parquet(path) as file:
            for batch in file.iter_batches(_BATCH, use_threads=False):
                yield from batch.column("text").to_pylist()


def _in_batches(texts: Iterator[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    for text in texts:
        batch.append(text)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _fit(
    files: Sequence[Path], folder: Path, *, config: TopicsConfig, embedding: Embedding | None, model: str
) -> list[list[str]]:
    """Write the topics of the sample's texts; returns the texts nearest to the centre of each."""
    sample = read_sample(_sample_texts(files), config.hashing)
    by_words = None
    if embedding is None:
        by_words = fit_words(sample, config.hashing, config.dimensions, config.least, config.seed)
    source = embedding or by_words
    assert source
    vectors = np.concatenate([source.vectors(batch) for batch in _in_batches(_sample_texts(files))])
    centres, labels = cluster(vectors, config.n, config.seed)
    words = top_words(sample, _sample_texts(files), labels, config.n, config.hashing)
    found = TopicModel(centres, words, by_words, model)
    found.save(folder / TOPICS)
    labels, squares = found.nearest(vectors)
    order = np.lexsort((squares, labels))
    firsts = np.searchsorted(labels[order], np.arange(config.n + 1))
    near = [order[first : min(first + _EXAMPLES, last)].tolist() for first, last in pairwise(firsts.tolist())]
    wanted = {place for places in near for place in places}
    texts = {place: text for place, text in enumerate(_sample_texts(files)) if place in wanted}
    return [[texts[place][:_EXAMPLE_CHARACTERS] for place in places] for places in near]


# ---- topics of all documents


@lru_cache(maxsize=1)
def _load_once(directory: Path, digest: str) -> TopicModel:
    """The topics of a worker process."""
    del digest
    return load_topics(directory)


def _batches(piece: Slice, takedowns: Takedowns) -> Iterator[tuple[pa.RecordBatch, Any]]:
    """The rows of a slice, some hundreds at a time, and which of them are taken down."""
    for batch in read(piece, ["text", "domain", "id", "url"]):
        for first in range(0, len(batch), _BATCH):
            rows = batch.slice(first, _BATCH)
            yield rows, named_in(takedowns, rows, piece.prefix)


def _assign(
    piece: Slice,
    folder: Path,
    *,
    place: Path,
    digest: str,
    config: TopicsConfig,
    takedowns: Takedowns,
    embedding: Embedding | None,
) -> dict[str, Any]:
    """Write the documents of a slice with their topics as domains, and a table of the topics."""
    found = _load_once(place, digest)
    source = embedding or found.by_words
    assert source
    totals = Totals()

    def named() -> Iterator[Document]:
        for rows, is_taken in _batches(piece, takedowns):
            totals.taken += int(is_taken.sum())
            left = rows.filter(pa.array(~is_taken))
            texts, domains, ids = (left.column(name).to_pylist() for name in ("text", "domain", "id"))
            urls = left.column("url").to_pylist() if "url" in left.schema.names else [""] * len(ids)
            numbers, squares = found.nearest(source.vectors([text[: config.characters] for text in texts]))
            names = [found.name(number) for number in numbers.tolist()]
            table.write_table(pa.table([ids, domains, names, np.sqrt(squares)], schema=_SCHEMA))
            totals.add(names, domains, [len(text.encode()) for text in texts], squares)
            for text, domain, name, url, topic in zip(texts, domains, ids, urls, names, strict=True):
                called = {"topic": topic, "both": f"{domain}/{topic}", "same": domain}[config.domains]
                yield Document(text, called, name, url or "")

    with parquet_writer(folder / TABLE, _SCHEMA) as table:
        sizes = write_part(named(), folder / PART)
    counts = {name: [size.documents, size.characters, size.bytes] for name, size in sizes.items()}
    return {"totals": totals.to_json(), "sizes": counts}


def _parts(job: _Job, sizes: Sequence[dict[str, list[int]]], made: Path) -> list[Part]:
    """Move the parts to their places, and join the tables."""
    with parquet_writer(made / TABLE, _SCHEMA) as table:
        for path in job.files("assigned", TABLE):
            with open_parquet(path) as file:
                for i in range(file.num_row_groups):
                    table.write_table(file.read_row_group(i))
    fsync(made / TABLE)
    parts = []
    for index, (source, domains) in enumerate(zip(job.files("assigned", PART), sizes, strict=True)):
        name = f"{index:05d}.parquet"
        if source.exists():  # else an earlier, interrupted run has moved it
            os.replace(source, made / name)
        parts.append(Part(name, {domain: Count(*numbers) for domain, numbers in domains.items()}))
    return parts
