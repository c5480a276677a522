"""Untrusted Python: it reaches nothing outside, and ends within its limits."""

import os
import socket
import time
from pathlib import Path

import pytest

from babyllm.sandbox.python_code import MEMORY, NOT_ENDED, OUTPUT, TIME, CodeResult, run_python, why_not

TRIED = """
import os
outcomes = []
for attack in {attacks}:
    try:
        exec(attack)
    except Exception:
        outcomes.append("failed")
    else:
        outcomes.append(attack)
print(outcomes)
print(os.getppid(), os.getpid())
"""
pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())


def test_code_runs_to_its_end_or_has_a_reason() -> None:
    """What it prints comes back; errors, early ends and more time, memory or output than allowed are reasons."""
    assert run_python("import math, json\nprint(json.dumps(math.gcd(12, 18)))").output == "6\n"
    assert run_python("assert 1 == 2, 'no'").reason == "AssertionError: no"
    assert run_python("def f(:").reason.startswith("SyntaxError")
    assert run_python("raise SystemExit(0)").reason == NOT_ENDED == run_python("import os; os._exit(0)").reason
    assert run_python("while True: pass", timeout_s=1).reason == TIME
    assert run_python("x = bytearray(10**10)").reason == MEMORY
    assert run_python("print('x' * 10**6)").reason == OUTPUT


def test_code_reaches_nothing_outside(tmp_path: Path) -> None:
    """Files, the network, other processes and rights are out of reach, and the caller is not seen."""
    (tmp_path / "secret").write_text("open sesame")
    os.environ["SECRET_OF_TEST"] = "open sesame"
    with socket.create_server(("127.0.0.1", 0)) as server:
        attacks = [
            f"print(open({str(tmp_path / 'secret')!r}).read())",
            "import os; print(os.environ['SECRET_OF_TEST'])",
            "open('mine', 'w').write('x')",
            f"import socket; socket.create_connection(('127.0.0.1', {server.getsockname()[1]}))",
            "import subprocess; subprocess.run(['/bin/true'])",
            "import os; os.fork()",
            "import os; os.setuid(0)",
            "import os; os.chroot('/')",
            f"import os; os.kill({os.getpid()}, 9)",
        ]
        result = run_python(TRIED.format(attacks=attacks))
    assert result == CodeResult("", f"{['failed'] * len(attacks)}\n0 1\n")
    begin = time.monotonic()
    assert run_python("import time; time.sleep(60)", timeout_s=1).reason == TIME and time.monotonic() - begin < 30
