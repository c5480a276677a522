"""What a document is, and the two decisions that depend on its text alone: is it a repetition, is it held out.

Both hash the text, so neither depends on the order of the documents, on the files they came from or on how many workers
read them:

    text -> exact_key   -> kept or dropped as a repetition
    text -> is_held_out -> training or held-out split
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b

from babyllm.errors import UserError


@dataclass(frozen=True)
class Document:
    """A text that is trained on or evaluated as one piece.

    Attributes:
        text: any valid Unicode string.
        domain: the name under which the document is counted, mixed and evaluated.
        id: where it came from, such as "wiki/a.jsonl:1234"; no two documents of a corpus share one.
        url: the address of the page it was taken from; empty where none is known.
    """

    text: str
    domain: str = "text"
    id: str = ""
    url: str = ""


def check_held_out(fraction: float) -> None:
    """Check the share of documents that is held out.

    Raises:
        UserError: it is below 0 or above 1.
    """
    if not 0 <= fraction <= 1:
        raise UserError(f"--held_out={fraction:g}: must be a share from 0 to 1, such as 0.02")


def exact_key(text: str) -> bytes:
    """Return the 16 bytes that two texts share only if they are equal, character for character."""
    return blake2b(text.encode(), digest_size=16).digest()


def is_held_out(text: str | bytes, fraction: float) -> bool:
    """Tell whether a document belongs to the held-out split.

    The hash of the text is read as a number evenly spread over [0, 1) and compared with `fraction`, so equal texts
    always fall on the same side, and what is held out at one fraction is held out at every larger one.

    Args:
        text: the document's text, or its UTF-8.
        fraction: the expected share of distinct documents that are held out, 0 to 1.
    """
    return spread_key(text) < _first_kept(fraction)


def spread_key(text: str | bytes) -> bytes:
    """8 bytes of a text that are evenly spread, by which documents are held out: those with the smallest."""
    return blake2b(text.encode() if isinstance(text, str) else text, digest_size=8).digest()


@lru_cache(maxsize=4)
def _first_kept(fraction: float) -> bytes:
    """The smallest digest that is not held out; big-endian, so that bytes compare as the numbers do."""
    number = math.ceil(fraction * 2.0**64)
    return max(number, 0).to_bytes(8, "big") if number < 1 << 64 else b"\xff" * 9
