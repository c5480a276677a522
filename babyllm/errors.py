"""The one exception that means "the user can fix this", and the words in which it names a setting."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

_FLAG = re.compile(r"(?<![\w-])--(?=[a-z])")


class UserError(Exception):
    """A mistake in a flag, a file or a record, told in one line that names it and says what to do.

    Scripts print it to stderr without a traceback and exit with status 1. The line names a setting by its dotted key,
    `data.seq_len`, or as the flag to be typed, `--data.seq_len=512`; `naming_arguments` makes keys of flags.
    """


@contextmanager
def naming_arguments(names: Mapping[str, str] | None = None) -> Iterator[None]:
    """Let a UserError of the body name settings as Python has them: `data.seq_len` and not `--data.seq_len`.

    As a decorator it does so for a function.

    Args:
        names: the argument by the dotted key that it stands for, such as {"plan.steps": "steps"}.
    """
    try:
        yield
    except UserError as error:
        message = _FLAG.sub("", str(error))
        for key, argument in (names or {}).items():
            message = re.sub(rf"(?<![\w.]){re.escape(key)}(?![\w.]*\w)", argument, message)
        error.args = (message,)
        raise
