"""Messages about rejected records: an error if no document is left, a warning if many were rejected.

number of records by reason -> require_documents -> UserError, if no document is left
                            -> warn_of_rejected  -> a line on stderr, if many records were rejected
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping

from babyllm.errors import UserError

MANY = 0.1  # share of rejected records above which a warning is printed
_SHOWN = 3


def told(reasons: Mapping[str, int]) -> str:
    """The reasons as one text, the most frequent first, such as "all 400 records: no field holds text"."""
    total, common = sum(reasons.values()), Counter(reasons).most_common(_SHOWN)
    if len(reasons) == 1:
        return f"{'all ' if total > 1 else ''}{total:,} record{'s' * (total > 1)}: {common[0][0]}"
    words = [f"{n:,} of {total:,} records: {reason}" for reason, n in common]
    rest = len(reasons) - len(common)
    return "; ".join([*words, f"{rest:,} other reasons"] if rest else words)


def require_documents(n: int, reasons: Mapping[str, int], where: object) -> None:
    """Check that there is at least one document.

    Args:
        n: number of documents.
        reasons: number of rejected records by reason.
        where: beginning of the message, such as a path.

    Raises:
        UserError: `n` is 0.
    """
    if not n:
        raise UserError(f"{where}: no document is left: {told(reasons) if reasons else 'the inputs hold none'}")


def warn_of_rejected(reasons: Mapping[str, int], n_read: int, listed: object = None) -> None:
    """Print a warning on stderr if many of the records could not be used.

    Args:
        reasons: number of rejected records by reason.
        n_read: number of records that became documents.
        listed: file that lists the rejected records; None without one.
    """
    rejected = sum(reasons.values())
    if rejected > MANY * (rejected + n_read):
        most, n = Counter(reasons).most_common(1)[0]
        where = f"; {listed} lists them" if listed else ""
        print(
            f"warning: {rejected:,} of {rejected + n_read:,} records could not be used, {n:,} of them: {most}{where}",
            file=sys.stderr,
        )
