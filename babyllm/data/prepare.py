"""From documents to token data: train a tokenizer if none is given, split, encode, write shards.

documents -> held out by hash -> ids, a batch at a time -> ShardWriter -> manifest.json
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

from babyllm.data.shards import Manifest, ShardWriter, Split
from babyllm.errors import UserError
from babyllm.text.documents import Document, is_held_out
from babyllm.tokenizer import Tokenizer

BATCH_DOCUMENTS = 2048


def train_tokenizer(
    documents: Iterable[Document], vocab_size: int, *, held_out: float = 0.02, character_coverage: float = 0.9995
) -> Tokenizer:
    """A tokenizer learned from the documents that `write_tokens` will not hold out; see `Tokenizer.train`."""
    texts = (d.text for d in documents if not is_held_out(d.text, held_out))
    return Tokenizer.train(texts, vocab_size, character_coverage=character_coverage)


def write_tokens(
    documents: Iterable[Document],
    tokenizer: Tokenizer,
    directory: Path,
    *,
    held_out: float = 0.02,
    shard_tokens: int = 1 << 28,
    progress: Callable[[int, int], None] | None = None,
) -> Manifest:
    """Encode documents into a token data directory, with the tokenizer's files beside the shards.

    Args:
        documents: read once, in order; empty texts are left out.
        tokenizer: encodes them.
        directory: made if absent; holds no finished token data yet.
        held_out: share of the documents that go to the "val" split, chosen by a hash of each text.
        shard_tokens: tokens at which a shard is closed.
        progress: called now and then with documents and tokens written so far.

    Raises:
        UserError: there is no document, or the directory holds token data already.
    """
    try:
        return _write_tokens(documents, tokenizer, directory, held_out, shard_tokens, progress)
    except OSError as error:
        raise UserError(
            f"{directory}: cannot be written ({error.strerror}); free some space or choose another"
        ) from error


def _write_tokens(
    documents: Iterable[Document],
    tokenizer: Tokenizer,
    directory: Path,
    held_out: float,
    shard_tokens: int,
    progress: Callable[[int, int], None] | None,
) -> Manifest:
    writer = ShardWriter(directory, tokenizer.vocab_size, tokenizer.eos_id, tokenizer.sha256, shard_tokens)
    tokenizer.save(directory)
    n_documents = n_tokens = 0
    for batch in _batched(documents, BATCH_DOCUMENTS):
        for document, ids in zip(batch, tokenizer.encode_batch([d.text for d in batch]), strict=True):
            split: Split = "val" if is_held_out(document.text, held_out) else "train"
            writer.add(ids, document.domain, split, len(document.text.encode()))
            n_tokens += len(ids) + 1
        n_documents += len(batch)
        if progress:
            progress(n_documents, n_tokens)
    return writer.finish()


def _batched(documents: Iterable[Document], size: int) -> Iterator[list[Document]]:
    remaining = (d for d in documents if d.text)
    while batch := list(islice(remaining, size)):
        yield batch


def load_tokenizer(directory: Path, sha256: str) -> Tokenizer | None:
    """The tokenizer beside token data, or None where there is none (bare `.bin` files).

    Raises:
        UserError: it is not the one the ids were made with.
    """
    if not any((directory / name).is_file() for name in ("tokenizer.model", "tokenizer.json")):
        return None
    tokenizer = Tokenizer.load(directory)
    if sha256 and tokenizer.sha256 != sha256:
        raise UserError(f"{directory}: its tokenizer is not the one its shards were made with; make the directory anew")
    return tokenizer
