"""What deduplication is compared with: loops around other libraries, each from texts to one flag per document.

datasketch   the plain loop: normalise, one `MinHash.update` per shingle, query, insert; flags come from the queries
rensa        its fastest way: shingles of the texts as they are, one matrix of signatures that stays in Rust, flags in
             one call

Both say of each document whether another (datasketch: an earlier one) looks alike. Neither compares the texts
themselves, so chance matches stay, and neither makes clusters or writes a corpus. datatrove is left out: its shingles
are words, by a tokenizer for each language, so it does other work.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

from babyllm.text.dedup.normal import normal_form

THRESHOLD, N, PERMUTATIONS = 0.85, 5, 256
# Bands of rensa's index; of 16 rows each, which finds pairs from about 0.84 on.
BANDS = 16


class Loop(NamedTuple):
    """What a peer took, in seconds by the clock and of the processor, for so many documents; and its flags."""

    wall_s: float
    cpu_s: float
    n_documents: int
    n_flagged: int


def measure(name: str, parquet: Path, n_documents: int) -> Loop:
    """Run a peer on the first documents of a file with a column `text`, in a process of its own."""
    n_documents = min(n_documents, ENOUGH.get(name, n_documents))
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(_timed, name, parquet, n_documents).result()


def _timed(name: str, parquet: Path, n_documents: int) -> Loop:
    import pyarrow.parquet as pq

    texts: list[str] = pq.read_table(parquet, columns=["text"])["text"][:n_documents].to_pylist()
    wall, cpu = time.perf_counter(), time.process_time()
    n_flagged = PEERS[name](texts)
    return Loop(time.perf_counter() - wall, time.process_time() - cpu, len(texts), n_flagged)


def _shingles(text: str) -> list[str]:
    return [text[i : i + N] for i in range(len(text) - N + 1)]


def _datasketch(texts: list[str]) -> int:
    from datasketch import MinHash, MinHashLSH

    lsh, n_flagged = MinHashLSH(threshold=THRESHOLD, num_perm=PERMUTATIONS), 0
    for number, text in enumerate(texts):
        minhash = MinHash(num_perm=PERMUTATIONS)
        for shingle in _shingles(normal_form(text)):
            minhash.update(shingle.encode())
        n_flagged += bool(lsh.query(minhash))
        lsh.insert(number, minhash)
    return n_flagged


def _rensa(texts: list[str]) -> int:
    from rensa import RMinHash, RMinHashLSH

    matrix = RMinHash.digest_matrix_from_token_sets([_shingles(text) for text in texts], PERMUTATIONS, 1)
    lsh = RMinHashLSH(THRESHOLD, PERMUTATIONS, BANDS)
    return sum(lsh.query_duplicate_flags_matrix_one_shot(matrix))


PEERS: dict[str, Callable[[list[str]], int]] = {"datasketch": _datasketch, "rensa": _rensa}
# More documents would take minutes and not change the rate.
ENOUGH = {"datasketch": 20_000}


def installed() -> Iterator[str]:
    """Names of the peers that can be imported here."""
    return (name for name in PEERS if find_spec(name))
