"""Reports on a corpus, raw files, token data or a run directory.

corpus  -> counts of its files; lengths of all documents, without their texts -> the longest, some at random
files   -> readers -> counts, rejected records, the longest, some at random
shards  -> manifest; all ids, or blocks of them -> counts, compression, decoded documents
run     -> config.yaml, metrics.jsonl, step directories
"""

from __future__ import annotations

import heapq
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from babyllm.documents import Document
from babyllm.errors import UserError
from babyllm.pipeline.output import WORK
from babyllm.pipeline.rejections import require_documents
from babyllm.pipeline.report import Cell, ExampleGroup, Fact, LabelledTexts, Report, Table
from babyllm.prepare.encode import Group, group_table
from babyllm.prepare.inputs import documents_of, find_sources
from babyllm.progress import ProgressLine
from babyllm.store.bare_tokens import BareFlags
from babyllm.store.corpus import Corpus, Count, documents_in, is_corpus, open_corpus, read_rows, row_groups
from babyllm.store.parquet import FAULTS
from babyllm.store.shards import Split, TokenData, TokenStream, bare_files, is_token_data, open_tokens
from babyllm.text.readers import ReadConfig, left_out
from babyllm.tokenizer import Tokenizer, load_tokenizer

READ_TOKENS, N_BLOCKS = 1 << 22, 64  # tokens of a domain and split that are read, and the number of blocks they form
DOCUMENT_TOKENS = 1 << 16  # largest number of tokens of a document that are decoded


@dataclass(frozen=True)
class Look:
    """How many documents a report shows, and which.

    Attributes:
        longest: number of the longest documents to show.
        examples: number of random documents to show; for token data, per domain and split.
        seed: seed of the draw.
    """

    longest: int = 3
    examples: int = 2
    seed: int = 0


# ---- corpora


def corpus_report(directory: Path, look: Look, verify: bool = False) -> Report:
    """A report on a corpus: counts by domain, the longest documents and some at random.

    Args:
        directory: directory of the corpus.
        look: number of documents to show.
        verify: whether to check every file again, even if an earlier check has succeeded.

    Raises:
        UserError: a file is missing or damaged.
    """
    corpus = open_corpus(directory, verify=verify)
    domains = corpus.domains()
    n_documents = sum(count.documents for count in domains.values())
    require_documents(n_documents, {}, directory)
    try:
        longest = _longest_rows(corpus, look.longest)
        rng = np.random.default_rng(look.seed % 2**64)
        chosen = np.sort(rng.choice(n_documents, min(look.examples, n_documents), replace=False))
        examples = [
            _examples("longest documents", _rows(corpus, longest)),
            _examples("documents at random", _rows(corpus, [int(row) for row in chosen])),
        ]
    except FAULTS as error:
        raise UserError(f"{directory}: cannot be read ({error}); rebuild the corpus") from error
    facts: list[Fact] = [("files", len(corpus.parts))]
    facts += [(name, value) for name, value in corpus.about.items() if isinstance(value, (str, int, float))]
    if verify:
        facts.append(("verified", f"all {len(corpus.parts)} files are whole"))
    return Report(f"corpus: {directory}", facts, [_count_table(domains)], examples=examples)


def _count_table(domains: dict[str, Count]) -> Table:
    total = sum(domains.values(), Count())
    rows: list[list[Cell]] = [
        [domain, c.documents, c.characters, c.bytes, c.bytes / max(1, total.bytes), round(c.characters / c.documents)]
        for domain, c in [*domains.items(), ("all", total)]
        if c.documents
    ]
    columns = ["domain", "documents", "characters", "bytes", "share", "characters/document"]
    return Table("documents by domain", columns, rows)


def _examples(title: str, documents: Sequence[Document]) -> ExampleGroup:
    items = [LabelledTexts(f"{d.domain} | {len(d.text):,} characters | {d.id}", [d.text]) for d in documents]
    return ExampleGroup(title, items)


def _longest_rows(corpus: Corpus, n: int) -> list[int]:
    """Row indices of the longest documents in the whole corpus, the longest first."""
    total = sum(sum(count.documents for count in part.domains.values()) for part in corpus.parts)
    progress = ProgressLine("look", total, output=sys.stderr)
    best: list[tuple[int, int]] = []
    begin = 0
    for part in corpus.parts:
        for batch in read_rows(corpus.directory / part.file, ["text"]):
            lengths = np.asarray(pc.utf8_length(batch.column(0)))
            top = np.argsort(-lengths, kind="stable")[:n]
            best = heapq.nlargest(n, best + [(int(lengths[i]), -(begin + int(i))) for i in top])
            begin += len(lengths)
        progress.show(begin)
    progress.end()
    return [-row for _, row in best]


