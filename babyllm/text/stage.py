"""What every stage that makes a corpus begins with: has it been done here before, and is nobody else at it?

`OUT/corpus.json` is the commit mark; its "about" tells the stage, its settings and its inputs. What is not finished
lies in `OUT/.work`, with a lock.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from babyllm.errors import UserError
from babyllm.files import fsync, locked
from babyllm.text.corpus import MANIFEST, open_corpus
from babyllm.text.partitions import not_written

WORK, REJECTED = ".work", "rejected.jsonl"


def is_done(out: Path, about: dict[str, Any]) -> bool:
    """Whether `out` holds the corpus that is to be made.

    Args:
        out: a directory, or nothing yet.
        about: what decides the result: stage, settings and inputs, as JSON values.

    Raises:
        UserError: it holds a corpus made otherwise.
    """
    if not (out / MANIFEST).is_file():
        return False
    require_same(out, open_corpus(out).about, about)
    return True


def require_same(out: Path, made: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Refuse results in `out` that were made with other settings or inputs than what is wanted.

    Raises:
        UserError: names what differs.
    """
    if changed := [name for name in wanted if made.get(name) != wanted[name]]:
        raise UserError(f"{out}: was made with other {', '.join(changed)}; delete it or choose another directory")


def join_rejected(folders: Sequence[Path], out: Path) -> None:
    """Put the records that each piece rejected into one `rejected.jsonl`, in their order; none leaves no file."""
    unfinished, target = out / f".{REJECTED}.tmp", out / REJECTED
    with unfinished.open("wb") as joined:
        for file in (folder / REJECTED for folder in folders):
            if file.is_file():
                with file.open("rb") as piece:
                    shutil.copyfileobj(piece, joined)
    target.unlink(missing_ok=True)
    if unfinished.stat().st_size:
        fsync(unfinished)
        os.replace(unfinished, target)
    else:
        unfinished.unlink()


@contextmanager
def work_directory(out: Path) -> Iterator[Path]:
    """The directory for what is not finished, which no other process writes while the body runs.

    Raises:
        UserError: another process is at it, `out` cannot be made, or the body cannot write, as on a full disk.
    """
    directory = out / WORK
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out}: cannot be made ({error.strerror}); choose another directory") from error
    with locked(directory / "lock", 0) as is_free:
        if not is_free:
            raise UserError(f"{out}: another process is writing it; wait for its end or choose another directory")
        try:
            yield directory
        except BrokenPipeError:  # whoever read our output has gone
            raise
        except OSError as error:
            raise not_written(out, error) from error
