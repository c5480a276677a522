"""Token shards on disk: raw little-endian ids in `*.bin` files, described by `manifest.json`.

directory -> open_tokens -> TokenData -> TokenStream (train) and held-out documents (val)

Every document ends with <eos>. Each shard holds documents of one domain and one split.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from babyllm.errors import UserError
from babyllm.files import begins_with, read_sealed_json
from babyllm.integrity import Ids, examine
from babyllm.object_store.object_addresses import is_remote
from babyllm.store.bare_tokens import TRAINING_FLAGS, UINT16_VOCABULARY, BareFlags, read_layouts

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
_BEGINNING = re.compile(rb'\s*\{\s*("dtype":|\Z)')
_HELD_OUT = re.compile(r"(^|[^a-z])(val(id|idation)?|dev|test)([^a-z]|$)")

Split = Literal["train", "val"]


@dataclass(frozen=True)
class Shard:
    """One `.bin` file.

    Attributes:
        file: name of the file, relative to the manifest.
        domain: domain of its documents.
        split: "train" or "val".
        tokens: number of ids, with the <eos> of every document.
        documents: number of documents; 0 for bare files, where it is unknown.
        bytes: UTF-8 bytes of their text; 0 for bare files, where it is unknown.
        sha256: sha256 of the file, in hexadecimal; empty for bare files.
        offset: bytes before the first id; 0 for shards that babyllm wrote.
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
    """The description of a directory of shards.

    Attributes:
        dtype: type of the ids.
        vocab_size: vocabulary size of the tokenizer that made the ids.
        eos_id: id of <eos>.
        tokenizer_sha256: sha256 of that tokenizer, in hexadecimal; empty for bare files.
        shards: files, in the order in which they are read.
        version: version of the format.
    """

    dtype: Literal["uint16", "uint32"]
    vocab_size: int
    eos_id: int
    tokenizer_sha256: str
    shards: tuple[Shard, ...]
    version: int = FORMAT_VERSION

    def fingerprint(self) -> str:
        """A hexadecimal hash of all that decides the data: ids, their order and their splits."""
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def token_dtype(vocab_size: int) -> Literal["uint16", "uint32"]:
    """The name of the smallest type that holds every id of a vocabulary."""
    return "uint16" if vocab_size <= UINT16_VOCABULARY else "uint32"


def little_endian(dtype: str) -> np.dtype[Any]:
    """The numpy type of ids on disk: little-endian, whatever the byte order of this machine."""
    little: np.dtype[Any] = np.dtype(dtype).newbyteorder("<")
    return little


class ShardIds(Protocol):
    """The ids of a shard, of which parts can be read."""

    def __len__(self) -> int:
        """The number of ids."""
        ...

    def __getitem__(self, part: slice, /) -> NDArray[Any]:
        """(n,) ids from the start of a slice up to its stop."""
        ...


class TokenStream:
    """The ids of several shards, one after the other."""

    def __init__(self, shards: Sequence[ShardIds]) -> None:
        self._maps = shards
        self._ends = np.cumsum([len(ids) for ids in shards])

    def __len__(self) -> int:
        """The number of tokens in all shards."""
        return int(self._ends[-1]) if len(self._ends) else 0

    def read(self, start: int, stop: int) -> NDArray[np.int64]:
        """(n,) int64, the ids from `start` up to `stop`, or up to the end of the stream, across shard borders."""
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
        """The ids of a split, or of one domain in it, in the manifest's order."""
        shards = [s for s in self.manifest.shards if s.split == split and domain in (None, s.domain)]
        return TokenStream([self.ids(shard) for shard in shards])

    def ids(self, shard: Shard) -> ShardIds:
        """The ids of a shard; its file is mapped rather than loaded."""
        kind = little_endian(self.manifest.dtype)
        return np.memmap(self.directory / shard.file, kind, "r", shard.offset, (shard.tokens,))

    def domains(self, split: Split) -> list[str]:
        """The domains of a split, sorted."""
        return sorted({s.domain for s in self.manifest.shards if s.split == split})

    def text_bytes(self, split: Split, domain: str) -> int:
        """The UTF-8 bytes of the text of a domain in a split."""
        return sum(s.bytes for s in self.manifest.shards if (s.split, s.domain) == (split, domain))


