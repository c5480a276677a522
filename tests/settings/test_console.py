"""Consoles of other encodings, closed ones, and readers that go away."""

import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from babyllm.console import lasting_output, prepare
from babyllm.runtime.signals import interrupts_held_back

ROOT = Path(__file__).parents[2]
TEXT = "今天 “ü” 😀"


def shell(line: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A line of bash in which `$PY` is this Python."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PY": sys.executable, **environment}
    return subprocess.run(["bash", "-c", line], capture_output=True, encoding="utf-8", errors="replace", env=env)


@pytest.mark.parametrize("encoding", ["gbk", "cp1252", "latin-1", "ascii"])
def test_what_an_encoding_lacks_is_escaped(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Text is printed on any console: what it can show as it is, the rest as escapes."""
    for name in ("stdout", "stderr"):
        stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        monkeypatch.setattr(sys, name, stream)
        prepare()
        print(TEXT, "\udcff", file=getattr(sys, name), flush=True)
        shown = stream.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]
        monkeypatch.undo()
        assert shown == f"{TEXT} \udcff\n".encode(encoding, errors="backslashreplace").decode(encoding)


def test_a_closed_stream_takes_everything(tmp_path: Path) -> None:
    """A command whose output and input are closed ends as it would otherwise, and no file gets what it prints."""
    code = (
        "import sys; from babyllm.runtime import user_errors\n"
        "with user_errors():\n"
        "    file = open(sys.argv[1], 'w', encoding='utf-8')\n"
        "    print('lost'); print('lost', file=sys.stderr); assert sys.stdin.read() == ''\n"
        "    sys.stdout.flush(); file.write('kept'); file.close()\n"
    )
    done = shell(f'"$PY" -c "{code}" {tmp_path / "x"} <&- >&- 2>&-')
    assert done.returncode == 0
    assert (tmp_path / "x").read_text(encoding="utf-8") == "kept"


def test_work_goes_on_without_a_reader(tmp_path: Path) -> None:
    """A reader that goes away, or a full disk, changes nothing of work that is not what is printed."""
    code = (
        "import sys; from babyllm.console import lasting_output; from babyllm.runtime import user_errors\n"
        "with user_errors(), lasting_output():\n"
        "    for i in range(10**5): print(i)\n"
        "    print('told', file=sys.stderr); open(sys.argv[1], 'w', encoding='utf-8').close()\n"
    )
    for number, line in enumerate((f'"$PY" -c "{code}" $FILE | head -n 1', f'"$PY" -c "{code}" $FILE > /dev/full')):
        done = shell(f"set -o pipefail; {line}", FILE=str(tmp_path / str(number)))
        assert (done.returncode, done.stderr) == (0, "told\n")
        assert (tmp_path / str(number)).exists()


def test_streams_are_given_back(capsys: pytest.CaptureFixture[str]) -> None:
    """After the work the streams are what they were, also when it fails."""
    before = sys.stdout, sys.stderr
    with pytest.raises(ZeroDivisionError), lasting_output():
        print("said", end="")
        assert sys.stdout.encoding == before[0].encoding
        raise ZeroDivisionError
    assert (sys.stdout, sys.stderr) == before
    assert capsys.readouterr().out == "said"


def test_a_worker_that_is_still_starting_ends_silently_at_ctrl_c() -> None:
    """Ctrl-C reaches all processes of a terminal, also those that still import: it waits for them."""
    code = (
        "import sys; print('imports', flush=True); sys.stdin.readline(); import json\n"
        "from babyllm.runtime.signals import end_at_interrupts\n"
        "print('ready', flush=True); end_at_interrupts(); print('never')"
    )
    with interrupts_held_back():
        worker = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert worker.stdout and worker.stdout.readline() == "imports\n"
    worker.send_signal(signal.SIGINT)
    assert worker.communicate("go on\n") == ("ready\n", "")
    assert worker.returncode == -signal.SIGINT


def test_ctrl_c_after_the_work_changes_nothing() -> None:
    """A signal that comes while the interpreter ends leaves the exit status of the work, and says nothing."""
    code = (
        "import atexit, os, signal\n"
        "from babyllm.runtime import user_errors\n"
        "atexit.register(lambda: [os.kill(os.getpid(), number) for number in (signal.SIGINT, signal.SIGTERM)])\n"
        "with user_errors():\n    print('done')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


INTERRUPTED = """
import os, signal, sys
class Interrupts:  # where an exception would be lost
    def __del__(self): os.kill(os.getpid(), signal.SIGINT)
class AtImport:
    def find_spec(self, name, *_):
        if name == module: Interrupts()
module = sys.argv.pop(1)
sys.meta_path.insert(0, AtImport())
"""


@pytest.mark.parametrize("at", [["babyllm.config"], ["babyllm.loading", "generate", "RUN_DIR"]], ids=["start", "load"])
def test_ctrl_c_while_a_command_begins_says_nothing(at: list[str]) -> None:
    """Ctrl-C during the imports, also where Python drops exceptions, ends a command with 130 and no traceback."""
    code = f"{INTERRUPTED}from babyllm.__main__ import main\nmain()"
    done = subprocess.run(
        [sys.executable, "-c", code, *at], capture_output=True, encoding="utf-8", cwd=ROOT, timeout=60
    )
    assert (done.returncode, done.stderr) == (130, "")


def test_ctrl_c_means_what_it_did_when_loading_is_over() -> None:
    """While there is nothing to undo Ctrl-C ends the process without a word; later it raises as before."""
    code = f"""{INTERRUPTED}
from babyllm.console import leaving_at_once
with leaving_at_once():
    pass
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    print("raised", flush=True)
with leaving_at_once():
    Interrupts()
"""
    done = subprocess.run([sys.executable, "-c", code, ""], capture_output=True, encoding="utf-8", cwd=ROOT, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (130, "raised\n", "")


@pytest.mark.parametrize("command", ["clean $IN $OUT --filters=[]", "inspect $IN"])
@pytest.mark.parametrize("ending", ["", " >&- 2>&-"], ids=["ascii", "closed"])
def test_commands_end_as_their_work_does(command: str, ending: str, tmp_path: Path) -> None:
    """A console that can show no Chinese, or is closed, changes the status of no command."""
    (tmp_path / "今天.txt").write_text("今天天气很好，我们去公园看书。\n" * 20, encoding="utf-8")
    names = {"IN": str(tmp_path / "今天.txt"), "OUT": str(tmp_path / "out"), "PYTHONIOENCODING": "ascii"}
    done = shell(f'"$PY" -m babyllm {command}{ending}', **names)
    assert done.returncode == 0 and "Traceback" not in done.stderr
    assert ending or "\\u" in done.stdout
