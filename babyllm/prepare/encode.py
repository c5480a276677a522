"""Documents encoded into token data: the split is chosen by a hash, ids are written into shards.

documents -> batches -> encode -> ids by domain and split -> ShardWriter -> manifest.json

This module works on documents in one process; `tokenize` does the same for corpora of any size, on all cores.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from babyllm.documents import Document, is_held_out
from babyllm.errors import UserError
from babyllm.pipeline.report import Table
from babyllm.store.shard_writer import ShardWriter, check_domain
from babyllm.store.shards import Manifest, Split
from babyllm.tokenizer import Tokenizer

SHARD_TOKENS = 1 << 28
BATCH_DOCUMENTS = 2048
BATCH_CHARACTERS = 4 << 20
Batch = tuple[list[bytes], list[str]]
"""The texts of documents in UTF-8, and the domain of each."""


@dataclass(frozen=True)
class Group:
    """The size of a domain and split.

    Attributes:
        domain: domain of the documents.
        split: split of the documents.
        documents: number of documents.
        tokens: number of ids, with every <eos>.
        characters: number of characters (code points) of the text.
        bytes: number of UTF-8 bytes of the text.
        unknown: number of characters other than blanks that the tokenizer cannot encode.
        visible: number of characters other than blanks; 0 where the tokenizer can encode every character.
    """

    domain: str
    split: Split
    documents: int = 0
    tokens: int = 0
    characters: int = 0
    bytes: int = 0
    unknown: int = 0
    visible: int = 0

    def __add__(self, other: Group) -> Group:
        counted = ("documents", "tokens", "characters", "bytes", "unknown", "visible")
        return Group(self.domain, self.split, *(getattr(self, name) + getattr(other, name) for name in counted))


def group_table(groups: Sequence[Group]) -> Table:
    """A table of the size of each domain and split, for a report."""
    total = sum(group.tokens for group in groups)
    columns = ["split", "domain", "documents", "tokens", "share", "bytes", "tokens/character", "bytes/token"]
    rows = [
        [
            *(group.split, group.domain, group.documents, group.tokens, group.tokens / total, group.bytes),
            round(group.tokens / group.characters, 4) if group.characters else None,
            round(group.bytes / group.tokens, 4) if group.bytes else None,
        ]
        for group in groups
    ]
    return Table("tokens by domain", columns, rows)


@dataclass(frozen=True)
class Encoded:
    """The documents of one domain and split as ids.

    Attributes:
        group: size of the documents together.
        ids: token ids of the documents one after the other, each with its <eos>, (T,) int32.
        sizes: number of tokens, with the <eos>, and of UTF-8 bytes of each document, (n, 2) int64.
    """

    group: Group
    ids: NDArray[np.int32]
    sizes: NDArray[np.int64]


def encode(batch: Batch, tokenizer: Tokenizer, held_out: float, n_threads: int | None) -> list[Encoded]:
    """The ids of a batch of documents by domain and split, in order; empty texts are left out.

    Args:
        batch: texts in UTF-8 and their domains.
        tokenizer: tokenizer that encodes them.
        held_out: share of the documents in the "val" split, chosen by a hash of each text.
        n_threads: number of threads; None takes all cores.

    Raises:
        UserError: a domain is named "all".
    """
    texts: dict[tuple[str, Split], list[bytes]] = {}
    for text, domain in zip(*batch, strict=True):
        if text:
            texts.setdefault((domain, "val" if is_held_out(text, held_out) else "train"), []).append(text)
    return [_joined(*key, mine, tokenizer, n_threads) for key, mine in texts.items()]


def _joined(domain: str, split: Split, texts: list[bytes], tokenizer: Tokenizer, n_threads: int | None) -> Encoded:
    check_domain(domain)
    ids, lengths = tokenizer.encode_documents(texts, n_threads)
    sizes = np.stack([lengths, np.array(list(map(len, texts)), dtype=np.int64)], axis=1)
    # Every character has exactly one byte outside 0x80 to 0xBF, the continuation bytes of UTF-8.
    characters = int(np.count_nonzero(np.frombuffer(b"".join(texts), np.int8) >= -64))
    n_bytes, unknown = int(sizes[:, 1].sum()), tokenizer.count_unknown(texts)
    return Encoded(Group(domain, split, len(texts), len(ids), characters, n_bytes, *unknown), ids, sizes)


def batches(documents: Iterable[Document]) -> Iterator[Batch]:
    """The documents in batches of up to `BATCH_DOCUMENTS`, fewer where texts are long.

    Raises:
        UserError: a text is not valid Unicode.
    """
    texts: list[bytes] = []
    domains: list[str] = []
    characters_left = BATCH_CHARACTERS
    for document in documents:
        try:
            texts.append(document.text.encode())
        except UnicodeEncodeError:
            raise UserError(
                f"document {document.id or document.text[:20]!a} holds a lone surrogate, so it is not valid Unicode"
            ) from None
        domains.append(document.domain)
        characters_left -= len(document.text)
        if characters_left <= 0 or len(texts) == BATCH_DOCUMENTS:
            yield texts, domains
            texts, domains, characters_left = [], [], BATCH_CHARACTERS
    if texts:
        yield texts, domains


def train_tokenizer(
    documents: Iterable[Document], vocab_size: int, *, held_out: float = 0.02, character_coverage: float = 0.9995
) -> Tokenizer:
    """A tokenizer trained on the documents that `write_tokens` does not hold out; see `Tokenizer.train`.

    Raises:
        UserError: there is no text, or `vocab_size` does not suit it.
    """
    texts = (d.text for d in documents if not is_held_out(d.text, held_out))
    return Tokenizer.train(texts, vocab_size, character_coverage=character_coverage)


def write_tokens(
    documents: Iterable[Document],
    tokenizer: Tokenizer,
    directory: Path,
    *,
    held_out: float = 0.02,
    shard_tokens: int = SHARD_TOKENS,
    progress: Callable[[int, int], None] | None = None,
) -> Manifest:
    """Encode documents into a token data directory, with the tokenizer's files beside the shards.

    Args:
        documents: documents, read once, in order; empty texts are left out.
        tokenizer: tokenizer that encodes them.
        directory: directory of the shards, without finished token data; created if absent.
        held_out: share of the documents in the "val" split, chosen by a hash of each text.
        shard_tokens: number of tokens at which a shard is closed.
        progress: function that is called after each batch with the documents and tokens written so far.

    Returns:
        The manifest that was written.

    Raises:
        UserError: there is no document, a text is not valid Unicode, a domain is named "all", or the directory holds
            token data already or cannot be written.
    """
    n_documents = n_tokens = 0
    try:
        writer = ShardWriter(directory, tokenizer.vocab_size, tokenizer.eos_id, tokenizer.sha256, shard_tokens)
        tokenizer.adding_bos(False).save(directory)
        for batch in batches(documents):
            for encoded in encode(batch, tokenizer, held_out, n_threads=None):
                writer.append(encoded.ids, encoded.sizes, encoded.group.domain, encoded.group.split)
                n_documents += encoded.group.documents
                n_tokens += encoded.group.tokens
            if progress:
                progress(n_documents, n_tokens)
        return writer.finish()
    except OSError as error:
        raise not_written(directory, error) from error


def not_written(directory: Path, error: OSError) -> UserError:
    """The error for a directory of token data that cannot be written."""
    return UserError(f"{directory}: cannot be written ({error.strerror}); free some space or choose another")
