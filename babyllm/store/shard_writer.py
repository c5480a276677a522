"""Writing token shards: ids of documents are appended, full files are closed, the manifest is written last.

documents -> ShardWriter -> 00000.bin, 00001.bin, ..., manifest.json (the commit mark)
finished token data -> the same files under new numbers -+
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import unicodedata
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from babyllm.errors import UserError
from babyllm.files import fsync, write_sealed_json
from babyllm.store.shards import MANIFEST, Manifest, Shard, Split, TokenData, little_endian, token_dtype

TOTAL = "all"  # the name under which evaluation reports all domains together
STEM_CHARACTERS = 40  # of a domain in a file's name; file systems allow 255 bytes
BLOCK_TOKENS = 1 << 20


@dataclass
class _OpenShard:
    file: IO[bytes]
    domain: str
    split: Split
    tokens: int = 0
    documents: int = 0
    bytes: int = 0
    digest: Any = field(default_factory=hashlib.sha256)


def check_domain(domain: str) -> None:
    """Refuse a domain that has the name of the total of all domains.

    Raises:
        UserError: it has.
    """
    if domain == TOTAL:
        raise UserError(
            f"a domain named {TOTAL!r} would be taken for the total of all domains, which evaluation reports under "
            "that name; give the domain another name"
        )


def _stem(domain: str) -> str:
    """The start of a domain's file names; differs between domains even where disks ignore case and accents."""
    readable = re.sub(r"[^\w.-]", "_", domain)[:STEM_CHARACTERS]
    folded = unicodedata.normalize("NFKC", domain).casefold()
    if domain == readable == folded and not domain.startswith("."):
        return domain
    return f"{readable.lstrip('.')}%{hashlib.blake2b(domain.encode(), digest_size=6).hexdigest()}"


def _link(source: Path, target: Path) -> None:
    """Make `target` the same file as `source`, or a copy of it where the disk has no such links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
        fsync(target)


class ShardWriter:
    """A writer of token shards; the directory is not valid token data before `finish`.

    Args:
        directory: directory of the shards; created if absent.
        vocab_size: vocabulary size of the tokenizer, which decides between uint16 and uint32.
        eos_id: id of <eos>, which ends every document.
        tokenizer_sha256: sha256 of the tokenizer that made the ids, in hexadecimal.
        shard_tokens: number of tokens at which a shard is closed.

    Attributes:
        dtype: type of the ids, "uint16" or "uint32".

    Raises:
        UserError: the directory holds a manifest already.
    """

    def __init__(
        self, directory: Path, vocab_size: int, eos_id: int, tokenizer_sha256: str, shard_tokens: int = 1 << 28
    ) -> None:
        if (directory / MANIFEST).exists():
            raise UserError(f"{directory}: holds token data already; remove it or choose another directory")
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self.dtype = token_dtype(vocab_size)
        self._vocab_size, self._eos_id, self._tokenizer_sha256 = vocab_size, eos_id, tokenizer_sha256
        self._shard_tokens = shard_tokens
        self._open: dict[tuple[str, Split], _OpenShard] = {}
        self._done: list[Shard] = []

    def add(self, ids: Sequence[int], domain: str, split: Split, text_bytes: int) -> None:
        """Append one document's ids and its <eos>; `text_bytes` is the length of its text in UTF-8 bytes.

        Raises:
            UserError: an id is outside the vocabulary, or the domain is named "all".
        """
        if max(ids, default=0) >= self._vocab_size:
            raise UserError(f"token id {max(ids)} is outside the vocabulary of {self._vocab_size}")
        self.append(np.array([*ids, self._eos_id]), np.array([[len(ids) + 1, text_bytes]]), domain, split)

    def append(self, ids: NDArray[Any], sizes: NDArray[np.int64], domain: str, split: Split) -> None:
        """Append documents of one domain and split.

        Args:
            ids: token ids of the documents one after the other, each with its <eos>: (T,) of any integer type; may be a
                memory map.
            sizes: number of tokens, with the <eos>, and of UTF-8 bytes of each document, (n, 2) int64.
            domain: domain of all documents.
            split: split of all documents.

        Raises:
            UserError: the domain is named "all".
        """
        ends, begin, first = np.cumsum(sizes[:, 0]), 0, 0
        while first < len(sizes):
            shard = self._open.get((domain, split)) or self._new_shard(domain, split)
            # The document that fills the shard is its last.
            stop = 1 + int(np.searchsorted(ends, begin + self._shard_tokens - shard.tokens))
            end = int(ends[min(stop, len(sizes)) - 1])
            for start in range(begin, end, BLOCK_TOKENS):
                raw = ids[start : min(end, start + BLOCK_TOKENS)].astype(little_endian(self.dtype)).tobytes()
                shard.file.write(raw)
                shard.digest.update(raw)
            shard.tokens += end - begin
            shard.documents += len(sizes[first:stop])
            shard.bytes += int(sizes[first:stop, 1].sum())
            begin, first = end, stop
            if shard.tokens >= self._shard_tokens:
                self.close(domain, split)

    def take(self, data: TokenData) -> None:
        """Take over the shards of finished token data of the same tokenizer: hard links, or copies on another disk."""
        for shard in data.manifest.shards:
            name = self._next_name(shard.domain, shard.split)
            _link(data.directory / shard.file, self._directory / name)
            self._done.append(replace(shard, file=name))

    def _next_name(self, domain: str, split: Split) -> str:
        number = sum((s.domain, s.split) == (domain, split) for s in self._done)
        return f"{_stem(domain)}-{split}-{number:05d}.bin"

    def _new_shard(self, domain: str, split: Split) -> _OpenShard:
        check_domain(domain)
        file = open(self._directory / self._next_name(domain, split), "wb")  # noqa: SIM115 (see close)
        shard = self._open[domain, split] = _OpenShard(file, domain, split)
        return shard

    def close(self, domain: str, split: Split) -> None:
        """Close the open shard of a domain and split, if there is one; later documents begin a new shard."""
        shard = self._open.pop((domain, split), None)
        if shard is None:
            return
        with shard.file as f:
            f.flush()
            os.fsync(f.fileno())
        name, sha256 = Path(f.name).name, shard.digest.hexdigest()
        self._done.append(Shard(name, shard.domain, shard.split, shard.tokens, shard.documents, shard.bytes, sha256))

    def finish(self) -> Manifest:
        """Close all shards and write the manifest, which is returned.

        Raises:
            UserError: no document was added.
        """
        for key in sorted(self._open):
            self.close(*key)
        if not self._done:
            raise UserError(f"{self._directory}: the corpus is empty, there is nothing to train on")
        shards = tuple(sorted(self._done, key=lambda s: (s.split, s.domain, s.file)))
        manifest = Manifest(self.dtype, self._vocab_size, self._eos_id, self._tokenizer_sha256, shards)
        write_sealed_json(self._directory / MANIFEST, asdict(manifest))
        return manifest
