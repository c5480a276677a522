"""The process that validates JSON, which `json_schemas.py` starts by its path; it needs the package jsonschema.

    stdin, a JSON line per answer: schema, text -> stdout, a JSON line: reason

A schema can have a pattern that backtracks for hours, or refer to itself a billion times. The parent ends such a
process by its clock, and the system limits its memory. A schema refers to nothing outside itself: no address is opened.
"""

from __future__ import annotations

import importlib
import json
import signal
import sys
from typing import Any

OVERHEAD_BYTES = 256 << 20
SPARE_SECONDS = 5


def judged(request: dict[str, Any], modules: tuple[Any, Any]) -> dict[str, Any]:
    """The reason for which a text is not JSON of a schema; empty if it is.

    Args:
        request: `schema`, and the JSON `text`.
        modules: jsonschema and referencing.
    """
    jsonschema, referencing = modules
    schema = request["schema"]
    try:
        kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
        kind.check_schema(schema)
        validator = kind(schema, registry=referencing.Registry())
    except (jsonschema.exceptions.SchemaError, RecursionError, TypeError, AttributeError) as error:
        return {"reason": f"schema: {_told(error)}"}
    try:
        value = json.loads(request["text"], parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        return {"reason": f"wrong: not JSON ({_told(error)})"}
    try:
        found = jsonschema.exceptions.best_match(validator.iter_errors(value))
    except (RecursionError, referencing.exceptions.Unresolvable) as problem:
        return {"reason": f"schema: {_told(problem)}"}
    except Exception as problem:  # a pattern that is not one, a reference that is not text
        return {"reason": f"schema: {type(problem).__name__}: {_told(problem)}"}
    return {"reason": f"wrong: {found.json_path[:100]}: {found.message[:300]}" if found else ""}


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _told(error: BaseException) -> str:
    return " ".join(str(getattr(error, "message", error)).split())[:200]


def _limit(limits: dict[str, Any]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what Ctrl-C ends
    try:
        import resource
    except ImportError:  # Windows
        return
    memory = limits["memory_bytes"] + OVERHEAD_BYTES
    for name, limit in {"RLIMIT_AS": memory, "RLIMIT_FSIZE": 0, "RLIMIT_CORE": 0, "RLIMIT_NPROC": 0}.items():
        try:
            resource.setrlimit(getattr(resource, name), (limit, limit))
        except (AttributeError, ValueError, OSError):
            continue  # not on this system, or already lower


def main() -> None:
    """Answer until the parent closes the pipe; the command line has the limits as JSON."""
    try:
        modules = (importlib.import_module("jsonschema"), importlib.import_module("referencing"))
    except ImportError:
        print(json.dumps({"missing": "jsonschema"}), flush=True)
        return
    _limit(json.loads(sys.argv[1]))
    print("{}", flush=True)
    for line in sys.stdin:
        try:
            answer = judged(json.loads(line), modules)
        except MemoryError:
            answer = {"reason": "memory"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
