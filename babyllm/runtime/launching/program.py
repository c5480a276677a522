"""The top level of a program: an error that its user should see becomes one line and an exit status."""

from __future__ import annotations

import atexit
import json
import os
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from babyllm import console
from babyllm.errors import UserError
from babyllm.runtime.launching.place import find_place
from babyllm.runtime.rendezvous import FolderStore, Unanswered
from babyllm.runtime.signals import ignore_signals

# Seconds for which the other ranks of a machine hold an error back, since the first may report the same one.
_ECHO_S = 3.0
_SMALLER = "read fewer sequences or tokens at a time, or use a smaller model"


@contextmanager
def user_errors(argv: Sequence[str] | None = None) -> Iterator[None]:
    """Turn a UserError in the body into `program: message` on stderr and exit status 1; --debug adds the traceback.

    Ctrl-C exits with 130, and a closed output pipe with 141, both silently. If `launch` started several processes,
    their parent reports the error once. Under torchrun the first rank of each machine reports its error at once. The
    others wait for a moment and then report theirs as `rank N: message`, unless torchrun has ended them. So an error
    that all ranks share appears once, and an error of another rank still appears.
    """
    console.prepare()
    argv = sys.argv if argv is None else argv
    try:
        yield
        sys.stdout.flush()  # a closed pipe must raise here and not while the interpreter ends
        atexit.register(ignore_signals)
    except UserError as error:
        if "--debug" in argv:
            traceback.print_exc()
        message, place = " ".join(str(error).split("\n")), find_place()
        if place.local_rank > 0 and place.meeting is None:
            time.sleep(_ECHO_S)
        if message:
            tell(message if place.rank == 0 else f"rank {place.rank}: {message}", argv)
        if isinstance(error, Unanswered):
            sys.stdout.flush()
            os._exit(1)
        raise SystemExit(1) from None
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(141) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except Exception as error:
        if type(error).__name__ == "OutOfMemoryError" and "--debug" not in argv:  # torch's, which is loaded then
            tell(f"{' '.join(str(error).split('. ')[:2])}; {_SMALLER}", argv)
            raise SystemExit(1) from None
        _write_error_file(traceback.format_exc())
        raise


def tell(line: str, argv: Sequence[str] | None = None, blamed: Sequence[int] = ()) -> None:
    """Report why the run ends: to the parent if `launch` started this process, else on stderr.

    Args:
        line: the message, one line.
        argv: the command line, whose program's name precedes the message.
        blamed: the ranks that caused the end, which may not end by themselves.
    """
    place = find_place()
    if place.meeting:
        with suppress(OSError):  # the folder is gone: the parent has ended and reported why
            FolderStore(place.meeting).set(f"error/{place.rank}", json.dumps({"line": line, "blamed": list(blamed)}))
        return
    program = Path((argv or sys.argv)[0])
    name = program.parent.name if program.name == "__main__.py" else program.name
    print(f"{name}: {line}", file=sys.stderr, flush=True)
    _write_error_file(line)


def told(meeting: Path, n_ranks: int) -> tuple[str | None, list[int]]:
    """What the ranks that meet in a folder have reported: the lowest rank's line, and the ranks that any blames."""
    store, keys = FolderStore(meeting), [f"error/{rank}" for rank in range(n_ranks)]
    found = [json.loads(store.get(key)) for key in keys if store.check([key])]
    return (found[0]["line"] if found else None), [rank for error in found for rank in error["blamed"]]


def _write_error_file(text: str) -> None:
    """Write the file whose text torchrun shows in its report."""
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if path:
        extra = {"py_callstack": text, "timestamp": str(int(time.time()))}
        with suppress(OSError):
            Path(path).write_text(json.dumps({"message": {"message": text, "extraInfo": extra}}), encoding="utf-8")
