"""The kept records in Redis, where several processes and machines can add to them.

    n -> number of records      settings -> JSON      r<number> -> n, id, set of shingles of a record
    b<bucket> -> entries, the newest first: rest of a key (2 bytes) and number of a record that has it (4 bytes)

A command costs Redis about as much as the reading of fifty keys by one, so a script reads or writes a thousand buckets
by a command, and a bucket holds the entries of several keys. A process looks the buckets of its batch up, compares, and
stores the records it keeps and their buckets as they will be, if no other process has added a record meanwhile;
otherwise it starts again. So of several processes that add near-duplicates one keeps its own. What survives a loss of
power is up to the settings of the server (`appendonly`, `appendfsync`).
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
local sub, pack, bucket, keys = string.sub, struct.pack, KEYS[1] .. 'b', ARGV[1]
local found, n = {}, 0
for start = 1, #keys, 3000 do
  local names = {}
  for i = start, math.min(start + 3000, #keys + 1) - 1, 3 do
    names[(i - start) / 3 + 1] = bucket .. sub(keys, i, i + 2)
  end
  for _, entries in ipairs(redis.call('MGET', unpack(names))) do
    entries = entries or ''
    found[n + 1] = pack('<I4', #entries)
    found[n + 2] = entries
    n = n + 2
  end
end
return {redis.call('GET', KEYS[1] .. 'n') or '0', table.concat(found)}
"""
_STORE = """
local sub, unpacked, bucket, stored = string.sub, struct.unpack, KEYS[1] .. 'b', ARGV[2]
if (redis.call('GET', KEYS[1] .. 'n') or '0') ~= ARGV[1] then return 0 end
local values, n = {}, 0
local function put(name, value)
  values[n + 1], values[n + 2] = name, value
  n = n + 2
  if n == 2000 then
    redis.call('MSET', unpack(values, 1, n))
    n = 0
  end
end
local i = 1
while i <= #stored do
  local size = unpacked('<I4', stored, i + 3)
  put(bucket .. sub(stored, i, i + 2), sub(stored, i + 7, i + 6 + size))
  i = i + 7 + size
end
local number = tonumber(ARGV[1])
for record = 3, #ARGV do
  put(KEYS[1] .. 'r' .. struct.pack('<I4', number), ARGV[record])
  number = number + 1
end
put(KEYS[1] .. 'n', string.format('%d', number))
if n > 0 then redis.call('MSET', unpack(values, 1, n)) end
return 1
"""
_ENTRY = np.dtype([("rest", "<u2"), ("number", "<u4")])
_REST_BITS = 12  # of the 32 of a key; the upper ones are its bucket
_REST = (1 << _REST_BITS) - 1
_HEAD = struct.Struct("<2I")  # n, bytes of the id
SCHEMES = ("redis", "rediss", "unix")


class _Found(NamedTuple):
    """What Redis knows of some texts.

    Attributes:
        n: number of records, as Redis has it.
        matches: match of each text.
        buckets: entries of the buckets of the texts' keys, by name.
    """

    n: bytes
    matches: list[Match | None]
    buckets: dict[bytes, bytes]


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
            self._client = redis.Redis.from_url(address)
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
                entries = _changed(found, [sketches[i][0].keys for i in new])
                contents = [_content(ids[i], sketches[i][0]) for i in new]
                if not new or self._store(keys=[self._prefix], args=[found.n, entries, *contents]):
                    return matches

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _find_all(self, sketches: Sequence[Sequence[Sketch]]) -> _Found:
        flat = [(text, sketch) for text, some in enumerate(sketches) for sketch in some]
        keys = np.array([sketch.keys for _, sketch in flat], np.uint32)
        names = (keys.ravel() >> _REST_BITS).astype(">u4").view(np.uint8).reshape(-1, 4)[:, 1:].tobytes()
        n, answer = self._look_up(keys=[self._prefix], args=[names])
        values = _values(answer)
        candidates = [most_shared(shared) for shared in _shared(keys, values)]
        wanted = sorted({number for numbers in candidates for number in numbers})
        records = dict(zip(wanted, self._read(wanted), strict=True))
        best: list[Match | None] = [None] * len(sketches)
        for (text, sketch), numbers in zip(flat, candidates, strict=True):
            for number in numbers:
                id, shingles = records[number]
                best[text] = better(best[text], id, jaccard(sketch.shingles, shingles, self._threshold))
        matches = [match if match and match.similarity >= self._threshold else None for match in best]
        return _Found(n, matches, dict(zip((names[i : i + 3] for i in range(0, len(names), 3)), values, strict=True)))

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


def _values(answer: bytes) -> list[bytes]:
    """The entries of each bucket, from the answer of `_FIND`, where 4 bytes before them tell their length."""
    values, position = [], 0
    while position < len(answer):
        start = position + 4
        position = start + int.from_bytes(answer[position:start], "little")
        values.append(answer[start:position])
    return values


def _shared(keys: NDArray[np.uint32], values: Sequence[bytes]) -> list[Counter[int]]:
    """The number of keys that each record shares with each sketch.

    Args:
        keys: (sketches, tables) keys.
        values: entries of the bucket of each key, in the same order.
    """
    entries = np.frombuffer(b"".join(values), _ENTRY)
    owner = np.repeat(np.arange(keys.size), [len(value) // _ENTRY.itemsize for value in values])
    is_shared = entries["rest"] == (keys.ravel() & _REST)[owner]
    shared: list[Counter[int]] = [Counter() for _ in keys]
    sketch = owner[is_shared] // keys.shape[1]
    for i, number in zip(sketch.tolist(), entries["number"][is_shared].tolist(), strict=True):
        shared[i][number] += 1
    return shared


def _changed(found: _Found, records: Sequence[Sequence[int]]) -> bytes:
    """The buckets that change with further records, whose keys these are, for `_STORE`: name, length, entries."""
    changed: dict[bytes, bytes] = {}
    for number, keys in enumerate(records, int(found.n)):
        newest = struct.pack("<I", number)
        for key in keys:
            bucket, rest = (key >> _REST_BITS).to_bytes(3, "big"), (key & _REST).to_bytes(2, "little")
            older = changed[bucket] if bucket in changed else found.buckets[bucket]
            changed[bucket] = _newest(rest + newest + older)
    return b"".join(b"%b%b%b" % (name, struct.pack("<I", len(value)), value) for name, value in changed.items())


def _newest(value: bytes) -> bytes:
    """The entries of a bucket without the oldest of the first one's key, if there are more than `CHAIN` of this key."""
    size, rest = _ENTRY.itemsize, value[:2]
    if len(value) <= CHAIN * size:
        return value
    same = [i for i in range(0, len(value), size) if value[i : i + 2] == rest]
    return value if len(same) <= CHAIN else value[: same[-1]] + value[same[-1] + size :]


def _content(id: str, sketch: Sketch) -> bytes:
    name = id.encode("utf-8", "surrogatepass")
    return _HEAD.pack(sketch.n, len(name)) + name + sketch.shingles.astype("<u4").tobytes()
