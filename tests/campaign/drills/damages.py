"""Damaged files: one place of a copy is damaged; what reads it must say so in one line, or do as if it were whole.

material -> copy -> bit flip, truncation, zeroed page, deletion, folder or unreadable file -> reading -> compare
"""

from __future__ import annotations

import random
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from tests.campaign.bench import Bench, Ended
from tests.campaign.faults import BrokenPromise, Outcome
from tests.campaign.materials import material
from tests.campaign.readings import READINGS, Reading

PAGE = 4096
_LOCK = threading.Lock()
_EXPECTED: dict[tuple[Path, str], dict[str, bytes]] = {}


def flip(file: Path, rng: random.Random) -> str:
    """Flip a bit; returns which."""
    content = bytearray(file.read_bytes())
    at, bit = rng.randrange(len(content)), rng.randrange(8)
    content[at] ^= 1 << bit
    file.write_bytes(content)
    return f"bit {bit} of byte {at} of {len(content)} flipped"


def truncate(file: Path, rng: random.Random) -> str:
    """Cut off the end, or all there is."""
    size = file.stat().st_size
    left = rng.choice((0, rng.randrange(size)))
    file.write_bytes(file.read_bytes()[:left])
    return f"cut from {size} to {left} bytes"


def zero_page(file: Path, rng: random.Random) -> str:
    """Fill a page with zeros, as a disk does that lost it."""
    content = bytearray(file.read_bytes())
    begin = rng.randrange(0, len(content), PAGE)
    end = min(begin + PAGE, len(content))
    content[begin:end] = bytes(end - begin)
    file.write_bytes(content)
    return f"bytes {begin} to {end} of {len(content)} zeroed"


def delete(file: Path, rng: random.Random) -> str:
    """Delete it."""
    file.unlink()
    return "deleted"


def make_folder(file: Path, rng: random.Random) -> str:
    """Put a folder in its place."""
    file.unlink()
    file.mkdir()
    return "replaced by a folder"


def make_unreadable(file: Path, rng: random.Random) -> str:
    """Put something in its place that not even root can open."""
    file.unlink()
    file.symlink_to(file.name)
    return "replaced by a link to itself"


DAMAGES: dict[Callable[[Path, random.Random], str], int] = {
    flip: 9,
    truncate: 3,
    zero_page: 3,
    delete: 2,
    make_folder: 1,
    make_unreadable: 1,
}


def damage(rng: random.Random, bench: Bench) -> Outcome:
    """Damage a file and have it read."""
    name = rng.choice(sorted(READINGS))
    reading = READINGS[name]
    expected = _expected(name, reading, bench)
    at = _copied(reading, bench)
    files = sorted(file for file in at.glob(rng.choice(reading.files)) if file.is_file() and file.stat().st_size)
    file, how = rng.choice(files), rng.choices(list(DAMAGES), list(DAMAGES.values()))[0]
    what = f"{name}, {file.relative_to(bench.folder)} {how(file, rng)}"
    ended = reading.run(bench)
    try:
        ended.check()
        return Outcome(_verdict(reading, bench, file, ended, expected), what)
    except BrokenPromise as broken:
        raise BrokenPromise(f"{what}: {broken}") from broken


def _verdict(
    reading: Reading, bench: Bench, file: Path, ended: Ended, expected: dict[str, bytes]
) -> Literal["detected", "harmless"]:
    if ended.statuses == [0]:
        found = reading.result(bench, ended)
        changed = [name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)]
        if changed and not reading.is_raw:
            raise BrokenPromise(f"changes {sorted(changed)} in silence: {ended.tail}")
        return "harmless"
    if ended.statuses != [1] or not ended.errors:
        raise BrokenPromise(f"ends with status {ended.statuses} and {ended.errors}: {ended.tail}")
    if not any(part in ended.errors[0] for part in (file.name, str(file.parent.relative_to(bench.folder)))):
        raise BrokenPromise(f"the line does not lead to the file: {ended.errors[0]}")
    return "detected"


def _expected(name: str, reading: Reading, bench: Bench) -> dict[str, bytes]:
    """The result of the undamaged folder, found once."""
    with _LOCK:
        if (bench.root, name) not in _EXPECTED:
            _copied(reading, bench)
            ended = reading.run(bench)
            ended.check()
            result = reading.result(bench, ended)
            if ended.statuses != [0] or not result:
                raise RuntimeError(f"{name}, undamaged: ends with status {ended.statuses}: {ended.tail}")
            _EXPECTED[bench.root, name] = result
            bench.clear()
        return _EXPECTED[bench.root, name]


def _copied(reading: Reading, bench: Bench) -> Path:
    at = bench.folder / "at"
    shutil.copytree(material(bench, reading.material), at)
    return at
