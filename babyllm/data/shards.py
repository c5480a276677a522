"""Token shards on disk: raw little-endian ids in `*.bin` files, described by `manifest.json`.

documents -> ShardWriter -> 00000.bin, 00001.bin, ..., manifest.json (written last: the commit mark)
directory -> open_tokens -> TokenData -> TokenStream (train) and held-out documents (val)

Every document is followed by <eos>. Each shard holds documents of one domain and one split.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from babyllm.errors import UserError
from babyllm.files import sha256, write_json

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
UINT16_VOCABULARY = 65536
LLMC_MAGIC, LLMC_HEADER_BYTES = 20240520, 1024
TOTAL = "all"  # evaluation reports all domains together under this name
STEM_CHARACTERS = 40  # of a domain in a file's name: 255 bytes is what disks allow
BLOCK_TOKENS = 1 << 20
_VAL = re.compile(r"(^|[^a-z])val(id|idation)?([^a-z]|$)")

Split = Literal["train", "val"]


@dataclass(frozen=True)
class Shard:
    """One `.bin` file.

    Attributes:
        file: name, relative to the manifest.
        domain: what kind of text it holds.
        split: "train" or "val".
        tokens: ids in the file, every document's <eos> included.
        documents: how many.
        bytes: UTF-8 bytes of their text.
        sha256: of the file, in hexadecimal.
        offset: bytes in front of the first id; 0 for shards written here.
    """

    file: str
    domain: str
    split: Split
    tokens: int
    documents: int
    bytes: int
    sha256: str
    offset: int = 0


@dataclass(frozen=True)
class Manifest:
    """What a directory of shards holds; see `Shard` for the fields of each."""

    dtype: Literal["uint16", "uint32"]
    vocab_size: int
    eos_id: int
    tokenizer_sha256: str
    shards: tuple[Shard, ...]
    version: int = FORMAT_VERSION

    def fingerprint(self) -> str:
        """A hash of everything that decides the data: ids, their order and their split."""
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def token_dtype(vocab_size: int) -> Literal["uint16", "uint32"]:
    """The smallest type that holds every id of a vocabulary."""
    return "uint16" if vocab_size <= UINT16_VOCABULARY else "uint32"


def little_endian(dtype: str) -> np.dtype[Any]:
    """The on-disk type of ids, whatever this machine's byte order."""
    little: np.dtype[Any] = np.dtype(dtype).newbyteorder("<")
    return little


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
    """Refuse a domain that goes by the name of all of them together.

    Raises:
        UserError: it does.
    """
    if domain == TOTAL:
        raise UserError(
            f"a domain named {TOTAL!r} would be taken for the total of all domains, which evaluation reports under "
            "that name; give the domain another name"
        )


def _stem(domain: str) -> str:
    """What the files of a domain begin with; no two domains share it, not even where disks ignore case and accents."""
    readable = re.sub(r"[^\w.-]", "_", domain)[:STEM_CHARACTERS]
    folded = unicodedata.normalize("NFKC", domain).casefold()
    if domain == readable == folded and not domain.startswith("."):
        return domain
    return f"{readable.lstrip('.')}%{hashlib.blake2b(domain.encode(), digest_size=6).hexdigest()}"


