"""Pages of keys and values of texts that were read: which page holds which tokens after which others.

A tree: each page holds up to `PAGE` tokens that follow those of its parent, so texts share the pages of their common
beginning. A page never changes. Keys are the token ids themselves, so two texts are never confused. Keys and values
depend on the tokens before them only. So the first tokens of a page serve a text that goes on differently after them.

    root -> [2 17 9 ... 5] -> [8 8 1 ... 4] -> [7 3]         one conversation
                           -> [6 2 9 ... 9]                  another one with the same first page

This module handles numbers of pages; `Decoder` holds their contents.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

PAGE = 16
"""Number of tokens of a full page."""
_Key = tuple[int, ...]


class Prefix(NamedTuple):
    """The beginning of a text whose keys and values are in pages.

    Attributes:
        n: its length in tokens.
        pages: its pages in order; of the last one, only the first tokens may belong to it.
    """

    n: int
    pages: list[int]


class Unsaved(NamedTuple):
    """Tokens of a text that have pages reserved for their keys and values.

    Attributes:
        begin: index of the first of these tokens, a multiple of `PAGE`.
        end: index after the last one.
        pages: numbers of the reserved pages, in order.
    """

    begin: int
    end: int
    pages: list[int]


@dataclass(eq=False)
class _Node:
    """A page: its tokens `key`, and the pages that follow it, with their keys in order."""

    key: _Key
    page: int
    parent: _Node | None
    keys: list[_Key] = field(default_factory=list)
    following: dict[_Key, _Node] = field(default_factory=dict)

    def nearest(self, key: _Key) -> tuple[_Node | None, int]:
        """The following page with the longest common beginning with `key`, and its length in tokens."""
        i = bisect_left(self.keys, key)
        # In sorted order, the keys with the longest common beginning are neighbours.
        lengths = [(n_common(other, key), other) for other in self.keys[max(0, i - 1) : i + 1]]
        n, other = max(lengths, default=(0, ()))
        return (self.following[other], n) if n else (None, 0)


class PrefixCache:
    """A tree of at most `n_pages` pages; the least recently used ones make room for new ones.

    Attributes:
        n_pages: largest number of pages.
    """

    def __init__(self, n_pages: int) -> None:
        """Make an empty tree; 0 pages keep nothing."""
        self.n_pages = n_pages
        self._root = _Node((), -1, None)
        self._free = list(range(n_pages - 1, -1, -1))
        # Each page comes before its parent, so the first one is never needed to reach another.
        self._least_recent: OrderedDict[_Node, None] = OrderedDict()

    def __len__(self) -> int:
        """Number of pages in use."""
        return self.n_pages - len(self._free)

    def find(self, ids: Sequence[int]) -> Prefix:
        """The longest beginning of a text that is in pages."""
        path, n = self._path(ids)
        rest, n_more = path[-1].nearest(_key(ids, n))
        nodes = path[1:] + ([rest] if rest else [])
        self._touch(nodes)
        return Prefix(n + n_more, [node.page for node in nodes])

    def reserve(self, ids: Sequence[int]) -> Unsaved | None:
        """Enter a text that was read; the caller must save its tokens in the returned pages, or None if it has them.

        If there are fewer pages than needed, only a beginning of the text is entered.
        """
        path, begin = self._path(ids)
        self._touch(path[1:])
        key = _key(ids, begin)
        near, n_same = path[-1].nearest(key)
        if n_same == len(key):
            return None  # also if nothing is left
        if near and n_same == len(near.key):
            self._remove(near)  # a page that is not full; the new one holds its tokens as well
        n_wanted = -(-(len(ids) - begin) // PAGE)
        self._make_free(n_wanted, path[-1])
        pages = [self._free.pop() for _ in range(min(n_wanted, len(self._free)))]
        if not pages:
            return None
        for i, page in enumerate(pages):
            path.append(self._added(path[-1], _key(ids, begin + i * PAGE), page))
        self._touch(path[1:])
        return Unsaved(begin, min(len(ids), begin + len(pages) * PAGE), pages)

    def _path(self, ids: Sequence[int]) -> tuple[list[_Node], int]:
        """The root and the full pages that a text begins with, and their number of tokens."""
        path, n = [self._root], 0
        while len(ids) - n >= PAGE and (node := path[-1].following.get(_key(ids, n))):
            path.append(node)
            n += PAGE
        return path, n

    def _touch(self, nodes: Sequence[_Node]) -> None:
        """Make pages the most recent ones; each follows the one before it."""
        for node in reversed(nodes):
            self._least_recent.move_to_end(node)

    def _make_free(self, n: int, last: _Node) -> None:
        """Free pages until `n` are free, if possible; `last` and the pages before it stay."""
        while len(self._free) < n and self._least_recent:
            oldest = next(iter(self._least_recent))
            if oldest is last:  # the path was touched, so nothing else is left
                return
            self._remove(oldest)

    def _added(self, parent: _Node, key: _Key, page: int) -> _Node:
        node = _Node(key, page, parent)
        insort(parent.keys, key)
        parent.following[key] = node
        self._least_recent[node] = None
        return node

    def _remove(self, node: _Node) -> None:
        assert node.parent is not None and not node.following
        del node.parent.following[node.key]
        del node.parent.keys[bisect_left(node.parent.keys, node.key)]
        del self._least_recent[node]
        self._free.append(node.page)


def _key(ids: Sequence[int], begin: int) -> _Key:
    return tuple(ids[begin : begin + PAGE])


def n_common(one: Sequence[int], other: Sequence[int]) -> int:
    """Length of the common beginning of two texts, in tokens."""
    n = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        n += 1
    return n
