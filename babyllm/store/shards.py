"""Token shards on disk: raw little-endian ids in `*.bin` files, described by `manifest.json`.

directory -> open_tokens -> TokenData -> TokenStream (train) and held-out documents (val)

Every document is followed by <eos>. Each shard holds documents of one domain and one split.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from babyllm.errors import UserError
from babyllm.files import begins_with, read_sealed_json
from babyllm.integrity import Ids, examine
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
    """Token data that has been checked against its manifest.

    Each shard is read through once, and what was found remembered beside it: its sha256, and its largest id.

    Args:
        path: a directory with `manifest.json`, or `.bin` files of another project: one file or a directory of them, in
            which files with the word "val", "dev" or "test" in their name are held out. A header of llm.c's form is
            skipped.
        vocab_size: needed for bare files.
        dtype: of bare files, "uint16" or "uint32"; "auto" tells it from the files.
        eos_id: of bare files.
        check: whether to read shards that are not remembered; not needed where another process does it.
        verify: read all shards, remembered or not.
        to_train: whether there must be something to train on.
        flags: how the user gives `vocab_size`, `dtype` and `eos_id`.

    Raises:
        UserError: names the file that is missing, damaged, of the wrong size or not what its manifest says.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such file or directory of token data")
    if is_token_data(path) or ((path / MANIFEST).is_file() and not bare_files(path)):
        data = TokenData(path, _read_manifest(path / MANIFEST))
    else:
        data = _bare(path, vocab_size, dtype, eos_id, flags)
    for shard in data.manifest.shards:
        _require_size(data.directory / shard.file, shard, data.manifest)
    if to_train and not any(s.split == "train" for s in data.manifest.shards):
        raise UserError(
            f"{path}: holds no training shard; files without a manifest named val, dev or test are held out"
        )
    if check:
        _check(data, again=verify)
    return data


def is_token_data(path: Path) -> bool:
    """Whether a directory holds a manifest of token data, damaged or not; another program's `manifest.json` is none.

    One that is no JSON is a damaged one where it lies beside `.bin` files: without it they would be read otherwise.
    """
    try:
        raw = json.loads((path / MANIFEST).read_bytes())
    except ValueError:
        return bool(bare_files(path)) or begins_with(path / MANIFEST, _BEGINNING)
    except OSError:
        return False
    return isinstance(raw, dict) and (not raw or not raw.keys().isdisjoint(("dtype", "shards", "vocab_size")))


def is_text(path: Path) -> bool:
    """Whether a path is neither token data nor `.bin` files of another project, but holds something else."""
    if not path.is_dir():
        return path.is_file() and path.suffix != ".bin"
    is_tokens = is_token_data(path) or bool(bare_files(path))
    return not is_tokens and any(not entry.name.startswith(".") for entry in path.iterdir())


def bare_files(path: Path) -> list[Path]:
    """The `.bin` files that a path names or a directory holds."""
    return [path] if path.is_file() else [file for file in sorted(path.glob("*.bin")) if file.is_file()]


def _read_manifest(path: Path) -> Manifest:
    try:
        raw = read_sealed_json(path)
        if raw["version"] != FORMAT_VERSION:
            raise UserError(f"{path}: format version {raw['version']}, this babyllm reads {FORMAT_VERSION}")
        raw["shards"] = tuple(Shard(**s) for s in raw["shards"])
        return Manifest(**raw)
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise UserError(f"{path}: not a manifest of token data ({e}); make the directory anew") from e


def _require_size(file: Path, shard: Shard, manifest: Manifest) -> None:
    if not file.is_file():
        raise UserError(f"{file}: missing, though the manifest names it; make the directory anew")
    expected = shard.offset + shard.tokens * np.dtype(manifest.dtype).itemsize
    if file.stat().st_size != expected:
        raise UserError(f"{file}: {file.stat().st_size} bytes, the manifest says {expected}; make the directory anew")


def _check(data: TokenData, *, again: bool) -> None:
    """Refuse shards whose contents are not the manifest's, or whose ids the vocabulary does not have."""
    manifest = data.manifest
    kind = little_endian(manifest.dtype).str
    found = examine(data.directory, {s.file: Ids(kind, s.offset) for s in manifest.shards}, again=again)
    for shard in manifest.shards:
        file, finding = data.directory / shard.file, found[shard.file]
        if shard.sha256 and finding.sha256 != shard.sha256:
            raise UserError(f"{file}: its sha256 is not the manifest's: it is damaged; make the directory anew")
        if finding.largest >= manifest.vocab_size:
            raise UserError(
                f"{file}: holds id {finding.largest}, outside the vocabulary of {manifest.vocab_size}; was it made "
                "with another tokenizer?"
            )


def _bare(path: Path, vocab_size: int | None, dtype: str, eos_id: int, flags: BareFlags) -> TokenData:
    """Files of another project, with what their manifest would say."""
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