class ShardWriter:
    """Writes documents' ids into shards; nothing counts as written before `finish`.

    Args:
        directory: made if absent.
        vocab_size: decides uint16 or uint32.
        eos_id: ends every document.
        tokenizer_sha256: of the tokenizer that made the ids.
        shard_tokens: a shard is closed once it holds this many.

    Attributes:
        dtype: of the ids, "uint16" or "uint32".

    Raises:
        UserError: the directory holds a finished manifest already.
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
        """Append one document's ids and its <eos>; `text_bytes` is the length of its text in UTF-8.

        Raises:
            UserError: an id is outside the vocabulary, or the domain is named "all".
        """
        if max(ids, default=0) >= self._vocab_size:
            raise UserError(f"token id {max(ids)} is outside the vocabulary of {self._vocab_size}")
        self.append(np.array([*ids, self._eos_id]), np.array([[len(ids) + 1, text_bytes]]), domain, split)

    def append(self, ids: NDArray[Any], sizes: NDArray[np.int64], domain: str, split: Split) -> None:
        """Append documents of one domain and split.

        Args:
            ids: (T,) of the documents one behind the other, each with its <eos>; may be a memory map.
            sizes: (n, 2) tokens, the <eos> included, and UTF-8 bytes of the text of each document.
            domain: of all of them.
            split: of all of them.

        Raises:
            UserError: the domain is named "all".
        """
        ends, begin, first = np.cumsum(sizes[:, 0]), 0, 0
        while first < len(sizes):
            shard = self._open.get((domain, split)) or self._new_shard(domain, split)
            # The document that fills the shard up is its last.
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

    def _new_shard(self, domain: str, split: Split) -> _OpenShard:
        check_domain(domain)
        number = sum((s.domain, s.split) == (domain, split) for s in self._done)
        file = open(self._directory / f"{_stem(domain)}-{split}-{number:05d}.bin", "wb")  # noqa: SIM115 (see close)
        shard = self._open[domain, split] = _OpenShard(file, domain, split)
        return shard

    def close(self, domain: str, split: Split) -> None:
        """Close the shard in the making of a domain and split, if there is one; what comes later begins another."""
        shard = self._open.pop((domain, split), None)
        if shard is None:
            return
        with shard.file as f:
            f.flush()
            os.fsync(f.fileno())
        name, sha256 = Path(f.name).name, shard.digest.hexdigest()
        self._done.append(Shard(name, shard.domain, shard.split, shard.tokens, shard.documents, shard.bytes, sha256))

    def finish(self) -> Manifest:
        """Close all shards and write the manifest.

        Raises:
            UserError: nothing was added.
        """
        for key in sorted(self._open):
            self.close(*key)
        if not self._done:
            raise UserError(f"{self._directory}: the corpus is empty, there is nothing to train on")
        shards = tuple(sorted(self._done, key=lambda s: (s.split, s.domain, s.file)))
        manifest = Manifest(self.dtype, self._vocab_size, self._eos_id, self._tokenizer_sha256, shards)
        write_json(self._directory / MANIFEST, asdict(manifest))
        return manifest


class TokenStream:
    """The ids of many shards, one behind the other, each mapped and none loaded."""

    def __init__(self, directory: Path, shards: Sequence[Shard], dtype: str) -> None:
        kind = little_endian(dtype)
        self._maps = [np.memmap(directory / s.file, kind, "r", s.offset, (s.tokens,)) for s in shards]
        self._ends = np.cumsum([s.tokens for s in shards])

    def __len__(self) -> int:
        """Tokens in all shards together."""
        return int(self._ends[-1]) if len(self._ends) else 0

    def read(self, start: int, stop: int) -> NDArray[np.int64]:
        """The ids from `start` to `stop` (clipped at the end of the stream), across shard borders."""
        stop = min(stop, len(self))
        parts = []
        shard = int(np.searchsorted(self._ends, start, side="right"))
        while start < stop:
            end = int(self._ends[shard])
            base = end - len(self._maps[shard])
            parts.append(self._maps[shard][start - base : min(stop, end) - base])
            start = min(stop, end)
            shard += 1
        return np.concatenate(parts).astype(np.int64) if parts else np.empty(0, np.int64)


@dataclass(frozen=True)
class TokenData:
    """A directory of shards that has been checked."""

    directory: Path
    manifest: Manifest

    def stream(self, split: Split, domain: str | None = None) -> TokenStream:
        """The ids of a split, in the manifest's order; of one domain, if named."""
        shards = [s for s in self.manifest.shards if s.split == split and domain in (None, s.domain)]
        return TokenStream(self.directory, shards, self.manifest.dtype)

    def domains(self, split: Split) -> list[str]:
        """The domains of a split, sorted."""
        return sorted({s.domain for s in self.manifest.shards if s.split == split})

    def text_bytes(self, split: Split, domain: str) -> int:
        """UTF-8 bytes of the text of a domain."""
        return sum(s.bytes for s in self.manifest.shards if (s.split, s.domain) == (split, domain))


class BareFlags(NamedTuple):
    """What a command calls the flags that tell about bare files, for its messages."""

    vocab_size: str = "--model.vocab_size"
    dtype: str = "--data.dtype"
    eos_id: str = "--data.eos_id"


TRAINING_FLAGS = BareFlags()


