"""Compression: how tokenizers encode texts by domain, and what their vocabularies cost a model.

documents -> batches -> ids of each tokenizer -> Compression by tokenizer and domain -> tables
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np

from babyllm.documents import Document
from babyllm.model.config import parameter_counts
from babyllm.model.options import ModelOptions
from babyllm.pipeline.rejections import require_documents, warn_of_rejected
from babyllm.pipeline.report import Cell, Report, Table
from babyllm.prepare.inputs import documents_of, find_sources
from babyllm.progress import ProgressLine
from babyllm.run_directory import meant_step
from babyllm.text.readers import ReadConfig
from babyllm.tokenizer import Tokenizer

ALL = "all"
BATCH_BYTES = 1 << 20  # of text that is held and encoded at once
PARTITION_BYTES = 4 << 20  # of the inputs; the sample takes an equal part of each
SAMPLE_BYTES = 16 << 20
LONGEST = 1 << 20  # largest number of characters taken from a document


@dataclass(frozen=True)
class Compression:
    """How a tokenizer encodes some documents.

    Attributes:
        documents: number of documents.
        characters: number of their characters.
        bytes: number of their bytes in UTF-8.
        tokens: number of tokens, without the end of documents.
        partial: number of tokens that are a part of a character.
        unknown: number of characters, without whitespace, that become an unknown token or are dropped.
    """

    documents: int = 0
    characters: int = 0
    bytes: int = 0
    tokens: int = 0
    partial: int = 0
    unknown: int = 0

    def __add__(self, other: Compression) -> Compression:
        return Compression(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    @property
    def bytes_per_token(self) -> float:
        """Bytes per token."""
        return self.bytes / max(1, self.tokens)

    @property
    def characters_per_token(self) -> float:
        """Characters per token."""
        return self.characters / max(1, self.tokens)

    @property
    def partial_share(self) -> float:
        """Share of the tokens that are a part of a character."""
        return self.partial / max(1, self.tokens)

    @property
    def unknown_share(self) -> float:
        """Share of the characters that are unknown or dropped."""
        return self.unknown / max(1, self.characters)


@dataclass(frozen=True)
class Cost:
    """What a vocabulary costs a model.

    Attributes:
        vocab_size: largest id + 1.
        parameters: parameters of the embedding, and of the output layer if it is not tied.
        share: their share of the model's parameters.
        dtype: smallest dtype that holds every id in token data, uint16 or uint32.
    """

    vocab_size: int
    parameters: int
    share: float
    dtype: str


def load_by_name(paths: Sequence[str]) -> dict[str, Tokenizer]:
    """The tokenizers of files, directories and runs, by the name of each, or by its path where names are equal.

    Raises:
        UserError: a tokenizer is missing or cannot be read.
    """
    short = [Path(path).stem if Path(path).suffix == ".model" else Path(path).resolve().name for path in paths]
    names = [name if short.count(name) == 1 else path for name, path in zip(short, paths, strict=True)]
    return {name: _tokenizer_at(path) for name, path in zip(names, paths, strict=True)}


def _tokenizer_at(path: str) -> Tokenizer:
    """The tokenizer of a file, a directory, or the step that a run directory stands for."""
    directory = Path(os.path.expanduser(path))
    has_own = any((directory / name).is_file() for name in ("tokenizer.model", "tokenizer.json", "vocab.txt"))
    step = None if has_own or not directory.is_dir() else meant_step(directory)
    return Tokenizer.load(step or path)


def cost_of(tokenizer: Tokenizer, model: ModelOptions) -> Cost:
    """What the vocabulary costs a model of a shape.

    Raises:
        UserError: the shape is impossible.
    """
    counts = parameter_counts(model.build(tokenizer.vocab_size))
    mine = counts["embedding"] + counts["output"]
    dtype = "uint16" if tokenizer.vocab_size <= 1 << 16 else "uint32"
    return Cost(tokenizer.vocab_size, mine, mine / sum(counts.values()), dtype)


def measure(documents: Iterable[Document], tokenizers: Mapping[str, Tokenizer]) -> dict[str, dict[str, Compression]]:
    """How each tokenizer encodes documents, by name and domain.

    Args:
        documents: documents, of which one batch is held at a time.
        tokenizers: tokenizers by name.
    """
    partial = {name: _are_partial(tokenizer) for name, tokenizer in tokenizers.items()}
    found: dict[str, dict[str, Compression]] = {name: {} for name in tokenizers}
    for domain, texts in _batches(documents):
        raw = [text.encode() for text in texts]
        sizes = len(texts), sum(map(len, texts)), sum(map(len, raw))
        for name, tokenizer in tokenizers.items():
            ids, _ = tokenizer.encode_documents(raw)
            counts = len(ids) - len(texts), int(partial[name][ids].sum()), tokenizer.count_unknown(raw)[0]
            found[name][domain] = found[name].get(domain, Compression()) + Compression(*sizes, *counts)
    return found


def _are_partial(tokenizer: Tokenizer) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Whether each token is a part of a character: bytes that are not UTF-8 by themselves."""
    return np.array([not _is_text(tokenizer.token_bytes(i)) for i in range(tokenizer.vocab_size)])


