"""The process of one Python snippet: a program of the standard library alone, which `snippets.py` starts by its path.

    a line of JSON: what is missing of the guards
    stdin, a line of JSON: code, stdin, tests, calls -> a line of JSON: output and values, or a reason

The process ends after one snippet. Before it reads the code it has given up files, network, processes, and most memory
and time. What the code prints is stored; the pipe of the answer is another, so prints are never taken for answers. Code
that looks for that pipe can write an answer of its own, which says no more than a return value would.
"""

from __future__ import annotations

import builtins
import io
import json
import os
import signal
import sys
import types
from typing import Any

MAX_FILES = 64
SPARE_SECONDS = 5
OVERHEAD_BYTES = 64 << 20  # for Python itself
SHARED = ("/usr/lib", "/lib", "/lib64", "/usr/share/zoneinfo", "/dev/null")


class Stopped(Exception):
    """The reason for which a snippet has no result."""


def run(request: dict[str, Any], output_bytes: int) -> dict[str, Any]:
    """The output and values of a snippet, or the reason for none.

    Args:
        request: `code`; `stdin`, text to read; `tests`, code that runs after it; `calls`, expressions to evaluate.
        output_bytes: size of what may be printed.
    """
    printed = io.BytesIO()
    sys.stdin = io.TextIOWrapper(io.BytesIO(request["stdin"].encode("utf-8", "surrogatepass")), "utf-8", "replace")
    sys.stdout = sys.stderr = io.TextIOWrapper(printed, "utf-8", "backslashreplace", write_through=True)
    builtins.exit = builtins.quit = sys.exit  # type: ignore[assignment]
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    try:
        _execute(request["code"], module, may_exit=not (request["tests"] or request["calls"]))
        _execute(request["tests"], module, may_exit=False)
        values = [_value(call, module) for call in request["calls"]]
    except Stopped as error:
        return {"reason": str(error)}
    except MemoryError:
        return {"reason": "memory"}
    if printed.tell() > output_bytes:
        return {"reason": f"too large: printed more than {output_bytes} bytes"}
    return {"output": printed.getvalue().decode("utf-8", "replace"), "values": values}


def _execute(code: str, module: types.ModuleType, may_exit: bool) -> None:
    try:
        exec(compile(code, "snippet", "exec", dont_inherit=True), module.__dict__)
    except MemoryError:
        raise
    except SystemExit as error:
        if not may_exit or error.code not in (None, 0):
            raise Stopped(f"error: SystemExit: {error.code}"[:300]) from None
    except BaseException as error:
        raise Stopped(_told(error)) from None


def _value(call: str, module: types.ModuleType) -> Any:
    """The value of an expression, as JSON can write it."""
    try:
        value = eval(compile(call, "call", "eval", dont_inherit=True), module.__dict__)
        return json.loads(json.dumps(value))
    except MemoryError:
        raise
    except BaseException as error:
        raise Stopped(f"{_told(error)} in {call[:100]}") from None


def _told(error: BaseException) -> str:
    try:
        text = " ".join(str(error).split())[:200]
    except BaseException:
        text = "its message cannot be made"
    return f"error: {type(error).__name__}: {text}"


def _limit(limits: dict[str, Any]) -> None:
    """Take memory, time, files and children, as far as the system can."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C ends
    try:
        import resource
    except ImportError:  # Windows
        return
    for name, limit in {
        "RLIMIT_AS": limits["memory_bytes"] + OVERHEAD_BYTES,
        "RLIMIT_CPU": int(limits["seconds"]) + SPARE_SECONDS,
        "RLIMIT_FSIZE": 0,
        "RLIMIT_CORE": 0,
        "RLIMIT_NOFILE": MAX_FILES,
    }.items():
        try:
            resource.setrlimit(getattr(resource, name), (limit, limit))
        except (AttributeError, ValueError, OSError):
            continue  # not on this system, or already lower


def main() -> None:
    """Run one snippet; the command line has the limits as JSON."""
    limits = json.loads(sys.argv[1])
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    guards: Any = __import__("guards")  # beside this file, which runs outside its package
    del sys.path[0]
    guards.die_with_parent()
    os.chdir("/")
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nothing, number)
    os.close(nothing)
    _limit(limits)
    missing = guards.apply([os.path.dirname(os.__file__), os.path.join(sys.base_prefix, "lib"), *SHARED])
    answers.write(json.dumps({"missing": missing}).encode() + b"\n")
    answers.flush()
    answer = run(json.loads(requests.readline()), limits["output_bytes"])
    answers.write(json.dumps(answer).encode() + b"\n")
    answers.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
