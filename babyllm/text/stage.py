"""What every stage that makes a corpus begins with: has it been done here before, and is nobody else at it?

`OUT/corpus.json` is the commit mark; its "about" tells the stage, its settings and its inputs. What is not finished
lies in `OUT/.work`, with a lock.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from babyllm.errors import UserError
from babyllm.files import locked
from babyllm.text.corpus import MANIFEST, open_corpus

WORK = ".work"


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
    made = open_corpus(out).about
    if made != about:
        changed = [name for name in about if made.get(name) != about[name]] or ["stage"]
        raise UserError(
            f"{out}: holds a corpus made with other {', '.join(changed)}; delete it or choose another directory"
        )
    return True


@contextmanager
def work_directory(out: Path) -> Iterator[Path]:
    """The directory for what is not finished, which no other process writes while the body runs.

    Raises:
        UserError: another process is at it, or `out` cannot be made.
    """
    directory = out / WORK
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out}: cannot be made ({error.strerror}); choose another directory") from error
    with locked(directory / "lock", 0) as is_free:
        if not is_free:
            raise UserError(f"{out}: another process is writing it; wait for its end or choose another directory")
        yield directory
