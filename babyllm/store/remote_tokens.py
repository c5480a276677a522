"""Token shards in an object store, read through a bounded local cache: the same ids as of local files.

s3://bucket/tokens -> manifest.json and tokenizer, copied -> RemoteTokens -> TokenStream -> pieces, fetched when needed

If all shards fit into the cache, a piece is a whole shard, and its sha256 is compared. Otherwise each row costs one
short piece, so the order of the rows stays what it is for local files: any row of all the data may be the next one.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from babyllm.errors import UserError
from babyllm.files import write_bytes
from babyllm.object_store.copies import Copy, fetch, root_of, whole_files
from babyllm.object_store.object_addresses import Address, is_remote
from babyllm.object_store.piece_cache import Pieces
from babyllm.object_store.transfers import RemoteFile, download, read
from babyllm.runtime.config import CacheConfig
from babyllm.store.shards import (
    MANIFEST,
    Manifest,
    Shard,
    ShardIds,
    TokenData,
    little_endian,
    open_tokens,
    read_manifest,
)

_BLOCK_BYTES = 1 << 22
SHORT_PIECE_BYTES = 256 << 10
WHOLE_SHARE = 3 / 4
"""Largest share of the cache that all shards together may take for pieces to be whole shards."""


@dataclass(frozen=True)
class RemoteTokens(TokenData):
    """Token data in an object store; `directory` holds copies of the small files beside the shards.

    Attributes:
        address: address of the directory.
        pieces: cache of the shards.
        piece_bytes: bytes of a piece; 0 for whole shards.
    """

    address: Address
    pieces: Pieces
    piece_bytes: int

    def ids(self, shard: Shard) -> ShardIds:
        """The ids of a shard, read through the cache."""
        return _CachedIds(self.pieces, shard, little_endian(self.manifest.dtype), self.piece_bytes)

    def asking(self) -> AbstractContextManager[None]:
        """In the body, reads of this thread return zeros, and what they would need is fetched in the background."""
        return self.pieces.asking()


@dataclass(frozen=True)
class _CachedIds:
    pieces: Pieces
    shard: Shard
    kind: np.dtype[Any]
    piece_bytes: int

    def __len__(self) -> int:
        return self.shard.tokens

    def __getitem__(self, part: slice) -> NDArray[Any]:
        start, stop, _ = part.indices(len(self))
        place, end = self.shard.offset + start * self.kind.itemsize, self.shard.offset + stop * self.kind.itemsize
        content = bytearray()
        while place < end:
            i, begin = divmod(place, self.piece_bytes) if self.piece_bytes else (0, place)
            n = min(end - place, self.piece_bytes - begin) if self.piece_bytes else end - place
            content += self.pieces.get(self.shard.file, i, begin, begin + n) or bytes(n)
            place += n
        return np.frombuffer(content, self.kind)


def open_tokens_at(
    path: str,
    cache: CacheConfig,
    *,
    vocab_size: int | None = None,
    dtype: str = "auto",
    eos_id: int = 2,
    check: bool = True,
    verify: bool = False,
) -> TokenData:
    """Token data of this machine, opened by `open_tokens`, or of an object store, whose shards are checked on arrival.

    Args:
        path: directory or bare files, or the address of a directory with `manifest.json`.
        cache: place and size of the local copies of shards in a store.
        vocab_size: vocabulary size of bare files.
        dtype: type of the ids in bare files.
        eos_id: id of <eos> in bare files.
        check: whether to verify local shards that are not recorded as verified.
        verify: whether to verify all local shards.

    Raises:
        UserError: what `open_tokens` raises, or the store cannot be read.
    """
    if is_remote(path):
        return _opened(Address.of(path), cache)
    return open_tokens(path, vocab_size=vocab_size, dtype=dtype, eos_id=eos_id, check=check, verify=verify)


def _opened(address: Address, cache: CacheConfig) -> RemoteTokens:
    files = whole_files(address)
    if MANIFEST not in files:
        raise UserError(
            f"{address}: holds no {MANIFEST}; give token data that `babyllm tokenize` has made, or copy other files to "
            "this machine first"
        )
    copy = Copy(address, root_of(cache), "tokens")
    fetch(copy, {name: file for name, file in files.items() if not name.endswith(".bin")}, cache)
    manifest = read_manifest(copy.path / MANIFEST)
    size = np.dtype(manifest.dtype).itemsize
    for shard in manifest.shards:
        expected = shard.offset + shard.tokens * size
        if shard.file not in files or files[shard.file].size != expected:
            found = files[shard.file].size if shard.file in files else 0
            raise UserError(
                f"{address / shard.file}: {found} bytes, the manifest says {expected}; rebuild the directory"
            )
    if not any(shard.split == "train" for shard in manifest.shards):
        raise UserError(f"{address}: holds no training shard")
    total = sum(files[shard.file].size for shard in manifest.shards)
    piece_bytes = 0 if total <= cache.bytes * WHOLE_SHARE else SHORT_PIECE_BYTES
    source = _Source(address, manifest, files, piece_bytes)
    key = f"{address.service()} {address} {manifest.fingerprint()} {piece_bytes}"
    return RemoteTokens(copy.path, manifest, address, Pieces(root_of(cache), key, cache.bytes, source), piece_bytes)


@dataclass(frozen=True)
class _Source:
    """Fetches a piece and checks it."""

    address: Address
    manifest: Manifest
    files: Mapping[str, RemoteFile]
    piece_bytes: int

    def __call__(self, name: str, i: int, path: Path) -> None:
        shard = next(shard for shard in self.manifest.shards if shard.file == name)
        file, start = self.files[name], i * self.piece_bytes
        if self.piece_bytes:
            write_bytes(path, read(self.address / name, start, min(file.size, start + self.piece_bytes)))
        else:
            download(self.address / name, file, path, shard.sha256)
        largest = _largest(path, little_endian(self.manifest.dtype), max(0, shard.offset - start))
        if largest >= self.manifest.vocab_size:
            raise UserError(
                f"{self.address / name}: holds id {largest}, outside the vocabulary of {self.manifest.vocab_size}; "
                "rebuild the directory"
            )


def _largest(path: Path, kind: np.dtype[Any], offset: int) -> int:
    with path.open("rb") as file:
        file.seek(offset)
        blocks = iter(lambda: file.read(_BLOCK_BYTES), b"")
        return max((int(np.frombuffer(block, kind).max(initial=0)) for block in blocks), default=0)