def _rows(corpus: Corpus, rows: Sequence[int]) -> list[Document]:
    """The documents at these row indices; only the row groups that hold them are read."""
    found: dict[int, Document] = {}
    begin = 0
    for part in corpus.parts:
        for group in row_groups(corpus.directory / part.file, 1):
            mine = [row for row in rows if begin <= row < begin + group.n]
            if mine:
                table = pa.Table.from_batches(read_rows(group.path, groups=range(group.begin, group.end)))
                for row in mine:
                    (found[row],) = documents_in(table.slice(row - begin, 1))
            begin += group.n
    return [found[row] for row in rows]


# ---- files that the readers read


def files_report(path: Path, look: Look, read: ReadConfig, partition_bytes: int) -> Report:
    """A report on files of texts: counts by domain, rejected records, the longest documents and some at random.

    Args:
        path: file or directory.
        look: number of documents to show.
        read: settings of the readers.
        partition_bytes: bytes of the partitions that are read one by one.

    Raises:
        UserError: there are no files that the readers can read.
    """
    sources = find_sources([path], read, partition_bytes)
    rejected = Counter[str]()
    domains: dict[str, Count] = {}
    longest: list[tuple[int, int, Document]] = []
    chosen: list[tuple[int, int, Document]] = []
    progress = ProgressLine("look", sum(source.size_bytes for source in sources), output=sys.stderr)
    done = number = 0
    for source in sources:
        for document in documents_of(source, read, rejected, None):
            number += 1  # breaks ties in favour of earlier documents, so that documents are never compared
            size = Count(1, len(document.text), len(document.text.encode()))
            domains[document.domain] = domains.get(document.domain, Count()) + size
            _push(longest, (size.characters, -number, document), look.longest)
            digest = blake2b(f"{look.seed}:{document.id}".encode(), digest_size=8).digest()
            _push(chosen, (int.from_bytes(digest, "big"), -number, document), look.examples)
        done += source.size_bytes
        progress.show(done)
    progress.end()
    require_documents(number, rejected, path)
    facts: list[Fact] = [("rejected records", sum(rejected.values()))]
    facts += [(f"rejected: {reason}", count) for reason, count in sorted(rejected.items())]
    facts += [(f"files not read: {name}", n) for name, n in left_out([path], read).items()]
    examples = [
        _examples("longest documents", [document for *_, document in sorted(longest, key=lambda e: e[:2])[::-1]]),
        _examples("documents at random", [document for *_, document in sorted(chosen, key=lambda e: -e[1])]),
    ]
    tables = [_count_table(dict(sorted(domains.items())))]
    return Report(f"files: {path}", facts, tables, examples=examples)


def _push(heap: list[tuple[int, int, Document]], entry: tuple[int, int, Document], size: int) -> None:
    """Keep the `size` largest entries."""
    heapq.heappush(heap, entry)
    if len(heap) > size:
        heapq.heappop(heap)


# ---- token data


def tokens_report(data: TokenData, tokenizer: Tokenizer | None, look: Look, verified: bool = False) -> Report:
    """A report on token data: counts and compression by domain and split, and random documents, decoded.

    Compression is measured on all tokens of a domain and split, or on blocks of them if there are many.

    Args:
        data: token data.
        tokenizer: tokenizer of the data; without one the report has no characters per token and no texts.
        look: number of documents to show.
        verified: whether all shards were checked, which the report then says.
    """
    manifest = data.manifest
    groups, examples = [], []
    is_part = False
    splits: tuple[Split, ...] = ("train", "val")
    for split in splits:
        for domain in data.domains(split):
            shards = [s for s in manifest.shards if (s.split, s.domain) == (split, domain)]
            documents, tokens, n_bytes = (sum(getattr(s, n) for s in shards) for n in ("documents", "tokens", "bytes"))
            stream = data.stream(split, domain)
            seen, characters, decoded_bytes, n_eos = _measure(stream, tokenizer, manifest.vocab_size, manifest.eos_id)
            is_part |= seen < tokens
            scale = tokens / max(1, seen)
            group = Group(
                domain,
                split,
                documents or round(n_eos * scale),
                tokens,
                round(characters * scale),
                n_bytes or round(decoded_bytes * scale),
            )
            groups.append(group)
            if tokenizer:
                title = f"{split} {domain}: documents at random"
                examples.append(ExampleGroup(title, _decoded(stream, tokenizer, manifest.eos_id, look)))
    facts: list[Fact] = [
        ("shards", len(manifest.shards)),
        ("vocabulary", manifest.vocab_size),
        ("dtype", manifest.dtype),
        ("fingerprint", manifest.fingerprint()[:16]),
    ]
    if is_part:
        facts.append(("tokens/character", f"from {READ_TOKENS:,} tokens of each domain and split"))
    if verified:
        facts.append(("verified", f"all {len(manifest.shards)} shards are whole"))
    return Report(f"tokens: {data.directory}", facts, [group_table(groups)], examples=examples)


