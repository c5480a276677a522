"""Python that nobody has read: what a snippet can reach, what it can use up, and what comes back."""

import os
import platform
import sys
from pathlib import Path

import pytest

from babyllm.errors import UserError
from babyllm.sandbox.python import SnippetLimits, Snippets, guards
from babyllm.sandbox.worker_process import WorkerProcess

GUARDED = sys.platform == "linux" and platform.machine() in ("x86_64", "aarch64")
linux = pytest.mark.skipif(not GUARDED, reason="only Linux shuts a process in")
LIMITS = SnippetLimits(seconds=1, memory_bytes=128 << 20, output_bytes=10_000)


def test_a_snippet_prints_reads_and_returns() -> None:
    """Prints, a program's input, values of calls, event loops and threads are as in any Python."""
    snippets = Snippets(SnippetLimits(unguarded=not GUARDED, seconds=20))
    assert snippets.run("print('你好', input())", stdin="a\nb").output == "你好 a\n"
    code = "from dataclasses import dataclass\n@dataclass\nclass A:\n  x: int\ndef f(x): return (A(x).x, [x / 2], None)"
    assert snippets.run(code, calls=["f(1)", "f(3)"]).values == ([1, [0.5], None], [3, [1.5], None])
    loop = "import asyncio\nasync def f():\n  await asyncio.sleep(0)\n  print(1)\nasyncio.run(f())\n"
    pool = "from concurrent.futures import ThreadPoolExecutor as T\nprint(list(T(2).map(abs, [-1, 2])))\nexit()"
    assert snippets.run(loop + pool).output == "1\n[1, 2]\n"
    assert snippets.run("assert 1", tests="assert 2").reason == ""
    assert snippets.run("x = 1", tests="assert x == 2").reason == "error: AssertionError: "
    assert snippets.run("f(").reason.startswith("error: SyntaxError")


FORBIDDEN = {
    "a child": "import os; os.fork()",
    "a shell": "import subprocess; subprocess.run(['/bin/sh', '-c', 'echo'])",
    "another program": "import os; os.execv('/bin/sh', ['sh'])",
    "a process of multiprocessing": "import multiprocessing as m; m.Process(target=print).start()",
    "a socket": "import socket; socket.create_connection(('127.0.0.1', 80), 1)",
    "a datagram to a path": "import socket; socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)",
    "an address": "import urllib.request as r; r.urlopen('http://127.0.0.1:1/')",
    "a file": "open('{folder}/new', 'w')",
    "another's file": "open('{folder}/secret', 'a')",
    "reading a file": "print(open('{folder}/secret').read())",
    "a list of files": "import os; print(os.listdir('{folder}'))",
    "passwords": "print(open('/etc/passwd').read())",
    "the parent's environment": "import os; print(open(f'/proc/{{os.getppid()}}/environ').read())",
    "its own memory": "open('/proc/self/mem', 'r+b')",
    "removing": "import os; os.remove('{folder}/secret')",
    "renaming": "import os; os.rename('{folder}/secret', '{folder}/other')",
    "a folder": "import os; os.mkdir('{folder}/new')",
    "a link": "import os; os.symlink('/', '{folder}/new')",
    "rights": "import os; os.chmod('{folder}/secret', 0)",
    "times": "import os; os.utime('{folder}/secret', (0, 0))",
    "an owner": "import os; os.chown('{folder}/secret', 1, 1)",
    "the parent's end": "import os; os.kill(os.getppid(), 9)",
    "everybody's end": "import os; os.kill(-1, 9)",
    "the parent's priority": "import os; os.setpriority(os.PRIO_PROCESS, os.getppid(), 19)",
    "more memory": "import resource as r; r.setrlimit(r.RLIMIT_AS, (-1, -1))",
    "the parent's limits": "import os, resource as r; r.prlimit(os.getppid(), r.RLIMIT_CPU, (0, 0))",
    "another's descriptor": "import os, signal; os.pidfd_open(os.getppid())",
    "a signal by a file": "import fcntl, os; a, b = os.pipe(); fcntl.fcntl(a, 8, os.getppid())",
    "a raw call": (
        "import ctypes, os; c = ctypes.CDLL(None, use_errno=True)\n"
        "if c.syscall({socket}, 2, 1, 0) < 0: raise OSError(ctypes.get_errno(), 'refused')"
    ),
}


