"""The top level of a program: a mistake of its user becomes one line and an exit status."""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from babyllm.errors import UserError

# How long ranks that are not first on their machine keep an error back while the first may tell the same.
_ECHO_S = 3.0


@contextmanager
def user_errors(argv: Sequence[str] | None = None) -> Iterator[None]:
    """Turn a UserError in the body into `program: message` on stderr and exit status 1; --debug adds the traceback.

    Ctrl-C exits with 130 and a reader that closed our output with 141, both silently. The first rank of each machine
    tells its error at once. The others keep theirs back for a moment and then tell it as `rank N: message`, unless
    torchrun has ended them: an error that all share appears once, and one that only they have still appears.
    """
    argv = sys.argv if argv is None else argv
    program = Path(argv[0])
    name = program.parent.name if program.name == "__main__.py" else program.name
    try:
        yield
        sys.stdout.flush()  # so that a closed pipe shows here and not while the interpreter ends
    except UserError as error:
        if int(os.environ.get("LOCAL_RANK", 0)) > 0:
            time.sleep(_ECHO_S)
        rank = os.environ.get("RANK", "0")
        if "--debug" in argv:
            traceback.print_exc()
        message = " ".join(str(error).split("\n"))
        print(f"{name}: {message}" if rank == "0" else f"{name}: rank {rank}: {message}", file=sys.stderr, flush=True)
        raise SystemExit(1) from None
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(141) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