def _is_text(raw: bytes) -> bool:
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _batches(documents: Iterable[Document]) -> Iterator[tuple[str, list[str]]]:
    """The texts in batches of one domain; at most `BATCH_BYTES` and one document of each domain wait for theirs."""
    waiting: dict[str, list[str]] = {}
    n_waiting = 0
    for document in documents:
        waiting.setdefault(document.domain, []).append(document.text[:LONGEST])
        n_waiting += len(waiting[document.domain][-1])
        if n_waiting > BATCH_BYTES:
            yield from waiting.items()
            waiting, n_waiting = {}, 0
    yield from waiting.items()


def compare_tokenizers(
    tokenizers: Mapping[str, Tokenizer],
    paths: Sequence[Path],
    *,
    sample_bytes: int = SAMPLE_BYTES,
    read: ReadConfig | None = None,
) -> dict[str, dict[str, Compression]]:
    """How tokenizers encode a sample of corpora or files, by name of the tokenizer and domain; "all" is their sum.

    The sample has the beginning of every few megabytes of the inputs, so a domain of much less may be missing.

    Args:
        tokenizers: tokenizers by name.
        paths: corpora, and files or directories for the readers.
        sample_bytes: bytes of text after which no more is read.
        read: settings of the readers.

    Raises:
        UserError: an input cannot be read or holds no document.
    """
    rejected = Counter[str]()
    sample = _sample(paths, sample_bytes, read or ReadConfig(), rejected)
    found = measure(sample, tokenizers)
    n_read = sum(one.documents for one in next(iter(found.values())).values())
    require_documents(n_read, rejected, "no tokenizer can be compared")
    warn_of_rejected(rejected, n_read)
    return {name: mine | {ALL: sum(mine.values(), Compression())} for name, mine in found.items()}


def _sample(paths: Sequence[Path], sample_bytes: int, read: ReadConfig, rejected: Counter[str]) -> Iterator[Document]:
    sources = find_sources(paths, read, PARTITION_BYTES)
    progress, left = ProgressLine("compare", len(sources)), sample_bytes
    for number, source in enumerate(sources):
        quota = left / (len(sources) - number)
        for document in documents_of(source, read, rejected, None):
            yield document
            n_bytes = len(document.text.encode())
            left, quota = left - n_bytes, quota - n_bytes
            if quota <= 0:
                break
        progress.show(number + 1)
        if left <= 0:
            break
    progress.end()


def comparison_report(
    tokenizers: Mapping[str, Tokenizer], found: Mapping[str, Mapping[str, Compression]], model: ModelOptions
) -> Report:
    """A table of what `compare_tokenizers` returned, with the cost of each vocabulary in the rows of all domains.

    Raises:
        UserError: the shape of the model is impossible.
    """
    columns = ["domain", "tokenizer", "bytes/token", "characters/token", "partial share", "unknown share"]
    columns += ["vocabulary", "ids", "embedding", "model share"]
    rows: list[list[Cell]] = []
    domains = sorted(next(iter(found.values())).keys() - {ALL})
    for domain in (*domains, ALL):
        for name, mine in found.items():
            one = mine[domain]
            cost: list[Cell] = [None] * 4
            if domain == ALL:
                total = cost_of(tokenizers[name], model)
                cost = [total.vocab_size, total.dtype, total.parameters, total.share]
            compression = [one.bytes_per_token, one.characters_per_token, one.partial_share, one.unknown_share]
            rows.append([domain, name, *compression, *cost])
    size = next(iter(found.values()))[ALL]
    facts: list[tuple[str, Cell]] = [("documents", size.documents), ("characters", size.characters)]
    facts += [("bytes", size.bytes), ("model width", model.build().d_model)]
    return Report("comparison of tokenizers", facts, [Table("by domain", columns, rows)])


def compression_tables(documents: Mapping[str, Sequence[Document]], tokenizers: Mapping[str, Tokenizer]) -> list[Table]:
    """Tables of characters per token and of bytes per token: a row for each domain, a column for each tokenizer."""
    found = measure((document for mine in documents.values() for document in mine), tokenizers)
    columns = [f"{name} ({tokenizer.vocab_size:,})" for name, tokenizer in tokenizers.items()]
    domains = {domain: [found[name][domain] for name in tokenizers] for domain in sorted(documents)}
    domains[ALL] = [sum(found[name].values(), Compression()) for name in tokenizers]
    tables = []
    for unit in ("characters", "bytes"):
        rows: list[list[Cell]] = [
            [domain, getattr(mine[0], unit), *(round(getattr(one, f"{unit}_per_token"), 3) for one in mine)]
            for domain, mine in domains.items()
        ]
        tables.append(Table(f"{unit} per token, held-out documents", ["domain", unit, *columns], rows))
    return tables
