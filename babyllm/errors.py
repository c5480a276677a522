"""The one exception that means "the user can fix this"."""


class UserError(Exception):
    """A mistake in a flag, a file or a record, told in one line that names it and says what to do.

    Scripts print it to stderr without a traceback and exit with status 1.
    """
