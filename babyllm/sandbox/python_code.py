"""Untrusted Python in a process of its own: no network, no files, no other processes, and limits on time and memory.

code -> a fresh interpreter: namespaces of its own, an empty root folder, limits, no rights -> exec -> CodeResult

Only Linux with user namespaces allows this; elsewhere nothing is run, and `why_not` says so.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

MAX_OUTPUT_BYTES = 1 << 16
WAIT_S = 3  # for a process to start, beyond the seconds that it may compute
TIME, MEMORY, OUTPUT, NOT_ENDED = "too slow", "too much memory", "too much output", "it ended before its end"
_ISOLATED = b"isolated\n"
# Modules that code may import: they are loaded before the root folder is empty.
_MODULES = (
    *("abc", "bisect", "calendar", "collections", "copy", "csv", "dataclasses", "datetime", "decimal", "enum"),
    *("fractions", "functools", "hashlib", "heapq", "io", "itertools", "json", "math", "operator", "random", "re"),
    *("statistics", "string", "textwrap", "time", "traceback", "typing", "unicodedata"),
)
_WORKER = r"""
import ctypes, os, resource, sys
for name in sys.argv[1].split(","):
    __import__(name)
token = sys.stdin.buffer.readline()
code = sys.stdin.buffer.read().decode("utf-8", "surrogateescape")
libc = ctypes.CDLL(None, use_errno=True)
if not os.geteuid():  # limits on processes do not hold for root
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
NEW = 0x10000000 | 0x20000000 | 0x40000000 | 0x08000000 | 0x00020000 | 0x04000000  # user, PID, network, IPC, mount, UTS
if libc.unshare(NEW):
    sys.exit("unshare: " + os.strerror(ctypes.get_errno()))
if inner := os.fork():  # the child is the first of its namespace of processes: it sees and signals no other
    status = os.waitpid(inner, 0)[1]
    os._exit(128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status))
libc.prctl(1, 9, 0, 0, 0)  # it ends with its parent
os.chroot(".")
os.chdir("/")
seconds, size, output = map(int, sys.argv[2:5])
for limit, most in (("AS", size), ("CPU", seconds), ("FSIZE", output), ("NOFILE", 3), ("CORE", 0), ("NPROC", 0)):
    resource.setrlimit(getattr(resource, "RLIMIT_" + limit), (most, most))
libc.prctl(38, 1, 0, 0, 0)  # no new privileges
class Header(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]
if libc.capset(ctypes.byref(Header(0x20080522, 0)), (ctypes.c_uint32 * 6)()):
    sys.exit("capset: " + os.strerror(ctypes.get_errno()))
os.write(2, b"isolated\n")
del libc, Header, ctypes, resource, sys.modules["ctypes"]
def run(code, token, write=os.write):
    exec(compile(code, "<code>", "exec"), {"__name__": "__main__"})
    sys.stdout.flush()
    write(2, token)
try:
    run(code, token)
except MemoryError:
    sys.exit(3)
"""


@dataclass(frozen=True)
class CodeResult:
    """What became of code.

    Attributes:
        reason: reason for which it failed, in one line; empty if it ran to its end.
        output: what it printed.
    """

    reason: str
    output: str


def run_python(code: str, timeout_s: int = 5, memory_bytes: int = 512 << 20) -> CodeResult:
    """Run code to its end, where nothing outside can be read, written or reached.

    Args:
        code: source; it may import a few modules of the standard library.
        timeout_s: seconds that it may compute; it is ended a few seconds later if it waits.
        memory_bytes: memory that it may take.

    Raises:
        OSError: this system cannot isolate a process, as `why_not` says.
    """
    token = f"{secrets.token_hex(16)}\n".encode()
    with tempfile.TemporaryDirectory(prefix="babyllm-code-") as folder, tempfile.TemporaryFile() as output:
        limits = [str(number) for number in (timeout_s, memory_bytes, MAX_OUTPUT_BYTES)]
        command = [sys.executable, "-I", "-S", "-c", _WORKER, ",".join(_MODULES), *limits]
        with tempfile.TemporaryFile() as errors:
            os.chmod(folder, 0o711)
            worker = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=output, stderr=errors, cwd=folder, env={}, close_fds=True
            )
            try:
                worker.communicate(token + code.encode("utf-8", "surrogateescape"), timeout=timeout_s + WAIT_S)
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.communicate()
            errors.seek(0)
            said = errors.read(2 * MAX_OUTPUT_BYTES)
        output.seek(0)
        printed = output.read(MAX_OUTPUT_BYTES).decode("utf-8", "replace")
    begun, isolated, said = said.partition(_ISOLATED)
    if not isolated and worker.returncode:
        raise OSError(begun.decode("utf-8", "replace").strip().rpartition("\n")[2] or "no process could be started")
    return CodeResult("" if said.endswith(token) else _reason(worker.returncode, said), printed)


@cache
def why_not() -> str:
    """Why this system cannot run untrusted Python, in one line; empty if it can."""
    if sys.platform != "linux":
        return "untrusted Python is run on Linux alone"
    if not Path("/proc/self/ns/user").exists():
        return "this system has no user namespaces, so untrusted Python is not run"
    try:
        return run_python("pass").reason
    except OSError as error:
        return f"this system does not isolate processes ({error}), so untrusted Python is not run"


def _reason(status: int, said: bytes) -> str:
    if status in (-9, 128 + 9, 128 + 24):  # SIGKILL by this process or the limit, SIGXCPU
        return TIME
    if status == 128 + 25:  # SIGXFSZ
        return OUTPUT
    if status == 3:
        return MEMORY
    last = said.decode("utf-8", "replace").strip().rpartition("\n")[2]
    if last.startswith("MemoryError"):
        return MEMORY
    if "File too large" in last:
        return OUTPUT
    return "".join(c if c.isprintable() else " " for c in last[:200]) if status else NOT_ENDED
