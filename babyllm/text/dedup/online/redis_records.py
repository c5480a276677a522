"""The kept records in Redis, where several processes and machines can add to them.

    n -> number of records      settings -> JSON      r<number> -> n, id, set of shingles of a record
    b<bucket> -> hash: rest of a key -> numbers of the newest records with that key, 4 bytes each

Redis stores a hash of few short fields without pointers, so an entry takes about ten bytes. A process looks its batch
up, compares, and stores what it keeps if no other process has added a record meanwhile; otherwise it starts again. So
of several processes that add near-duplicates one keeps its own. What survives a loss of power is up to the settings of
the server (`appendonly`, `appendfsync`).
"""

from __future__ import annotations

import importlib
import json
import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from babyllm.errors import UserError, in_one_line
from babyllm.text.dedup.online.band_table import CHAIN
from babyllm.text.dedup.online.kept import Kept, Match, better, jaccard, most_shared
from babyllm.text.dedup.online.record_storage import keep_new
from babyllm.text.dedup.online.sketches import Sketch

_SPLIT = """
local function place(keys, i)
  local c = string.byte(keys, i + 2)
  local rest = c % 32
  return KEYS[1] .. 'b' .. string.sub(keys, i, i + 1) .. string.char(c - rest),
    string.char(rest) .. string.sub(keys, i + 3, i + 3)
end
"""
_FIND = f"""{_SPLIT}
local found = {{}}
for i = 1, #ARGV[1], 4 do
  local numbers = redis.call('HGET', place(ARGV[1], i)) or ''
  found[#found + 1] = string.char(#numbers / 4) .. numbers
end
return {{redis.call('GET', KEYS[1] .. 'n') or '0', table.concat(found)}}
"""
_STORE = f"""{_SPLIT}
if (redis.call('GET', KEYS[1] .. 'n') or '0') ~= ARGV[1] then return 0 end
local n = tonumber(ARGV[1])
for record = 2, #ARGV, 2 do
  local number, keys = struct.pack('<I4', n), ARGV[record]
  for i = 1, #keys, 4 do
    local bucket, field = place(keys, i)
    local older = redis.call('HGET', bucket, field) or ''
    redis.call('HSET', bucket, field, number .. string.sub(older, 1, {4 * (CHAIN - 1)}))
  end
  redis.call('SET', KEYS[1] .. 'r' .. number, ARGV[record + 1])
  n = n + 1
end
redis.call('SET', KEYS[1] .. 'n', string.format('%d', n))
return 1
"""
_HEAD = struct.Struct("<2I")  # n, bytes of the id
SCHEMES = ("redis", "rediss", "unix")


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
            return self._find_all([sketches])[1][0]

    def add(self, ids: Sequence[str], sketches: Sequence[Sequence[Sketch]]) -> list[Match | None]:
        """Keep each text in turn unless it duplicates one kept before, by whichever process."""
        with self._reported():
            while True:
                n, found = self._find_all(sketches)
                fresh = Kept(len(sketches[0][0].keys), self._threshold)
                matches, new = keep_new(fresh, ids, sketches, found)
                stored = [(ids[i], sketches[i][0]) for i in new]
                if not stored or self._store(keys=[self._prefix], args=[n, *_arguments(stored)]):
                    return matches

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _find_all(self, sketches: Sequence[Sequence[Sketch]]) -> tuple[bytes, list[Match | None]]:
        """The number of records, as Redis has it, and the match of each text among them."""
        flat = [(text, sketch) for text, some in enumerate(sketches) for sketch in some]
        n, answer = self._look_up(keys=[self._prefix], args=[b"".join(_packed(sketch.keys) for _, sketch in flat)])
        candidates = [most_shared(shared) for shared in _candidates(answer, len(flat))]
        wanted = sorted({number for numbers in candidates for number in numbers})
        records = dict(zip(wanted, self._read(wanted), strict=True))
        best: list[Match | None] = [None] * len(sketches)
        for (text, sketch), numbers in zip(flat, candidates, strict=True):
            for number in numbers:
                id, shingles = records[number]
                best[text] = better(best[text], id, jaccard(sketch.shingles, shingles, self._threshold))
        return n, [match if match and match.similarity >= self._threshold else None for match in best]

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


def _candidates(answer: bytes, n_sketches: int) -> list[Counter[int]]:
    """The number of keys that each record shares with each sketch, from the answer of `_FIND`.

    The answer has for each key a byte that counts its records, and their numbers.
    """
    runs, position = [], 0
    while position < len(answer):
        n = answer[position]
        runs.append(struct.unpack_from(f"<{n}I", answer, position + 1))
        position += 1 + 4 * n
    n_tables = len(runs) // n_sketches
    return [
        Counter(number for run in runs[i * n_tables : (i + 1) * n_tables] for number in run) for i in range(n_sketches)
    ]


def _arguments(records: Sequence[tuple[str, Sketch]]) -> Iterator[bytes]:
    """The keys and the contents of each record, for `_STORE`."""
    for id, sketch in records:
        name = id.encode("utf-8", "surrogatepass")
        yield _packed(sketch.keys)
        yield _HEAD.pack(sketch.n, len(name)) + name + sketch.shingles.astype("<u4").tobytes()


def _packed(keys: Sequence[int]) -> bytes:
    return struct.pack(f">{len(keys)}I", *keys)