@linux
def test_nothing_outside_is_reached(tmp_path: Path) -> None:
    """Children, sockets, files, other processes and limits are refused, by the system and whoever the user is."""
    (tmp_path / "secret").write_text("s3cret")
    before = (tmp_path / "secret").stat()
    socket = 41 if platform.machine() == "x86_64" else 198
    snippets = Snippets(SnippetLimits(seconds=20))
    for what, code in FORBIDDEN.items():
        result = snippets.run(code.format(folder=tmp_path, socket=socket))
        assert "Error" in result.reason and result.output == "", (what, result)
    after = (tmp_path / "secret").stat()
    assert (tmp_path / "secret").read_text() == "s3cret" and os.listdir(tmp_path) == ["secret"]
    assert (before.st_mode, before.st_mtime, before.st_uid) == (after.st_mode, after.st_mtime, after.st_uid)


def test_no_secret_is_inherited(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment and the open files of the parent are not there."""
    monkeypatch.setenv("OPENAI_API_KEY", "s3cret")
    snippets = Snippets(SnippetLimits(unguarded=not GUARDED, seconds=20))
    result = snippets.run("import os, sys\nprint(dict(os.environ), sys.argv[2:])")
    assert "s3cret" not in result.output and "KEY" not in result.output
    assert snippets.run("import os\nos.write(1, b'forged')\nprint(1)").output == "1\n"


BOMBS = {
    "timeout": ("while True: pass", "import time\ntime.sleep(99)", "10 ** 10 ** 10"),
    "memory": ("x = 'a' * 10 ** 10", "x = []\nwhile True: x.append('a' * 10 ** 6)"),
    "too large": ("print('x' * 10 ** 6)", "for i in range(10 ** 5): print(i)"),
}


@linux
def test_bombs_end() -> None:
    """What never ends, takes all memory or prints without end has a reason, and so has a crash of Python itself."""
    snippets = Snippets(LIMITS)
    for kind, bombs in BOMBS.items():
        for bomb in bombs:
            assert snippets.run(bomb).reason.partition(":")[0] in (kind, "timeout"), bomb
    assert snippets.run("import ctypes; ctypes.string_at(0)").reason.startswith("crash")
    assert snippets.run("import os; os._exit(0)", tests="assert False").reason == "crash: exit status 0"
    assert snippets.run("def f(): f()\nf()").reason.startswith("error: RecursionError")
    many = "import threading, time\nfor i in range(10 ** 4): threading.Thread(target=time.sleep, args=(9,)).start()"
    assert snippets.run(many).reason
    assert snippets.run("1", calls=["[" * 50 + "]" * 50, "'x' * 10 ** 8"]).reason


def test_an_answer_that_a_snippet_writes_itself_is_read_with_care() -> None:
    """Lines that are forged on the pipe of the answer are results like any other, or a crash."""
    snippets = Snippets(SnippetLimits(unguarded=not GUARDED, seconds=20))
    forged = "import os\nfor n in range(3, 9):\n  try: os.write(n, {line!r})\n  except OSError: pass\nos._exit(0)"
    for line in (b"nonsense\n", b'{"values": 3}\n', b'{"reason": []}\n', b"[" * 10**5 + b"\n", b"x" * 10**5):
        assert snippets.run(forged.format(line=line)).reason.startswith("crash"), line[:20]


def test_a_system_without_guards_refuses() -> None:
    """Where files or network cannot be taken away, a snippet is not run, unless that is accepted."""
    snippets = Snippets()
    worker = WorkerProcess([], greeting={"missing": ["files (no)", "network and processes (no)"]})
    with pytest.raises(UserError, match=r"does not take files \(no\) and network .* unguarded=true"):
        snippets._require_guards(worker)
    Snippets(SnippetLimits(unguarded=True))._require_guards(worker)
    with pytest.raises(UserError, match="must be"):
        Snippets(SnippetLimits(seconds=0))


def test_the_filter_fits_in_every_system() -> None:
    """The filters of both processors have whole instructions, fewer than the kernel's limit, and differ."""
    programs = [b"".join(guards._instructions(*values)) for values in guards._MACHINES.values()]
    assert all(len(program) % 8 == 0 and len(program) // 8 < 4096 for program in programs) and len(set(programs)) == 2
