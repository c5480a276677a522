"""A tokenizer trained on a sample of any amount of text, and its compression of held-out documents.

    inputs -> size of each domain -> share of its documents to keep -+
    inputs -> partitions -> documents whose hash is small enough ----+-> sample -> tokenizer -> table of compression

A hash of each document's text and the sizes of the domains decide the sample, so it depends neither on the order of
documents nor on the number of workers. Held-out documents are never in it; compression is measured on some of them.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

from babyllm.config import to_dict
from babyllm.config.values import check
from babyllm.documents import Document, is_held_out
from babyllm.errors import UserError
from babyllm.files import write_json
from babyllm.pipeline.engines.beside import beside_others
from babyllm.pipeline.output import MADE, WORK, discard_work, is_done, made_with, publish, require_apart, work_directory
from babyllm.pipeline.partitions import WorkConfig, run_partitions
from babyllm.pipeline.rejections import require_documents, warn_of_rejected
from babyllm.pipeline.report import Fact, Report, Table
from babyllm.pipeline.report_html import write_report
from babyllm.prepare.compression import compression_tables
from babyllm.prepare.inputs import Source, documents_of, find_sources, identity, pieces
from babyllm.prepare.vocabulary_config import VocabularyConfig
from babyllm.store.corpus import Count, is_corpus, open_corpus, read_part, write_part
from babyllm.text.readers import ReadConfig
from babyllm.text.takedowns import Takedowns, find_takedowns
from babyllm.tokenizer import Tokenizer

SETTINGS = "training.json"
MEASURED_BYTES = 8 << 20  # of held-out text for the measurement, in equal parts from all domains
# Quotas are estimates: held-out sizes are unknown, and documents differ in length. So more is kept than is needed.
MARGIN = 1.25
LEAST_DOCUMENTS = 64
LONGEST = 1 << 20  # largest number of characters taken from a document, which bounds the cost of the margin


@dataclass(frozen=True)
class Thresholds:
    """The share of each domain's documents that a partition keeps, by the hash of their text.

    Attributes:
        learned: share by domain of the documents that are not held out, for the sample.
        measured: share by domain of the held-out documents, for the measurement.
    """

    learned: dict[str, float]
    measured: dict[str, float]


@dataclass(frozen=True)
class Reading:
    """How the inputs are read.

    Attributes:
        read: settings of the readers.
        work: number of processes, and bytes of a partition.
        takedowns: documents that are left out.
    """

    read: ReadConfig
    work: WorkConfig
    takedowns: Takedowns


@beside_others
def learn_vocabulary(
    paths: Sequence[Path],
    directory: Path,
    config: VocabularyConfig,
    *,
    compare: Mapping[str, Tokenizer] | None = None,
    read: ReadConfig | None = None,
    work: WorkConfig | None = None,
    takedowns: Sequence[Path] = (),
) -> Report | None:
    """Train a tokenizer into a directory and return the report; None if it exists already.

    Args:
        paths: corpora, and files or directories for the readers.
        directory: directory of the tokenizer's files; created if absent.
        config: settings of the tokenizer and of the sample.
        compare: other tokenizers to measure, by name.
        read: settings of the readers.
        work: number of processes, and bytes of a partition.
        takedowns: lists of documents to leave out, besides those in the inputs themselves.

    Raises:
        UserError: an input cannot be read, weights name a domain that does not exist, the vocabulary does not suit the
            text, or the directory holds the results of other settings or cannot be written.
    """
    try:
        refused = find_takedowns(paths, takedowns)
        reading = Reading(read or ReadConfig(), work or WorkConfig(), refused)
        return _learn(paths, directory, config, compare or {}, reading)
    except OSError as error:
        raise UserError(f"{directory}: cannot be written ({error.strerror}); choose another directory") from error


def _learn(
    paths: Sequence[Path],
    directory: Path,
    config: VocabularyConfig,
    compare: Mapping[str, Tokenizer],
    reading: Reading,
) -> Report | None:
    check(config, "--")
    require_apart(directory, paths)
    work = reading.work
    sources = find_sources(paths, reading.read, work.partition_bytes)
    inputs = {"inputs": identity(paths, sources), "read": reading.read.described()} | reading.takedowns.about()
    settings = inputs | to_dict(config) | {"compare": {name: t.sha256 for name, t in compare.items()}}
    parts = directory / WORK
    made = made_with(directory, SETTINGS, SETTINGS)
    # A tokenizer that was made before a setting existed has its default.
    if is_done(directory, made and to_dict(VocabularyConfig()) | made, settings):
        return None
    with work_directory(directory, work=work):
        key = inputs | {"pieces": pieces(sources)}
        sizes = _domain_sizes(paths, sources, parts / "sizes", key, reading)
        thresholds = _thresholds(sizes, config)
        learned, measured = _keep(sources, parts / "sample", thresholds, key, config.held_out, reading)
        sample = _sample(learned, sizes, thresholds.learned, config)
        tokenizer = Tokenizer.train(
            (document.text for domain in sorted(sample) for document in sample[domain]),
            config.vocab_size,
            model_type=config.type,
            character_coverage=config.character_coverage,
            special_tokens=config.special_tokens,
            special=config.special,
            symbols=config.symbols,
            hard_vocab_limit=config.hard_vocab_limit,
            pre_split=config.pre_split,
            n_threads=work.workers,
        )
        unseen = {domain: _first(mine, MEASURED_BYTES // len(measured)) for domain, mine in measured.items()}
        report = _report(directory, sample, unseen, {_own_name(directory, compare): tokenizer} | dict(compare))
        _publish(directory, tokenizer, report, settings)
    discard_work(directory)
    return report


def _publish(directory: Path, tokenizer: Tokenizer, report: Report, settings: dict[str, Any]) -> None:
    made = directory / WORK / MADE
    shutil.rmtree(made)  # left by an earlier attempt
    tokenizer.save(made)
    write_report(made, report)
    write_json(made / SETTINGS, settings | {"tokenizer_sha256": tokenizer.sha256})
    publish(directory, [*(name for name in sorted(os.listdir(made)) if name != SETTINGS), SETTINGS])


def _own_name(directory: Path, compare: Mapping[str, Tokenizer]) -> str:
    name = directory.resolve().name
    return name if name not in compare else f"{name} (new)"


# ---- the sample


def _domain_sizes(
    paths: Sequence[Path], sources: Sequence[Source], folder: Path, key: Any, reading: Reading
) -> dict[str, Count]:
    """The amount of text of each domain; recorded in corpora, counted by reading other files."""
    found: list[dict[str, Any]] = []
    if all(map(is_corpus, paths)):
        sizes = [open_corpus(path).domains() for path in paths]
    else:
        found = run_partitions(
            sources,
            partial(_count_piece, reading=reading),
            folder,
            key=key,
            work=reading.work,
            sizes=[source.size_bytes for source in sources],
            title="count",
        )
        sizes = [{domain: Count(*counts) for domain, counts in piece.items()} for piece in found]
    total: dict[str, Count] = {}
    for piece in sizes:
        for domain, count in piece.items():
            total[domain] = total.get(domain, Count()) + count
    return total


def _count_piece(source: Source, folder: Path, *, reading: Reading) -> dict[str, list[int]]:
    counts: dict[str, list[int]] = {}
    for document in documents_of(source, reading.read, Counter(), None, reading.takedowns):
        mine = counts.setdefault(document.domain, [0, 0, 0])
        for i, n in enumerate((1, len(document.text), len(document.text.encode()))):
            mine[i] += n
    return counts


def _thresholds(sizes: Mapping[str, Count], config: VocabularyConfig) -> Thresholds:
    weights = config.weights
    unknown = sorted(set(weights or ()) - set(sizes))
    if unknown:
        raise UserError(f"--weights names {unknown[0]!r}, but the domains are {', '.join(sorted(sizes))}")
    if weights is not None and not any(weights.values()):
        raise UserError("--weights are shares: at least one must be above 0")
    quotas = _quotas({domain: count.bytes for domain, count in sizes.items()}, config)
    return Thresholds(
        {d: _share(quota, sizes[d].bytes * (1 - config.held_out), sizes[d]) for d, quota in quotas.items()},
        {
            d: _share(MEASURED_BYTES / len(sizes), count.bytes * config.held_out, count) if config.held_out else 0.0
            for d, count in sizes.items()
        },
    )


def _share(wanted: float, there: float, count: Count) -> float:
    if wanted <= 0:
        return 0.0
    return min(1.0, max(MARGIN * wanted / max(there, 1), LEAST_DOCUMENTS / max(count.documents, 1)))


def _quotas(supply: Mapping[str, int], config: VocabularyConfig) -> dict[str, int]:
    """The bytes of each domain in the sample, of the available bytes `supply`."""
    weights: Mapping[str, float] = supply if config.weights is None else config.weights
    total = min(config.sample_bytes, sum(supply[domain] for domain in weights))
    scale = sum(weights.values())
    exact = {domain: weight * total for domain, weight in weights.items()}
    return {domain: int(value // scale) for domain, value in exact.items()} if scale else {}


def _keep(
    sources: Sequence[Source],
    folder: Path,
    thresholds: Thresholds,
    key: dict[str, Any],
    held_out: float,
    reading: Reading,
) -> list[dict[str, list[Document]]]:
    """The documents to train on and those to measure on, by domain, sorted by their hashes, which are their ids."""
    found = run_partitions(
        sources,
        partial(_keep_of_piece, reading=reading, thresholds=thresholds, held_out=held_out),
        folder,
        key=key | {"thresholds": [thresholds.learned, thresholds.measured], "held_out": held_out},
        work=reading.work,
        sizes=[source.size_bytes for source in sources],
        title="sample",
    )
    n_read, rejected = sum(n for n, _ in found), sum((Counter(reasons) for _, reasons in found), Counter[str]())
    require_documents(n_read, rejected, "no tokenizer can be trained")
    warn_of_rejected(rejected, n_read)
    kept: list[dict[str, list[Document]]] = [{}, {}]
    for index in range(len(sources)):
        for documents, name in zip(kept, ("learned", "measured"), strict=True):
            for document in read_part(folder / f"{index:05d}" / f"{name}.parquet"):
                documents.setdefault(document.domain, []).append(document)
    for domains in kept:
        for mine in domains.values():
            mine.sort(key=lambda document: (document.id, document.text))
    return kept


def _keep_of_piece(
    source: Source, folder: Path, *, reading: Reading, thresholds: Thresholds, held_out: float
) -> tuple[int, dict[str, int]]:
    """Keep documents of a partition by hash; returns its number of documents, and rejected records by reason."""
    learned, measured = list[Document](), list[Document]()
    n_read, rejected = 0, Counter[str]()
    for document in documents_of(source, reading.read, rejected, None, reading.takedowns):
        n_read += 1
        digest = blake2b(document.text.encode(), digest_size=8, person=b"vocabulary").digest()
        is_apart = is_held_out(document.text, held_out)
        share = (thresholds.measured if is_apart else thresholds.learned).get(document.domain, 0.0)
        if document.text and int.from_bytes(digest, "big") < share * 2.0**64:
            kept = Document(document.text[:LONGEST], document.domain, digest.hex())
            (measured if is_apart else learned).append(kept)
    write_part(learned, folder / "learned.parquet")
    write_part(measured, folder / "measured.parquet")
    return n_read, dict(rejected)


def _sample(
    kept: Mapping[str, list[Document]],
    sizes: Mapping[str, Count],
    shares: Mapping[str, float],
    config: VocabularyConfig,
) -> dict[str, list[Document]]:
    """The documents of each domain, in bytes by its weight; a domain that is too small is repeated from its start."""
    there = {domain: sum(len(d.text.encode()) for d in kept.get(domain, ())) for domain in shares}
    supply = {
        domain: there[domain] if shares[domain] >= 1 else round(sizes[domain].bytes * (1 - config.held_out))
        for domain in shares
    }
    sample: dict[str, list[Document]] = {}
    for domain, quota in _quotas(supply, config).items():
        # Only a domain that was kept in full is repeated; a sample of a larger one may be slightly too small.
        n_bytes = quota if shares[domain] >= 1 else min(quota, there[domain])
        sample[domain] = []
        while n_bytes and there[domain]:
            documents = _first(kept[domain], n_bytes)
            sample[domain] += documents
            n_bytes = max(0, n_bytes - there[domain])
    return sample


def _first(documents: Sequence[Document], n_bytes: int) -> list[Document]:
    """The first documents, up to `n_bytes` bytes of UTF-8 in all; the last one may be cut."""
    first: list[Document] = []
    for document in documents:
        if not n_bytes:
            break
        text = document.text.encode()
        first.append(Document(text[:n_bytes].decode(errors="ignore"), document.domain, document.id))
        n_bytes -= min(n_bytes, len(text))
    return first


# ---- the report


def _report(
    directory: Path,
    sample: Mapping[str, Sequence[Document]],
    measured: Mapping[str, Sequence[Document]],
    tokenizers: Mapping[str, Tokenizer],
) -> Report:
    sizes = {domain: sum(len(d.text.encode()) for d in documents) for domain, documents in sample.items()}
    total = max(1, sum(sizes.values()))
    learned = Table(
        "learned from",
        ["domain", "documents", "repeated", "bytes", "share"],
        [
            [
                domain,
                len(documents),
                len(documents) - len({d.id for d in documents}),
                sizes[domain],
                sizes[domain] / total,
            ]
            for domain, documents in sorted(sample.items())
        ],
    )
    own = next(iter(tokenizers.values()))
    facts: list[Fact] = [("vocabulary", own.vocab_size), ("sha256", own.sha256[:16])]
    if not measured:
        facts.append(("not measured", "no document is held out"))
    compared = compression_tables(measured, tokenizers) if measured else []
    return Report(f"tokenizer: {directory}", facts, [learned, *compared])
