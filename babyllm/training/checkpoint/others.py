"""The files of a step that ranks other than 0 write, for a divided model: written beside training, and reported.

rank N   snapshot -> its files -> fsync -> sha256, or what went wrong -> posted
rank 0   waits for what each has posted -> resume.json, which has all checksums
"""

from __future__ import annotations

import errno
import json
import shutil
import time
from pathlib import Path

from babyllm.files import fsync, sha256
from babyllm.interop.weights import save_tensors
from babyllm.runtime import Runtime
from babyllm.training.checkpoint.snapshot import Snapshot

_WAIT_S = 0.05


def write_tensors(directory: Path, snapshot: Snapshot) -> None:
    """Write the files with tensors of a rank.

    Raises:
        OSError: the disk is full, or a file cannot be written.
    """
    if shutil.disk_usage(directory).free < snapshot.n_bytes:
        raise OSError(errno.ENOSPC, "not enough space for a checkpoint")
    for name, tensors in snapshot.tensors.items():
        (directory / name).parent.mkdir(exist_ok=True)
        save_tensors(tensors, directory / name, snapshot.metadata.get(name))


class Others:
    """One save of all ranks; every rank must make it, at the same point of the run.

    Args:
        runtime: ranks.
        directory: directory that the step is written into.
    """

    def __init__(self, runtime: Runtime, directory: Path) -> None:
        self._runtime, self._directory, self._key = runtime, directory, runtime.fresh_key("saved")

    def write(self, snapshot: Snapshot) -> None:
        """Write the files of this rank, which is not rank 0, and post their checksums; errors are rank 0's to raise."""
        try:
            write_tensors(self._directory, snapshot)
            for name in snapshot.tensors:
                fsync(self._directory / name)
            report: dict[str, object] = {"sha256": {n: sha256(self._directory / n) for n in snapshot.tensors}}
        except OSError as error:
            report = {"error": [error.errno, error.strerror or str(error), error.filename]}
        self._runtime.post(f"{self._key}/{self._runtime.rank}", json.dumps(report))

    def wait(self) -> dict[str, str]:
        """The checksums of the files of all other ranks, by name; it waits until they are written.

        Raises:
            OSError: a rank could not write its files.
        """
        found: dict[str, str] = {}
        for rank in range(1, self._runtime.world_size):
            while (text := self._runtime.posted(f"{self._key}/{rank}")) is None:
                time.sleep(_WAIT_S)
            report = json.loads(text)
            if "error" in report:
                raise OSError(*report["error"])
            found |= report["sha256"]
        return found
