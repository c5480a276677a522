"""The kept records in Redis, where several processes and machines can add to them.

    n -> number of records      settings -> JSON      r<number> -> n, id, set of shingles of a record
    b<bucket> -> entries, the newest first: rest of a key (2 bytes) and number of a record that has it (4 bytes)

A command within a script costs Redis more than a look-up, so one reads or writes a thousand buckets, and the scripts
do not touch their names. A process looks the buckets of its batch up, compares, and stores the records it keeps and
their buckets as they will be, if no other process has added a record meanwhile; otherwise it starts again. So of
several processes that add near-duplicates one keeps its own. What survives a loss of power is up to the settings of the
server (`appendonly`, `appendfsync`).
"""

from __future__ import annotations

import importlib
import json
import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from babyllm.errors import UserError, in_one_line
from babyllm.text.dedup.online.band_table import CHAIN
from babyllm.text.dedup.online.kept import Kept, Match, better, jaccard, most_shared
from babyllm.text.dedup.online.record_storage import keep_new
from babyllm.text.dedup.online.sketches import Sketch

_FIND = """
local found = {}
for start = 1, #ARGV, 1000 do
  local values = redis.call('MGET', unpack(ARGV, start, math.min(start + 999, #ARGV)))
  for i = 1, #values do
    values[i] = values[i] or ''
  end
  found[#found + 1] = table.concat(values, KEYS[2])
end
return {redis.call('GET', KEYS[1]) or '0', table.concat(found, KEYS[2])}
"""
_STORE = """
if (redis.call('GET', KEYS[1]) or '0') ~= ARGV[1] then return 0 end
for start = 2, #ARGV, 1000 do
  redis.call('MSET', unpack(ARGV, start, math.min(start + 999, #ARGV)))
end
return 1
"""
_END = b"\xff" * 6  # between the entries of two buckets; no key has this rest
_ENTRY = np.dtype([("rest", "<u2"), ("number", "<u4")])
_REST_BITS = 12  # of the 32 of a key; the upper ones are its bucket
_REST = (1 << _REST_BITS) - 1
_NOTHING = 0xFFFF  # rest of `_END`
_HEAD = struct.Struct("<2I")  # n, bytes of the id
SCHEMES = ("redis", "rediss", "unix")


class _Packer:
    """Makes commands of thousands of arguments for the package redis, about three times as fast as its own."""

    def pack(self, *arguments: Any) -> list[bytes]:
        """A command in the protocol of Redis; the first argument may have several words."""
        name, *others = arguments
        words = (name.encode() if isinstance(name, str) else name).split()
        parts = words + [part if isinstance(part, bytes) else str(part).encode() for part in others]
        return [b"*%d\r\n" % len(parts) + b"".join([b"$%d\r\n%b\r\n" % (len(part), part) for part in parts])]


class _Found(NamedTuple):
    """What Redis knows of some texts.

    Attributes:
        n: number of records, as Redis has it.
        matches: match of each text.
        buckets: entries of the buckets of the texts' keys, by name.
        names: bucket of each key of each text's own sketch.
    """

    n: bytes
    matches: list[Match | None]
    buckets: dict[bytes, bytes]
    names: list[list[bytes]]


