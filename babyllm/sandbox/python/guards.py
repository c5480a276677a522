"""What Linux takes from a process for good: system calls (seccomp) and files (Landlock). The standard library alone.

    apply(paths) -> what could not be taken

A list names every system call that Python needs for calculating, reading its own library, threads, time and event
loops. Any other returns an error: those that open sockets, start processes, send signals, change limits, files or
other processes. Of files, only those below given paths can be read, and none can be written, whoever the user is.
Neither needs privileges, so both work in containers. The process cannot undo them.

The numbers of calls are those of Linux's tables for x86-64 and 64-bit ARM.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

# ---- system calls: name, number on x86-64, number on 64-bit ARM; None where there is none
_CALLS = """
read 0 63|write 1 64|readv 19 65|writev 20 66|pread64 17 67|pwrite64 18 68|lseek 8 62|close 3 57|close_range 436 436
fstat 5 80|stat 4 -|lstat 6 -|newfstatat 262 79|statx 332 291|access 21 -|faccessat 269 48|faccessat2 439 439
readlink 89 -|readlinkat 267 78|getdents64 217 61|getcwd 79 17|chdir 80 49|fchdir 81 50|dup 32 23|dup2 33 -|dup3 292 24
pipe 22 -|pipe2 293 59|poll 7 -|ppoll 271 73|select 23 -|pselect6 270 72|epoll_create1 291 20|epoll_ctl 233 21
epoll_wait 232 -|epoll_pwait 281 22|eventfd2 290 19|recvfrom 45 207|recvmsg 47 212|sendto 44 206|sendmsg 46 211
shutdown 48 210|getsockopt 55 209|getsockname 51 204|getpeername 52 205|mmap 9 222|munmap 11 215
mprotect 10 226|mremap 25 216|madvise 28 233|brk 12 214|membarrier 324 283|futex 202 98|set_robust_list 273 99
rseq 334 293|set_tid_address 218 96|arch_prctl 158 -|sched_yield 24 124|sched_getaffinity 204 123|rt_sigaction 13 134
rt_sigprocmask 14 135|rt_sigreturn 15 139|rt_sigtimedwait 128 137|sigaltstack 131 132|restart_syscall 219 128
setitimer 38 103|getitimer 36 102|alarm 37 -|pause 34 -|clock_gettime 228 113|clock_getres 229 114
clock_nanosleep 230 115|nanosleep 35 101|gettimeofday 96 169|time 201 -|times 100 153|getrusage 98 165
getrlimit 97 163|getrandom 318 278|uname 63 160|sysinfo 99 179|getpid 39 172|getppid 110 173|gettid 186 178
getuid 102 174|geteuid 107 175|getgid 104 176|getegid 108 177|exit 60 93|exit_group 231 94
"""
# Calls that are allowed with some arguments: openat, fcntl, ioctl, clone, socketpair; and clone3, which has another.
_OPENAT, _FCNTL, _IOCTL, _CLONE, _SOCKETPAIR, _CLONE3 = range(6)
_MACHINES = {
    "x86_64": (0xC000003E, 0, (257, 72, 16, 56, 53, 435)),
    "aarch64": (0xC00000B7, 1, (56, 25, 29, 220, 199, 435)),
}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_FCNTL_COMMANDS = (0, 1, 2, 3, 4, 1030)  # F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC
_IOCTL_COMMANDS = (0x5421, 0x5450, 0x5451)  # FIONBIO, FIONCLEX, FIOCLEX
_THREAD, _NAMESPACES = 0x10000, 0x7E020000
_STREAM, _TYPE = 1, 0xF  # a datagram could be sent to any socket of the machine

# ---- instructions of the filter: of the kernel's linux/filter.h and linux/seccomp.h
_LOAD, _AND, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x06
_NUMBER, _MACHINE, _ARGUMENTS = 0, 4, 16
_ALLOW, _ERROR, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_X32 = 0x40000000  # a second table of calls on x86-64

_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 22, 38
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446
_READ_FILE, _READ_FOLDER = 1 << 2, 1 << 3


def apply(paths: Sequence[str]) -> list[str]:
    """Take from this process what calculating does not need.

    Args:
        paths: files and folders that can still be read, with all below them.

    Returns:
        What could not be taken, in words; empty if the process is shut in.
    """
    if sys.platform != "linux" or platform.machine() not in _MACHINES:
        return [f"files, network and processes ({sys.platform} on {platform.machine()} has no guards here)"]
    missing = []
    libc: Any = ctypes.CDLL(None, use_errno=True)
    steps: dict[str, Callable[[], None]] = {
        "files": lambda: _take_files(libc, paths),
        "network and processes": lambda: _filter(libc),
    }
    for what, take in steps.items():
        try:
            _checked(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
            take()
        except OSError as error:
            missing.append(f"{what} ({error.strerror})")
    return missing


def die_with_parent() -> None:
    """Let Linux end this process when its parent ends; elsewhere nothing."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, 9, 0, 0, 0)


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def _take_files(libc: Any, paths: Sequence[str]) -> None:
    """Landlock: all rights on files are handled, and only reading below the paths is granted."""
    version = _checked(libc.syscall(_LANDLOCK_CREATE, None, 0, 1))
    rights = (1 << {1: 13, 2: 14, 3: 15, 4: 15}.get(version, 16)) - 1
    handled = struct.pack("=QQQ", rights, 3 if version >= 4 else 0, 3 if version >= 6 else 0)
    size = 8 if version < 4 else 16 if version < 6 else 24
    rules = _checked(libc.syscall(_LANDLOCK_CREATE, handled, size, 0))
    for path in paths:
        try:
            opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue
        granted = _READ_FILE | _READ_FOLDER if os.path.isdir(path) else _READ_FILE
        _checked(libc.syscall(_LANDLOCK_ADD, rules, 1, struct.pack("=Qi", granted, opened), 0))
        os.close(opened)
    _checked(libc.syscall(_LANDLOCK_RESTRICT, rules, 0))
    os.close(rules)


