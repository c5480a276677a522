"""What a stage says of records that became nothing: a refusal where nothing is left, a line where much is lost.

reasons and how often -> require_documents -> UserError      a stage without documents fails
                      -> warn_of_rejected  -> a line on the console
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping

from babyllm.errors import UserError

MANY = 0.1  # share of the records from which on their loss is reported
_SHOWN = 3


def told(reasons: Mapping[str, int]) -> str:
    """Reasons as words, the most frequent first: "all 400 records: no field holds text"."""
    total, common = sum(reasons.values()), Counter(reasons).most_common(_SHOWN)
    if len(reasons) == 1:
        return f"{'all ' if total > 1 else ''}{total:,} record{'s' * (total > 1)}: {common[0][0]}"
    words = [f"{n:,} of {total:,} records: {reason}" for reason, n in common]
    rest = len(reasons) - len(common)
    return "; ".join([*words, f"{rest:,} other reasons"] if rest else words)


def require_documents(n: int, reasons: Mapping[str, int], where: object) -> None:
    """Refuse to end without a document.

    Args:
        n: documents there are.
        reasons: why records became none, with how many.
        where: what the message begins with.

    Raises:
        UserError: there is none.
    """
    if not n:
        raise UserError(f"{where}: no document is left: {told(reasons) if reasons else 'the inputs hold none'}")


def warn_of_rejected(reasons: Mapping[str, int], n_read: int, listed: object = None) -> None:
    """Report on the console that many of the records could not be used.

    Args:
        reasons: why records became no documents, with how many.
        n_read: records that did.
        listed: the file that has them one by one, if there is one.
    """
    rejected = sum(reasons.values())
    if rejected > MANY * (rejected + n_read):
        most, n = Counter(reasons).most_common(1)[0]
        where = f"; {listed} lists them" if listed else ""
        print(
            f"warning: {rejected:,} of {rejected + n_read:,} records could not be used, {n:,} of them: {most}{where}",
            file=sys.stderr,
        )
