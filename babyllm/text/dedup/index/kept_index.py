"""The directory of an index: generations of kept documents, append-only, and the file that lists them.

DIR/index.json                        settings and generations; replaced at once, so it is the commit mark
DIR/000001/keys-00000.parquet         band keys: table and key in one number, sorted, and the document's row
DIR/000001/exact-00000.parquet        two hashes of each exact form, sorted by the first, and the row
DIR/000001/documents-00000.parquet    id, domain, url, hash and length of each document, by row
DIR/000001/shingles-00000.parquet     set of shingles of each document, by row
DIR/takedowns.jsonl                   documents that count as never kept
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from babyllm.errors import UserError
from babyllm.files import fsync, locked, read_sealed_json, write_sealed_json
from babyllm.pipeline.partitions import not_written
from babyllm.text.takedowns import LIST

INDEX = "index.json"
FORMAT_VERSION = 1
_LOCK = ".lock"
Kind = Literal["keys", "exact", "documents", "shingles"]


@dataclass(frozen=True)
class Generation:
    """The documents that one run kept, or several whose generations were merged.

    Attributes:
        directory: directory of the index.
        name: name of its folder.
        made: digests of the inputs and settings of these runs, in their order.
        parts: number of documents in each file of documents and of shingles.
        n_keys: number of files of band keys.
        n_exact: number of files of exact keys.
    """

    directory: str
    name: str
    made: tuple[str, ...]
    parts: tuple[int, ...]
    n_keys: int
    n_exact: int

    def documents(self) -> int:
        """The number of its documents."""
        return sum(self.parts)

    def file(self, kind: Kind, number: int) -> Path:
        """The path of one of its files."""
        return Path(self.directory, self.name, file_name(kind, number))

    def files(self, kind: Kind) -> list[Path]:
        """All files of a kind, in their order."""
        n = {"keys": self.n_keys, "exact": self.n_exact}.get(kind, len(self.parts))
        return [self.file(kind, number) for number in range(n)]


@dataclass(frozen=True)
class KeptIndex:
    """An index as it is on disk.

    Attributes:
        directory: directory of the index; it need not exist if there is no generation yet.
        settings: settings with which keys and shingles are made, by flag; empty before the first generation.
        generations: generations, the oldest first.
    """

    directory: Path
    settings: dict[str, Any]
    generations: tuple[Generation, ...]

    def made(self) -> list[str]:
        """The digests of all runs, in their order."""
        return [digest for generation in self.generations for digest in generation.made]

    def before(self, digest: str) -> list[str]:
        """The digests of the runs before this one, which may have been added already."""
        made = self.made()
        return made[: made.index(digest)] if digest in made else made

    def generations_before(self, digest: str) -> tuple[Generation, ...]:
        """The generations of the runs before this one.

        Raises:
            UserError: the run's own generation has been merged with earlier ones.
        """
        for number, generation in enumerate(self.generations):
            if digest == generation.made[0]:
                return self.generations[:number]
            if digest in generation.made:
                raise UserError(
                    f"{self.directory}: holds the documents of this input already, merged with earlier ones, so they "
                    "cannot be compared with the earlier ones alone; take the corpus that was made at that time"
                )
        return self.generations

    def require(self, settings: Mapping[str, Any]) -> None:
        """Check that keys and shingles made with these settings can be compared with those of the index.

        Raises:
            UserError: a setting differs; the message names it.
        """
        for name, value in settings.items() if self.generations else ():
            if self.settings.get(name) != value:
                raise UserError(
                    f"--{name}={_shown(value)}: the index {self.directory} was made with "
                    f"{_shown(self.settings.get(name))}; give the same, or another --index"
                )

    def next_name(self) -> str:
        """The name of a further generation; names are never used twice."""
        return f"{max((int(g.name) for g in self.generations), default=0) + 1:06d}"

    def commit(self, settings: Mapping[str, Any], generations: Sequence[Generation]) -> KeptIndex:
        """Make these generations the index, and delete the folders of others."""
        listed = [
            {
                "name": g.name,
                "made": list(g.made),
                "documents": g.documents(),
                "parts": list(g.parts),
                "keys": g.n_keys,
                "exact": g.n_exact,
            }
            for g in generations
        ]
        value = {"version": FORMAT_VERSION, "settings": dict(settings), "generations": listed}
        write_sealed_json(self.directory / INDEX, value)
        index = replace(self, settings=dict(settings), generations=tuple(generations))
        index.delete_others()
        return index

    def delete_others(self) -> None:
        """Delete the folders of generations that are not listed, left by a run that was killed or by a merge."""
        listed = {generation.name for generation in self.generations}
        for folder in self.directory.iterdir():
            name = folder.name.removeprefix(".")
            if name.isdigit() and len(name) == 6 and folder.name not in listed and folder.is_dir():
                shutil.rmtree(folder)


def file_name(kind: Kind, number: int) -> str:
    """The name of a generation's file."""
    return f"{kind}-{number:05d}.parquet"


