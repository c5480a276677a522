"""The kept records in Redis, where several processes and machines can add to them.

    n -> number of records      settings -> JSON      r<number> -> n, id, set of shingles of a record
    b<bucket> -> hash: rest of a key -> numbers of the newest records with that key, 4 bytes each

Redis stores a hash of few short fields without pointers, so an entry takes about ten bytes. A process looks its batch
up, compares, and stores what it keeps, with the entries as they will be, if no other process has added a record
meanwhile; otherwise it starts again. So of several processes that add near-duplicates one keeps its own. What survives
a loss of power is up to the settings of the server (`appendonly`, `appendfsync`).
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
local call, sub, char, bucket, keys = redis.call, string.sub, string.char, KEYS[1] .. 'b', ARGV[1]
local found, n = {}, 0
for i = 1, #keys, 5 do
  local numbers = call('HGET', bucket .. sub(keys, i, i + 2), sub(keys, i + 3, i + 4)) or ''
  found[n + 1] = char(#numbers / 4)
  found[n + 2] = numbers
  n = n + 2
end
return {call('GET', KEYS[1] .. 'n') or '0', table.concat(found)}
"""
_STORE = """
local call, sub, bucket, entries = redis.call, string.sub, KEYS[1] .. 'b', ARGV[2]
if (call('GET', KEYS[1] .. 'n') or '0') ~= ARGV[1] then return 0 end
local i = 1
while i < #entries do
  local stop = i + 5 + 4 * string.byte(entries, i + 5)
  call('HSET', bucket .. sub(entries, i, i + 2), sub(entries, i + 3, i + 4), sub(entries, i + 6, stop))
  i = stop + 1
end
local n = tonumber(ARGV[1])
for record = 3, #ARGV do
  call('SET', KEYS[1] .. 'r' .. struct.pack('<I4', n), ARGV[record])
  n = n + 1
end
call('SET', KEYS[1] .. 'n', string.format('%d', n))
return 1
"""
_PLACE_BYTES = 5  # of a key: three of its bucket and two of its rest
_HEAD = struct.Struct("<2I")  # n, bytes of the id
SCHEMES = ("redis", "rediss", "unix")


class _Found(NamedTuple):
    """What Redis knows of some texts.

    Attributes:
        n: number of records, as Redis has it.
        matches: match of each text.
        runs: numbers of the records that have each key of the text's own sketch, packed, by place.
    """

    n: bytes
    matches: list[Match | None]
    runs: list[dict[bytes, bytes]]


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
                entries = _entries(int(found.n), [found.runs[i] for i in new])
                contents = [_content(ids[i], sketches[i][0]) for i in new]
                if not new or self._store(keys=[self._prefix], args=[found.n, entries, *contents]):
                    return matches

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _find_all(self, sketches: Sequence[Sequence[Sketch]]) -> _Found:
        flat = [(text, sketch) for text, some in enumerate(sketches) for sketch in some]
        places = _places([sketch.keys for _, sketch in flat])
        n, answer = self._look_up(keys=[self._prefix], args=[b"".join(places)])
        runs = _runs(answer)
        n_tables = len(runs) // len(flat)
        of_sketch = [runs[i : i + n_tables] for i in range(0, len(runs), n_tables)]
        candidates = [most_shared(_shared(found)) for found in of_sketch]
        wanted = sorted({number for numbers in candidates for number in numbers})
        records = dict(zip(wanted, self._read(wanted), strict=True))
        best: list[Match | None] = [None] * len(sketches)
        own: list[dict[bytes, bytes]] = [{} for _ in sketches]
        for i, ((text, sketch), numbers) in enumerate(zip(flat, candidates, strict=True)):
            for number in numbers:
                id, shingles = records[number]
                best[text] = better(best[text], id, jaccard(sketch.shingles, shingles, self._threshold))
            if not own[text]:  # the first sketch of a text is its own
                own[text] = dict(zip(places[i * n_tables : (i + 1) * n_tables], of_sketch[i], strict=True))
        return _Found(n, [match if match and match.similarity >= self._threshold else None for match in best], own)

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


def _places(keys: Sequence[Sequence[int]]) -> list[bytes]:
    """The bucket and the rest of each key of some sketches, one after the other."""
    parts = np.array(keys, ">u4").reshape(-1, 1).view(np.uint8)
    places = np.empty((len(parts), _PLACE_BYTES), np.uint8)
    places[:, :2], places[:, 2], places[:, 3], places[:, 4] = (
        parts[:, :2],
        parts[:, 2] & 224,
        parts[:, 2] & 31,
        parts[:, 3],
    )
    packed = places.tobytes()
    return [packed[i : i + _PLACE_BYTES] for i in range(0, len(packed), _PLACE_BYTES)]


def _runs(answer: bytes) -> list[bytes]:
    """The numbers of the records of each key, from the answer of `_FIND`, where a byte before them counts them."""
    runs, position = [], 0
    while position < len(answer):
        end = position + 1 + 4 * answer[position]
        runs.append(answer[position + 1 : end])
        position = end
    return runs


def _shared(runs: Sequence[bytes]) -> Counter[int]:
    """The number of keys that each record shares."""
    numbers = b"".join(runs)
    return Counter(struct.unpack(f"<{len(numbers) // 4}I", numbers))


def _entries(n: int, records: Sequence[dict[bytes, bytes]]) -> bytes:
    """What `_STORE` writes: for each key its place, a byte that counts the numbers, and the numbers, the newest first.

    Args:
        n: number of the first of the records.
        records: numbers that each record's keys have had so far, by place.
    """
    entries: dict[bytes, bytes] = {}
    for number, runs in enumerate(records, n):
        newest = struct.pack("<I", number)
        for place, older in runs.items():
            entries[place] = (newest + entries.get(place, older))[: 4 * CHAIN]
    return b"".join(b"%b%c%b" % (place, len(numbers) // 4, numbers) for place, numbers in entries.items())


def _content(id: str, sketch: Sketch) -> bytes:
    name = id.encode("utf-8", "surrogatepass")
    return _HEAD.pack(sketch.n, len(name)) + name + sketch.shingles.astype("<u4").tobytes()
