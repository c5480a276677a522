"""Documents, and the two decisions that depend on their text alone: is it a duplicate, is it held out.

Both hash the text, so neither depends on the order of documents, on their files or on the number of workers:

    text -> exact_key   -> kept, or dropped as a duplicate
    text -> is_held_out -> training or held-out split
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b

from babyllm.errors import UserError


@dataclass(frozen=True)
class Document:
    """One text with its domain and origin.

    Attributes:
        text: any valid Unicode string.
        domain: name under which the document is counted, mixed and evaluated.
        id: origin, such as "wiki/a.jsonl:1234"; unique within a corpus.
        url: address of the page it was taken from; empty if unknown.
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
    """Return a 16-byte hash that is the same for equal texts and differs for different ones (BLAKE2b)."""
    return blake2b(text.encode(), digest_size=16).digest()


def is_held_out(text: str | bytes, fraction: float) -> bool:
    """Whether a document belongs to the held-out split.

    The hash of the text is read as a number evenly spread over [0, 1) and compared with `fraction`. Equal texts are
    therefore always in the same split, and a text held out at one fraction is held out at every larger one.

    Args:
        text: text of the document, or its UTF-8 bytes.
        fraction: expected share of distinct documents that are held out, 0 to 1.
    """
    return spread_key(text) < _first_kept(fraction)


def spread_key(text: str | bytes) -> bytes:
    """An 8-byte hash of a text (str, or UTF-8 bytes), evenly spread; documents with the smallest are held out."""
    return blake2b(text.encode() if isinstance(text, str) else text, digest_size=8).digest()


def held_out_flags(texts: Sequence[str], held_out: float) -> list[bool]:
    """Whether each of some texts is held out: a share of them or, as an integer, a number.

    Equal texts are in the same split, so those equal to the last of a number are held out as well.
    """
    if not isinstance(held_out, int):
        return [is_held_out(text, held_out) for text in texts]
    keys = [spread_key(text) for text in texts]
    last = sorted(keys)[:held_out][-1:]
    return [bool(last) and key <= last[0] for key in keys]


@lru_cache(maxsize=4)
def _first_kept(fraction: float) -> bytes:
    """The smallest hash that is not held out, big-endian, so that bytes compare like the numbers."""
    number = math.ceil(fraction * 2.0**64)
    return max(number, 0).to_bytes(8, "big") if number < 1 << 64 else b"\xff" * 9
