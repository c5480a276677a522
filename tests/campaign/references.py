"""What jobs that nobody disturbed have left: run once each, and compared with what disturbed ones left."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.campaign.bench import Bench
from tests.campaign.faults import BrokenPromise

_LOCK = threading.RLock()
_PLACED = ("adapter_config.json", "resume.json")


@dataclass(frozen=True)
class Reference:
    """What a job left, and how long it took."""

    folder: Path
    seconds: float


def reference(bench: Bench, name: str, run: Callable[[], object]) -> Reference:
    """What `run` leaves in the scratch folder of the bench, which is empty before and after; it runs once.

    Raises:
        RuntimeError: it does not end well.
    """
    folder = bench.root / "references" / name
    took = folder.with_name(f"{name}.seconds")
    with _LOCK:
        if not took.exists():
            folder.parent.mkdir(exist_ok=True)
            began = time.monotonic()
            try:
                run()
            except BrokenPromise as broken:
                raise RuntimeError(f"{name}, undisturbed: {broken}") from broken
            seconds = time.monotonic() - began
            shutil.copytree(bench.folder, folder, symlinks=True)
            took.write_text(str(seconds))
            bench.clear()
    return Reference(folder, float(took.read_text()))


def compare(mine: Path, theirs: Path) -> None:
    """Refuse files that are not those of the reference, byte for byte, but for the folder they lie in.

    Raises:
        BrokenPromise: names what is missing, too many or different.
    """
    ours, others = _files(mine), _files(theirs)
    if ours.keys() != others.keys():
        raise BrokenPromise(f"left other files than a run left alone: {sorted(ours.keys() ^ others.keys())}")
    if changed := sorted(name for name in ours if _content(ours[name]) != _content(others[name])):
        raise BrokenPromise(f"left other bytes than a run left alone: {changed}")


def _content(file: Path) -> object:
    """What a file holds, but for where its run lies: an adapter names the folder of its base."""
    if file.name not in _PLACED:
        return file.read_bytes()
    value = json.loads(file.read_bytes())
    value.pop("base_model_name_or_path", None)
    for name in _PLACED:
        value.get("sha256", {}).pop(name, None)
    return value


def _files(folder: Path) -> dict[str, Path]:
    """The files of a folder, but for what is remembered of their times."""
    found = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".verified.json")
    return {str(path.relative_to(folder)): path for path in found}