def _filter(libc: Any) -> None:
    """Install the filter of system calls in every thread of this process."""
    program = b"".join(_instructions(*_MACHINES[platform.machine()]))
    buffer = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("@HP", len(program) // 8, ctypes.addressof(buffer))
    _checked(libc.prctl(_PR_SET_SECCOMP, 2, ctypes.create_string_buffer(header, len(header)), 0, 0))


def _instructions(machine: int, column: int, special: tuple[int, ...]) -> Iterator[bytes]:
    """The filter: each call that is allowed, with conditions on the arguments of some; an error for any other."""
    yield from (_code(_LOAD, _MACHINE), _code(_EQUAL, machine, 1, 0), _code(_RETURN, _KILL))
    yield _code(_LOAD, _NUMBER)
    yield from (_code(_AT_LEAST, _X32, 0, 1), _code(_RETURN, _ERROR | errno.EPERM))
    for line in _CALLS.strip().split("\n"):
        for call in line.split("|"):
            number = call.split()[1 + column]
            if number != "-":
                yield from (_code(_EQUAL, int(number), 0, 1), _code(_RETURN, _ALLOW))
    yield from _when(special[_OPENAT], 2, _WRITING, (0,), errno.EACCES)
    yield from _when(special[_FCNTL], 1, 0xFFFFFFFF, _FCNTL_COMMANDS, errno.EPERM)
    yield from _when(special[_IOCTL], 1, 0xFFFFFFFF, _IOCTL_COMMANDS, errno.ENOTTY)
    yield from _when(special[_CLONE], 0, _THREAD | _NAMESPACES, (_THREAD,), errno.EPERM)
    yield from _when(special[_SOCKETPAIR], 1, _TYPE, (_STREAM,), errno.EPERM)
    yield from _when(special[_CLONE3], 0, 0, (), errno.ENOSYS)  # its arguments cannot be seen; libc then uses clone
    yield _code(_RETURN, _ERROR | errno.EPERM)


def _when(number: int, argument: int, mask: int, values: Sequence[int], error: int) -> Iterator[bytes]:
    """A call that is allowed if an argument, masked, is one of the values; the low half of it decides."""
    tests = [step for value in values for step in (_code(_EQUAL, value, 0, 1), _code(_RETURN, _ALLOW))]
    body = [_code(_LOAD, _ARGUMENTS + 8 * argument), _code(_AND, mask), *tests, _code(_RETURN, _ERROR | error)]
    yield _code(_EQUAL, number, 0, len(body))
    yield from body


def _code(operation: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", operation, if_true, if_false, value)
