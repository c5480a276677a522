"""The one exception for mistakes that a user can fix, and how its message names settings."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

_FLAG = re.compile(r"(?<![\w-])--(?=[a-z])")


class UserError(Exception):
    """A mistake in a flag, a file or a record; its message is one line that names it and says what to do.

    Scripts print the message to stderr without a traceback and exit with status 1. It names a setting by its dotted
    key, `data.seq_len`, or as a flag, `--data.seq_len=512`; `naming_arguments` turns flags into keys.
    """


def in_one_line(error: BaseException) -> str:
    """The text of a library's error for a message: its first 200 characters, in one line."""
    return " ".join(str(error).split())[:200]


@contextmanager
def naming_arguments(names: Mapping[str, str] | None = None) -> Iterator[None]:
    """Make a UserError of the body name settings as in Python: `data.seq_len`, not `--data.seq_len`.

    It also works as a decorator of a function.

    Args:
        names: arguments of the function by the dotted key they stand for, such as {"plan.steps": "steps"}.
    """
    try:
        yield
    except UserError as error:
        message = _FLAG.sub("", str(error))
        for key, argument in (names or {}).items():
            message = re.sub(rf"(?<![\w.]){re.escape(key)}(?![\w.]*\w)", argument, message)
        error.args = (message,)
        raise