def open_tokens(
    path: str | Path,
    *,
    vocab_size: int | None = None,
    dtype: str = "auto",
    eos_id: int = 2,
    check: bool = True,
    verify: bool = False,
    to_train: bool = True,
    flags: BareFlags = TRAINING_FLAGS,
) -> TokenData:
    """Token data, verified against its manifest.

    Each shard is read in full once. Its sha256 and its largest id are then recorded beside it.

    Args:
        path: directory with `manifest.json`, or bare `.bin` files of another project: one file or a directory of them,
            in which files with the word "val", "dev" or "test" in their name are held out. A header in llm.c's format
            is skipped.
        vocab_size: vocabulary size of bare files, which need it.
        dtype: type of the ids in bare files, "uint16" or "uint32"; "auto" detects it.
        eos_id: id of <eos> in bare files.
        check: whether to verify shards that are not recorded as verified; not needed where another process does it.
        verify: whether to verify all shards, recorded or not.
        to_train: whether there must be a training shard.
        flags: names in messages of the flags for `vocab_size`, `dtype` and `eos_id`.

    Raises:
        UserError: a file is missing, damaged, of the wrong size or different from its manifest; there is no training
            shard; or a setting for bare files is missing or wrong.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such file or directory of token data")
    if is_token_data(path) or ((path / MANIFEST).is_file() and not bare_files(path)):
        data = TokenData(path, read_manifest(path / MANIFEST))
    else:
        data = _bare(path, vocab_size, dtype, eos_id, flags)
    for shard in data.manifest.shards:
        _require_size(data.directory / shard.file, shard, data.manifest)
    if to_train and not any(s.split == "train" for s in data.manifest.shards):
        raise UserError(
            f"{path}: holds no training shard; without a manifest, files named val, dev or test are held out"
        )
    if check:
        _check(data, again=verify)
    return data


def is_token_data(path: Path) -> bool:
    """Whether a directory holds a manifest of token data, damaged or not; another program's does not count.

    A `manifest.json` that is not valid JSON counts as damaged if it lies beside `.bin` files, which would be read
    differently without it.
    """
    try:
        raw = json.loads((path / MANIFEST).read_bytes())
    except ValueError:
        return bool(bare_files(path)) or begins_with(path / MANIFEST, _BEGINNING)
    except OSError:
        return False
    return isinstance(raw, dict) and (not raw or not raw.keys().isdisjoint(("dtype", "shards", "vocab_size")))


def is_text(path: Path) -> bool:
    """Whether a path holds something other than token data or `.bin` files of another project."""
    if is_remote(path):
        return False
    if not path.is_dir():
        return path.is_file() and path.suffix != ".bin"
    is_tokens = is_token_data(path) or bool(bare_files(path))
    return not is_tokens and any(not entry.name.startswith(".") for entry in path.iterdir())


def bare_files(path: Path) -> list[Path]:
    """The `.bin` files in a directory, sorted; for the path of a file, that file."""
    return [path] if path.is_file() else [file for file in sorted(path.glob("*.bin")) if file.is_file()]


def read_manifest(path: Path) -> Manifest:
    """The description in a `manifest.json`.

    Raises:
        UserError: it is missing, damaged or of another version.
    """
    try:
        raw = read_sealed_json(path)
        if raw["version"] != FORMAT_VERSION:
            raise UserError(f"{path}: format version {raw['version']}, this babyllm reads {FORMAT_VERSION}")
        raw["shards"] = tuple(Shard(**s) for s in raw["shards"])
        return Manifest(**raw)
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise UserError(f"{path}: not a manifest of token data ({e}); rebuild the directory") from e


def _require_size(file: Path, shard: Shard, manifest: Manifest) -> None:
    if not file.is_file():
        raise UserError(f"{file}: missing, though the manifest names it; rebuild the directory")
    expected = shard.offset + shard.tokens * np.dtype(manifest.dtype).itemsize
    if file.stat().st_size != expected:
        raise UserError(f"{file}: {file.stat().st_size} bytes, the manifest says {expected}; rebuild the directory")


def _check(data: TokenData, *, again: bool) -> None:
    """Refuse shards that differ from the manifest, or whose ids are outside the vocabulary."""
    manifest = data.manifest
    kind = little_endian(manifest.dtype).str
    found = examine(data.directory, {s.file: Ids(kind, s.offset) for s in manifest.shards}, again=again)
    for shard in manifest.shards:
        file, finding = data.directory / shard.file, found[shard.file]
        if shard.sha256 and finding.sha256 != shard.sha256:
            raise UserError(f"{file}: its sha256 is not the manifest's: it is damaged; rebuild the directory")
        if finding.largest >= manifest.vocab_size:
            raise UserError(
                f"{file}: holds id {finding.largest}, outside the vocabulary of {manifest.vocab_size}; was it made "
                "with another tokenizer?"
            )


def _bare(path: Path, vocab_size: int | None, dtype: str, eos_id: int, flags: BareFlags) -> TokenData:
    """Files of another project, with the manifest that they lack."""
    files = bare_files(path)
    if not files:
        raise UserError(f"{path}: holds neither {MANIFEST} nor .bin files")
    if vocab_size is None:
        raise UserError(f"{path}: has no {MANIFEST}; bare .bin files need {flags.vocab_size} and {flags.eos_id}")
    if not 0 <= eos_id < vocab_size:
        raise UserError(f"{flags.eos_id}={eos_id}: outside the vocabulary of {vocab_size} ids of {path}")
    kind, layouts = read_layouts(files, vocab_size, dtype, flags)
    shards = tuple(
        Shard(file.name, "text", _split_of(file), layout.tokens, 0, 0, "", layout.offset)
        for file, layout in zip(files, layouts, strict=True)
    )
    return TokenData(path if path.is_dir() else path.parent, Manifest(kind, vocab_size, eos_id, "", shards))


def _split_of(file: Path) -> Split:
    return "val" if _HELD_OUT.search(file.stem.lower()) else "train"
