"""The kept records in Redis, where several processes and machines can add to them.

    n -> number of records      settings -> JSON      r<number> -> n, id, set of shingles of a record
    b<bucket> -> hash: rest of a key -> numbers of the newest records with that key, 4 bytes each

Redis stores a hash of few short fields without pointers, so an entry takes about ten bytes. A process looks its batch
up, compares, and stores what it keeps if no other process has added a record meanwhile; otherwise it starts again. So
of several processes that add near-duplicates one keeps its own. What survives a loss of power is up to the settings of
the server (`appendonly`, `appendfsync`).
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from babyllm.errors import UserError, in_one_line
from babyllm.ragged import Ragged, offsets_of
from babyllm.text.dedup.online.band_table import CHAIN
from babyllm.text.dedup.online.kept import Match, Records, best_of, most_shared
from babyllm.text.dedup.online.sketches import Sketches

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

    def __init__(self, url: str, settings: dict[str, Any], threshold: float) -> None:
        try:
            import redis
        except ImportError as error:
            raise UserError("records in Redis need the package redis: pip install redis") from error
        address, _, name = url.partition("#")
        parts = urlsplit(address)
        self._shown = f"{parts.scheme}://{parts.hostname or ''}{parts.path}"  # without a password
        self._threshold, self._errors = threshold, redis.RedisError
        self._prefix = f"babyllm:{name or 'online'}:".encode()
        with self._reported():
            self._client = redis.Redis.from_url(address)
            self._find, self._store = (self._client.register_script(script) for script in (_FIND, _STORE))
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

    def best(self, sketches: Sketches, n_texts: int) -> list[Match | None]:
        """The most similar kept record of each text, None where no kept one reaches the threshold."""
        with self._reported():
            return self._best(sketches, n_texts)[1]

    def update(self, sketches: Sketches, n_texts: int, choose: Callable[[list[Match | None]], Records]) -> None:
        """Look texts up, and store the records that `choose` makes of the matches; they are on the server afterwards.

        `choose` is called again if another process has added records meanwhile.
        """
        with self._reported():
            while True:
                n, matches = self._best(sketches, n_texts)
                records = choose(matches)
                if not len(records.n):
                    return
                arguments = [n]
                for i, (name, tokens, keys) in enumerate(zip(records.ids, records.n, records.keys, strict=True)):
                    values = records.sets.values[records.sets.offsets[i] : records.sets.offsets[i + 1]]
                    record = _HEAD.pack(tokens, len(name)) + name + values.astype("<u4").tobytes()
                    arguments += [keys.astype(">u4").tobytes(), record]
                if self._store(keys=[self._prefix], args=arguments):
                    return

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _best(self, sketches: Sketches, n_texts: int) -> tuple[bytes, list[Match | None]]:
        """The number of records, as Redis has it, and the matches among them."""
        n, answer = self._find(keys=[self._prefix], args=[sketches.keys.astype(">u4").tobytes()])
        row, number = most_shared(*_candidates(answer, sketches.keys.shape[1]), int(n))
        if not len(row):
            return n, [None] * n_texts
        wanted, place = np.unique(number, return_inverse=True)
        stored = self._client.mget([self._prefix + b"r" + struct.pack("<I", one) for one in wanted.tolist()])
        ids, sets = [], []
        for content in stored:
            length = _HEAD.size + _HEAD.unpack_from(content)[1]
            ids.append(content[_HEAD.size : length])
            sets.append(np.frombuffer(content[length:], "<u4"))
        others = Ragged(np.concatenate(sets).astype(np.uint32), offsets_of(np.array([len(one) for one in sets])))
        return n, best_of(sketches, row, place.reshape(-1), others, lambda i: ids[i], self._threshold, n_texts)

    @contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            yield
        except (self._errors, ValueError) as error:
            raise UserError(f"{self._shown}: Redis answers: {in_one_line(error)}") from error


def _candidates(answer: bytes, n_tables: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows and numbers from the answer of `_FIND`: for each key a byte that counts its numbers, and these."""
    rows, numbers, position, key = [np.empty(0, np.int64)], [np.empty(0, np.int64)], 0, 0
    while position < len(answer):
        if n := answer[position]:
            rows.append(np.full(n, key // n_tables))
            numbers.append(np.frombuffer(answer, "<u4", n, position + 1).astype(np.int64))
        position, key = position + 1 + 4 * n, key + 1
    return np.concatenate(rows), np.concatenate(numbers)