def open_tokens(
    path: str | Path,
    *,
    vocab_size: int | None = None,
    dtype: str = "uint16",
    eos_id: int = 2,
    verify: bool = False,
    to_train: bool = True,
    flags: BareFlags = TRAINING_FLAGS,
) -> TokenData:
    """Token data that has been checked against its manifest.

    Args:
        path: a directory with `manifest.json`, or `.bin` files of another project: one file or a directory of them, in
            which files with the word "val" in their name are held out. A header of llm.c's form is skipped.
        vocab_size: needed for bare files.
        dtype: of bare files, "uint16" or "uint32".
        eos_id: of bare files.
        verify: also compare every shard's sha256, which reads all of it.
        to_train: whether there must be something to train on.
        flags: how the user gives `vocab_size`, `dtype` and `eos_id`.

    Raises:
        UserError: names the file that is missing, of the wrong size or not what its manifest says.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such file or directory of token data")
    if (path / MANIFEST).is_file():
        data = TokenData(path, _read_manifest(path / MANIFEST))
    else:
        data = _bare(path, vocab_size, dtype, eos_id, flags)
    for shard in data.manifest.shards:
        _check(path if path.is_dir() else path.parent, shard, data.manifest, verify)
    if to_train and not any(s.split == "train" for s in data.manifest.shards):
        raise UserError(f"{path}: holds no training shard")
    return data


def _read_manifest(path: Path) -> Manifest:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        if raw["version"] != FORMAT_VERSION:
            raise UserError(f"{path}: format version {raw['version']}, this babyllm reads {FORMAT_VERSION}")
        raw["shards"] = tuple(Shard(**s) for s in raw["shards"])
        return Manifest(**raw)
    except (ValueError, KeyError, TypeError) as e:
        raise UserError(f"{path}: not a manifest of token data ({e}); make the directory anew") from e


def _check(directory: Path, shard: Shard, manifest: Manifest, verify: bool) -> None:
    file = directory / shard.file
    if not file.is_file():
        raise UserError(f"{file}: missing, though the manifest names it; make the directory anew")
    expected = shard.offset + shard.tokens * np.dtype(manifest.dtype).itemsize
    if file.stat().st_size != expected:
        raise UserError(f"{file}: {file.stat().st_size} bytes, the manifest says {expected}; make the directory anew")
    if verify and shard.sha256 and sha256(file) != shard.sha256:
        raise UserError(f"{file}: its sha256 is not the manifest's, so its contents changed; make the directory anew")
    if verify and not shard.sha256:
        largest = int(np.memmap(file, little_endian(manifest.dtype), "r", shard.offset).max())
        if largest >= manifest.vocab_size:
            raise UserError(f"{file}: holds id {largest}, outside the vocabulary of {manifest.vocab_size}")


def _bare(path: Path, vocab_size: int | None, dtype: str, eos_id: int, flags: BareFlags) -> TokenData:
    files = [path] if path.is_file() else sorted(path.glob("*.bin"))
    if not files:
        raise UserError(f"{path}: holds neither {MANIFEST} nor .bin files")
    if vocab_size is None:
        raise UserError(
            f"{path}: has no {MANIFEST}; bare .bin files need {flags.vocab_size} (and {flags.dtype}, {flags.eos_id})"
        )
    if dtype == "uint16" and vocab_size > UINT16_VOCABULARY:
        raise UserError(f"{path}: a vocabulary of {vocab_size} does not fit uint16; give {flags.dtype}=uint32")
    size = np.dtype(dtype).itemsize
    shards = []
    for file in files:
        offset, n_bytes = 0, file.stat().st_size
        header = np.fromfile(file, "<i4", 3) if n_bytes >= LLMC_HEADER_BYTES else np.zeros(3, "<i4")
        if header[0] == LLMC_MAGIC:
            offset = LLMC_HEADER_BYTES
            if (n_bytes - offset) != int(header[2]) * size:
                raise UserError(f"{file}: its header says {header[2]} tokens, its size does not")
        tokens, rest = divmod(n_bytes - offset, size)
        if rest or not tokens:
            raise UserError(f"{file}: {n_bytes} bytes are not a whole number of {dtype} ids; is {flags.dtype} right?")
        largest = int(np.memmap(file, little_endian(dtype), "r", offset, (min(tokens, 1 << 20),)).max())
        if largest >= vocab_size:
            raise UserError(f"{file}: holds id {largest}, outside the vocabulary of {vocab_size}; wrong {flags.dtype}?")
        split: Split = "val" if _VAL.search(file.stem.lower()) else "train"
        shards.append(Shard(file.name, "text", split, tokens, 0, 0, "", offset))
    manifest = Manifest("uint16" if dtype == "uint16" else "uint32", vocab_size, eos_id, "", tuple(shards))
    return TokenData(path if path.is_dir() else path.parent, manifest)