def _measure(
    stream: TokenStream, tokenizer: Tokenizer | None, vocab_size: int, eos_id: int
) -> tuple[int, int, int, int]:
    """The number of tokens read, of their characters and bytes, and of <eos> among them."""
    counts = np.zeros(vocab_size, np.int64)
    for ids in _blocks(stream):
        counts += np.bincount(ids, minlength=vocab_size)
    characters = n_bytes = 0
    if tokenizer:
        for token_id in np.flatnonzero(counts).tolist():
            raw = tokenizer.token_bytes(token_id)
            # In UTF-8 every character has exactly one byte that is not a continuation byte.
            characters += int(counts[token_id]) * sum(byte & 0xC0 != 0x80 for byte in raw)
            n_bytes += int(counts[token_id]) * len(raw)
    return int(counts.sum()), characters, n_bytes, int(counts[eos_id])


def _blocks(stream: TokenStream) -> Iterator[np.ndarray[Any, np.dtype[np.int64]]]:
    if len(stream) <= READ_TOKENS:
        yield stream.read(0, len(stream))
        return
    size = READ_TOKENS // N_BLOCKS
    for start in np.linspace(0, len(stream) - size, N_BLOCKS).astype(np.int64).tolist():
        yield stream.read(start, start + size)


def _decoded(stream: TokenStream, tokenizer: Tokenizer, eos_id: int, look: Look) -> list[LabelledTexts]:
    """The documents that follow random tokens: a nearly uniform draw that needs no index of documents."""
    rng = np.random.default_rng(look.seed % 2**64)
    starts = [_next_start(stream, int(index), eos_id) for index in rng.integers(0, len(stream), look.examples)]
    items = []
    for start in dict.fromkeys(starts):
        ids = stream.read(start, start + DOCUMENT_TOKENS)
        end = np.flatnonzero(ids == eos_id)
        text = tokenizer.decode(ids[: end[0]] if len(end) else ids)
        items.append(LabelledTexts(f"token {start:,}", [text]))
    return items


def _next_start(stream: TokenStream, start: int, eos_id: int) -> int:
    """Index of the token at which the next document after `start` begins; 0 if there is none."""
    for begin in range(start, len(stream), DOCUMENT_TOKENS):
        found = np.flatnonzero(stream.read(begin, begin + DOCUMENT_TOKENS) == eos_id)
        if len(found):
            after = begin + int(found[0]) + 1
            return after if after < len(stream) else 0
    return 0


# ---- any of them


def inspect(
    path: Path,
    look: Look,
    *,
    verify: bool = False,
    vocab_size: int | None = None,
    dtype: str = "auto",
    eos_id: int = 2,
    tokenizer: str | None = None,
    read: ReadConfig | None = None,
    partition_bytes: int = 64 << 20,
) -> Report:
    """A report on the data at `path`, whatever its kind.

    Args:
        path: corpus, token data, bare .bin files, run directory, or files that the readers can read.
        look: number of documents to show.
        verify: whether to check every file of a corpus or of token data again, even if an earlier check has succeeded.
        vocab_size: vocabulary size of bare .bin files.
        dtype: dtype of the ids in bare .bin files; "auto" finds it out.
        eos_id: id of <eos> in bare .bin files.
        tokenizer: directory or file of the tokenizer of bare .bin files.
        read: settings of the readers.
        partition_bytes: bytes of the partitions that are read one by one.

    Raises:
        UserError: the path holds nothing of these kinds, or is damaged.
    """
    if is_corpus(path):
        return corpus_report(path, look, verify)
    if is_token_data(path) or (path.is_dir() and bare_files(path)) or path.suffix == ".bin":
        data = open_tokens(
            path,
            vocab_size=vocab_size,
            dtype=dtype,
            eos_id=eos_id,
            verify=verify,
            to_train=False,
            flags=BareFlags("--vocab_size", "--dtype", "--eos_id"),
        )
        beside = load_tokenizer(data.directory, data.manifest.tokenizer_sha256)
        return tokens_report(data, Tokenizer.load(tokenizer) if tokenizer else beside, look, verified=verify)
    if (path / WORK).is_dir():
        raise UserError(
            f"{path}: was never finished; run the command that makes it again, it goes on with what is left"
        )
    if any(path.glob("*.safetensors")) or (path / "tokenizer.json").is_file():
        raise UserError(f"{path}: is a model or tokenizer; inspect shows corpora, text files, token data and runs")
    return files_report(path, look, read or ReadConfig(), partition_bytes)