class RedisRecords:
    """The records under one name in a Redis server.

    Args:
        url: address such as `redis://host:6379/0`; what follows a `#` is the name of these records.
        settings: settings that decide what is stored; those of existing records must be the same.
        threshold: least similarity of near-duplicates.

    Raises:
        UserError: the package redis is missing, the server does not answer, or the settings are others.
    """

    at_once = 64  # the server answers nobody else while it looks up or stores a batch, some 20 ms

    def __init__(self, url: str, settings: dict[str, Any], threshold: float) -> None:
        try:
            redis: Any = importlib.import_module("redis")
        except ImportError as error:
            raise UserError('records in Redis need the package redis: pip install "babyllm[redis]"') from error
        address, _, name = url.partition("#")
        parts = urlsplit(address)
        self._shown = f"{parts.scheme}://{parts.hostname or ''}{parts.path}"  # without a password
        self._threshold, self._errors = threshold, redis.RedisError
        self._prefix = f"babyllm:{name or 'online'}:".encode()
        with self._reported():
            self._client = redis.Redis.from_url(address, command_packer=_Packer())
            self._look_up, self._store = (self._client.register_script(script) for script in (_FIND, _STORE))
            self._client.set(self._prefix + b"settings", json.dumps(settings), nx=True)
            stored = json.loads(self._client.get(self._prefix + b"settings"))
        for key, value in settings.items():
            if stored.get(key) != value:
                raise UserError(
                    f"{self._shown}: {key} is {json.dumps(stored.get(key))} in the records and {json.dumps(value)} "
                    f"here; take the same, or another name after #"
                )

    def __len__(self) -> int:
        with self._reported():
            return int(self._client.get(self._prefix + b"n") or 0)

    def find(self, sketches: Sequence[Sketch]) -> Match | None:
        """The kept record that a text duplicates, from the text's sketches; None if there is none."""
        with self._reported():
            return self._find_all([sketches]).matches[0]

    def add(self, ids: Sequence[str], sketches: Sequence[Sequence[Sketch]]) -> list[Match | None]:
        """Keep each text in turn unless it duplicates one kept before, by whichever process."""
        with self._reported():
            while True:
                found = self._find_all(sketches)
                fresh = Kept(len(sketches[0][0].keys), self._threshold)
                matches, new = keep_new(fresh, ids, sketches, found.matches)
                if not new or self._store_all(found, [(ids[i], sketches[i][0], found.names[i]) for i in new]):
                    return matches

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _find_all(self, sketches: Sequence[Sequence[Sketch]]) -> _Found:
        flat = [(text, sketch) for text, some in enumerate(sketches) for sketch in some]
        keys = np.array([sketch.keys for _, sketch in flat], np.uint32)
        names = self._names(keys)
        n, answer = self._look_up(keys=[self._prefix + b"n", _END], args=names)
        candidates = [most_shared(shared) for shared in _shared(keys, answer)]
        wanted = sorted({number for numbers in candidates for number in numbers})
        records = dict(zip(wanted, self._read(wanted), strict=True))
        best: list[Match | None] = [None] * len(sketches)
        for (text, sketch), numbers in zip(flat, candidates, strict=True):
            for number in numbers:
                id, shingles = records[number]
                best[text] = better(best[text], id, jaccard(sketch.shingles, shingles, self._threshold))
        matches = [match if match and match.similarity >= self._threshold else None for match in best]
        own = np.cumsum([0, *map(len, sketches[:-1])]).tolist()  # the first sketch of a text is its own
        of_sketch = [names[i : i + keys.shape[1]] for i in range(0, len(names), keys.shape[1])]
        buckets = dict(zip(names, _values(answer), strict=True))
        return _Found(n, matches, buckets, [of_sketch[i] for i in own])

    def _store_all(self, found: _Found, records: Sequence[tuple[str, Sketch, list[bytes]]]) -> bool:
        """Store records with the entries of their keys, unless another process has added a record; whether it did."""
        values: dict[bytes, bytes] = {}
        for number, (id, sketch, names) in enumerate(records, int(found.n)):
            newest = struct.pack("<I", number)
            for key, name in zip(sketch.keys, names, strict=True):
                older = values[name] if name in values else found.buckets[name]
                entries = (key & _REST).to_bytes(2, "little") + newest + older
                values[name] = entries if len(older) < CHAIN * _ENTRY.itemsize else _newest(entries)
            values[self._prefix + b"r" + newest] = _content(id, sketch)
        values[self._prefix + b"n"] = b"%d" % (int(found.n) + len(records))
        pairs = [part for pair in values.items() for part in pair]
        return bool(self._store(keys=[self._prefix + b"n"], args=[found.n, *pairs]))

    def _names(self, keys: NDArray[np.uint32]) -> list[bytes]:
        """The bucket of each key, in order."""
        start = np.frombuffer(self._prefix + b"b", np.uint8)
        names = np.empty((keys.size, len(start) + 3), np.uint8)
        names[:, : len(start)] = start
        names[:, len(start) :] = (keys.ravel() >> _REST_BITS).astype(">u4").view(np.uint8).reshape(-1, 4)[:, 1:]
        joined, size = names.tobytes(), names.shape[1]
        return [joined[i : i + size] for i in range(0, len(joined), size)]

    def _read(self, numbers: Sequence[int]) -> Iterator[tuple[str, NDArray[np.uint32]]]:
        """The id and the set of each record."""
        if not numbers:
            return
        for content in self._client.mget([self._prefix + b"r" + struct.pack("<I", number) for number in numbers]):
            end = _HEAD.size + _HEAD.unpack_from(content)[1]
            id = content[_HEAD.size : end].decode("utf-8", "surrogatepass")
            yield id, np.frombuffer(content[end:], "<u4").astype(np.uint32)

    @contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            yield
        except (self._errors, ValueError) as error:
            raise UserError(f"{self._shown}: Redis answers: {in_one_line(error)}") from error


def _shared(keys: NDArray[np.uint32], answer: bytes) -> list[Counter[int]]:
    """The number of keys that each record shares with each sketch.

    Args:
        keys: (sketches, tables) keys.
        answer: entries of the buckets of the keys, in the same order, with `_END` between two buckets.
    """
    entries = np.frombuffer(answer, _ENTRY)
    owner = np.cumsum(entries["rest"] == _NOTHING)
    is_shared = entries["rest"] == (keys.ravel() & _REST)[owner]
    shared: list[Counter[int]] = [Counter() for _ in keys]
    sketch = owner[is_shared] // keys.shape[1]
    for i, number in zip(sketch.tolist(), entries["number"][is_shared].tolist(), strict=True):
        shared[i][number] += 1
    return shared


def _values(answer: bytes) -> list[bytes]:
    """The entries of each bucket."""
    size = _ENTRY.itemsize
    ends = (np.flatnonzero(np.frombuffer(answer, _ENTRY)["rest"] == _NOTHING) * size).tolist()
    starts = [0, *(end + size for end in ends)]
    return [answer[start:end] for start, end in zip(starts, [*ends, len(answer)], strict=True)]


def _newest(value: bytes) -> bytes:
    """The entries of a bucket without the oldest of the first one's key, if there are more than `CHAIN` of this key."""
    size, rest = _ENTRY.itemsize, value[:2]
    same = [i for i in range(0, len(value), size) if value[i : i + 2] == rest]
    return value if len(same) <= CHAIN else value[: same[-1]] + value[same[-1] + size :]


def _content(id: str, sketch: Sketch) -> bytes:
    name = id.encode("utf-8", "surrogatepass")
    return _HEAD.pack(sketch.n, len(name)) + name + sketch.shingles.astype("<u4").tobytes()