def open_index(directory: Path) -> KeptIndex:
    """The index in a directory; one without generations if the directory is new.

    Raises:
        UserError: the directory holds other files, or the index is damaged.
    """
    path = directory / INDEX
    try:
        raw = read_sealed_json(path)
        if raw["version"] != FORMAT_VERSION:
            raise UserError(f"{path}: format version {raw['version']}, this babyllm reads {FORMAT_VERSION}")
        generations = tuple(
            Generation(str(directory), g["name"], tuple(g["made"]), tuple(g["parts"]), g["keys"], g["exact"])
            for g in raw["generations"]
        )
        index = KeptIndex(directory, raw["settings"], generations)
    except FileNotFoundError:
        others = sorted(p.name for p in directory.iterdir() if not p.name.startswith(".")) if directory.is_dir() else []
        if others := [name for name in others if name != LIST and not (name.isdigit() and len(name) == 6)]:
            raise UserError(
                f"--index={directory}: holds {others[0]} and no {INDEX}; choose a directory that is new, or an index"
            ) from None
        return KeptIndex(directory, {}, ())
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a description of an index ({error}); restore it from a copy") from error
    for generation in generations:
        for kind in ("keys", "exact", "documents", "shingles"):
            for file in generation.files(kind):
                if not file.is_file():
                    raise UserError(f"{file}: missing, though {INDEX} names it; restore the index from a copy")
    return index


@contextmanager
def held(index: KeptIndex) -> Iterator[None]:
    """Hold the lock of an index during the body, and delete what a killed run has left.

    Raises:
        UserError: another process holds it, has changed the index in the meantime, or the disk is full.
    """
    directory = index.directory
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with locked(directory / _LOCK, 0) as is_free:
            if not is_free:
                raise UserError(f"--index={directory}: another process is using it; wait for its end")
            if open_index(directory) != index:
                raise UserError(f"--index={directory}: another process has just changed it; start the command again")
            index.delete_others()
            yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise not_written(directory, error) from error


def put_in_place(index: KeptIndex, name: str, files: Mapping[str, Path]) -> None:
    """Make the folder of a generation from finished files, by name, which are linked where possible, else copied."""
    unfinished = index.directory / f".{name}"
    shutil.rmtree(unfinished, ignore_errors=True)
    shutil.rmtree(index.directory / name, ignore_errors=True)
    unfinished.mkdir()
    for target, source in files.items():
        try:
            os.link(source, unfinished / target)
        except OSError:  # on another disk, or a disk without links
            shutil.copyfile(source, unfinished / target)
            fsync(unfinished / target)
    fsync(unfinished)
    os.rename(unfinished, index.directory / name)
    fsync(index.directory)


def digest_of(value: Any) -> str:
    """The hexadecimal sha256 of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _shown(value: Any) -> str:
    return json.dumps(value)
