"""What the worker's processes do here: commands and scripts, as a shell would start them."""

import os
import resource
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

# Imported before the fork, not in each job.
import pyarrow.parquet
import sentencepiece
import tokenizers  # noqa: F401

import babyllm.data.conversations_prepare
import babyllm.data.tokenize
import babyllm.data.vocabulary
import babyllm.text.clean
import babyllm.text.dedup.stage  # noqa: F401

ROOT = Path(__file__).resolve().parents[2]


def command(arguments: list[str], cwd: str, file_bytes: int | None = None) -> None:
    """`babyllm ARGUMENTS` in a folder and a session of its own; no file may grow beyond `file_bytes`."""
    _settle(cwd, file_bytes)
    sys.argv = ["babyllm", *arguments]
    runpy.run_module("babyllm", run_name="__main__", alter_sys=True)


def training(arguments: list[str], cwd: str, name: str, file_bytes: int | None = None) -> None:
    """`python NAME ARGUMENTS` of a script at the top of the project, likewise."""
    _settle(cwd, file_bytes)
    path = str(ROOT / name)
    sys.argv = [path, *arguments]
    runpy.run_path(path, run_name="__main__")


def _settle(cwd: str, file_bytes: int | None) -> None:
    os.setsid()
    os.chdir(cwd)
    if file_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))


JOBS: dict[str, Callable[..., None]] = {"command": command, "training": training}
