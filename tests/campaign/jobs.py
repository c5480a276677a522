"""What the worker's processes do here: commands and scripts, as a shell would start them."""

import importlib
import os
import resource
import runpy
import signal
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# What jobs load late, loaded before the fork.
for name in (
    *("matplotlib.backends.backend_agg", "pyarrow.parquet", "sentencepiece", "tokenizers"),
    *("babyllm.prepare.tokens", "babyllm.prepare.vocabulary", "babyllm.prepare.conversations"),
    *("babyllm.text.clean.stage", "babyllm.text.dedup.stage"),
):
    importlib.import_module(name)


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


def program(arguments: list[str], cwd: str, name: str) -> None:
    """The same as a program of its own, for scripts that start themselves again."""
    _settle(cwd, None)
    os.execv(sys.executable, [sys.executable, str(ROOT / name), *arguments])


def _settle(cwd: str, file_bytes: int | None) -> None:
    os.setsid()
    os.chdir(cwd)
    # A campaign in the background of a shell, or under nohup, ignores what its jobs must not ignore.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    if file_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))


JOBS: dict[str, Callable[..., None]] = {"command": command, "training": training, "program": program}
