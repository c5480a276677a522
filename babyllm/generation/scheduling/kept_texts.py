"""Keys and values of texts that were read: in pages, and in rows that no request uses any more.

A request copies what it can from pages to its row. The row of the last answer often holds the conversation still, since
a single client always gets the same row; then nothing is copied.
"""

from __future__ import annotations

from collections.abc import Sequence

from babyllm.generation.decoder import Decoder
from babyllm.generation.scheduling.prefix_cache import PAGE, Prefix, PrefixCache, n_common


class KeptTexts:
    """What need not be read again."""

    def __init__(self, decoder: Decoder, n_tokens: int) -> None:
        """Make room for pages of `n_tokens` tokens, rounded up to whole pages; 0 keeps nothing."""
        self._decoder, self._prefixes = decoder, PrefixCache(-(-n_tokens // PAGE))
        decoder.make_pages(self._prefixes.n_pages, PAGE)
        self._left: dict[int, Sequence[int]] = {}

    def n_found(self, prompt: Sequence[int]) -> int:
        """Number of tokens at the beginning of a prompt that are in pages."""
        return self._found(prompt).n

    def load(self, prompt: Sequence[int], row: int) -> int:
        """Copy what pages have of a prompt to a row, which is in use from now on; return its length in tokens."""
        found = self._found(prompt)
        n_there = n_common(self.take(row), prompt[: found.n]) // PAGE
        self._decoder.load_pages(row, found.pages[n_there:], n_there * PAGE, found.n)
        return found.n

    def save(self, row: int, ids: Sequence[int]) -> None:
        """Copy the text in a row to pages, as far as they lack it; its scores must have been numbers."""
        if unsaved := self._prefixes.reserve(ids):
            self._decoder.save_pages(row, *unsaved)

    def leave(self, row: int, ids: Sequence[int]) -> None:
        """Say that a row is not in use any more and still holds a text."""
        self._left[row] = ids

    def take(self, row: int) -> Sequence[int]:
        """Say that a row is in use; returns the text that it held."""
        return self._left.pop(row, ())

    def _found(self, prompt: Sequence[int]) -> Prefix:
        """What is in pages, except for the prompt's last token, which is always read for its logits."""
        return self._prefixes.find(prompt[:-1])
