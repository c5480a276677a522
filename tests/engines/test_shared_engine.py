"""Commands that make the same output beside each other: the bytes of one alone, whoever starts late or dies."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest
from engine_jobs import dies, full, lasting_elsewhere, squared, wait_for
from engines_fixtures import PARTITION_BYTES, made, run_stages

from babyllm.errors import UserError
from babyllm.pipeline.engines import presence
from babyllm.pipeline.engines.beside import beside_others
from babyllm.pipeline.engines.shared_queue import work_for
from babyllm.pipeline.output import MADE, discard_work, publish, work_directory
from babyllm.pipeline.partitions import WorkConfig, run_partitions
from babyllm.tokenizer import Tokenizer

HERE = Path(__file__).parent
SCRIPT = HERE.parents[1] / "examples" / "cluster" / "corpus.sbatch"
SHARED = WorkConfig(workers=1, engine="shared")


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that has died is missed within seconds."""
    monkeypatch.setattr(presence, "BEAT_S", 0.1)
    monkeypatch.setattr(presence, "SILENCE_S", 2.0)


def started(code: str) -> subprocess.Popen[bytes]:
    """A process of its own that runs some lines, with this module as `t`."""
    lines = f"from pathlib import Path; import test_shared_engine as t\nt.presence.BEAT_S = 0.1\n{code}"
    return subprocess.Popen([sys.executable, "-c", lines], cwd=HERE, stderr=subprocess.DEVNULL)


def logged(log: Path) -> list[tuple[int, int]]:
    """The process and the item of each piece of work."""
    lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    return [(int(process), int(item)) for process, item in map(str.split, lines)]


@pytest.mark.campaign
def test_the_array_script_makes_the_same_bytes(local: Path, raw: Path, tokenizer: Tokenizer) -> None:
    """Two tasks of a Slurm array clean, deduplicate and tokenize together; a third one has nothing left to do."""
    tokenizer.save(raw / "tokenizer")
    command = raw / "bin" / "babyllm"
    command.parent.mkdir()
    command.write_text(f'#!/bin/bash\nexec "{sys.executable}" -m babyllm "$@"\n', encoding="utf-8")
    command.chmod(0o755)
    arguments = [
        "bash", SCRIPT, "raw", "tokenizer", "out", "--work.workers=1", f"--work.partition_bytes={PARTITION_BYTES}"
    ]  # fmt: skip
    root = {"PYTHONPATH": str(HERE.parents[1]), "PATH": f"{command.parent}:{os.environ['PATH']}"}

    def task(number: int) -> subprocess.Popen[str]:
        environment = os.environ | root | {"SLURM_ARRAY_TASK_ID": str(number)}
        return subprocess.Popen(arguments, cwd=raw, env=environment, stdout=subprocess.PIPE, stderr=2, text=True)

    for process in [task(1), task(2)]:
        process.communicate()
        assert process.returncode == 0
    assert made(raw) == made(local)
    assert not list(raw.rglob(".work"))
    assert task(3).communicate()[0].count("complete") == 3


@pytest.mark.slow
def test_a_command_that_leads_alone_makes_the_same_bytes(local: Path, raw: Path, tokenizer: Tokenizer) -> None:
    """Clean, dedup and tokenize write the same files if their work goes through the queue."""
    run_stages(raw, tokenizer, "shared", 2)
    assert made(raw) == made(local)


@beside_others
def make(out: Path, log: Path, work: WorkConfig) -> list[int] | None:
    """A stage that squares eight numbers."""
    if (out / "done.json").exists():
        return None
    with work_directory(out, work=work) as directory:
        job = partial(squared, log=log, sleep_s=0.2)
        results = run_partitions(range(12), job, directory / "step", key="a", work=work)
        (directory / MADE / "done.json").write_text(json.dumps(results), encoding="utf-8")
        publish(out, ["done.json"])
    discard_work(out)
    return results


@pytest.mark.usefixtures("soon")
def test_what_a_killed_command_had_taken_is_done_by_another(tmp_path: Path) -> None:
    """A command that dies in the middle of its work costs only this work."""
    mark = tmp_path / "mark"
    with work_directory(tmp_path / "out", work=SHARED) as directory:
        other = started(f"t.make(Path({str(tmp_path / 'out')!r}), Path('log'), t.SHARED)")

        def kill() -> None:
            wait_for(mark.exists)
            other.kill()

        killer = threading.Thread(target=kill)
        killer.start()
        job = partial(lasting_elsewhere, leader=os.getpid(), mark=mark)
        assert run_partitions(range(5), job, directory / "step", key="a", work=SHARED) == list(range(5))
        killer.join()
        assert other.wait() == -signal.SIGKILL


@pytest.mark.usefixtures("soon")
def test_if_the_command_that_leads_is_killed_another_leads(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A command that works for another takes its place if it dies, and what was finished is not done again."""
    out, log = tmp_path / "out", tmp_path / "log"
    first = started(f"t.make(Path({str(out)!r}), Path({str(log)!r}), t.SHARED)")
    wait_for(lambda: len(logged(log)) > 0)

    def kill() -> None:
        wait_for(lambda: any(process == os.getpid() for process, _ in logged(log)))
        first.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    assert make(out, log, SHARED) == [i * i for i in range(12)]
    killer.join()
    assert first.wait() == -signal.SIGKILL
    assert {item for _, item in logged(log)} == set(range(12)) and len(logged(log)) <= 14
    assert [path.name for path in out.iterdir()] == ["done.json"]
    assert "leads; this process works for it with 1 workers" in capfd.readouterr().err
    assert make(out, log, SHARED) is None


@pytest.mark.usefixtures("soon")
def test_one_process_leads_whatever_the_disk_says_of_locks(tmp_path: Path) -> None:
    """On a disk without locks a process of another machine leads as long as it renews its file."""
    with presence.beating(tmp_path, "elsewhere-1-a", 1):
        assert presence.take_lead(tmp_path, "elsewhere-1-a")
        time.sleep(0.3)
        assert not presence.take_lead(tmp_path, "here-1-b")
    assert presence.take_lead(tmp_path, "here-1-b") and presence.leader(tmp_path) == "here-1-b"
    presence.give_up_lead(tmp_path, "elsewhere-1-a")
    assert presence.leader(tmp_path) == "here-1-b"


@pytest.mark.usefixtures("soon")
def test_errors_of_shared_work_are_one_line(tmp_path: Path) -> None:
    """A full disk, and work that kills its workers, end a command; the next one does only what is left."""
    out = tmp_path / "out"
    message = r"^\S*out.txt: cannot be written \(No space left on device\); free some space"
    with pytest.raises(UserError, match=message), work_directory(out, work=SHARED) as directory:
        run_partitions(range(5), partial(full, mark=tmp_path / "mark"), directory / "step", key="a", work=SHARED)
    (marks := tmp_path / "marks").mkdir()
    with work_directory(out, work=SHARED) as directory:
        (tmp_path / "mark").touch()
        job = partial(full, mark=tmp_path / "mark")
        assert run_partitions(range(5), job, directory / "step", key="a", work=SHARED) == list(range(5))
        job = partial(dies, marks=marks, times=2)
        assert run_partitions(range(3), job, directory / "twice", key="a", work=SHARED) == [0, 1, 2]
        with pytest.raises(UserError, match=r"^3 workers died, one after the other.*--work\.partition_bytes.*goes on"):
            run_partitions(range(3), partial(dies, marks=marks, times=99), directory / "dies", key="a", work=SHARED)


def test_a_command_beside_one_that_does_not_share_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that works for others finds none that leads, and says so in one line."""
    monkeypatch.setattr(presence, "BEAT_S", 0.1)
    monkeypatch.setattr(presence, "SILENCE_S", 0.5)
    out = tmp_path / "out"
    with work_directory(out), pytest.raises(UserError, match=f"{out}: another process is writing it; wait for its end"):
        make(out, tmp_path / "log", SHARED)


def test_work_is_taken_from_a_folder_of_ones_own_alone(tmp_path: Path) -> None:
    """A queue in which another account may write is refused, since its work would be run."""
    queue = tmp_path / "queue"
    queue.mkdir()
    queue.chmod(0o777)
    (queue / presence.LEAD).write_text("someone")
    with pytest.raises(UserError, match="another account may write there"):
        work_for("someone", queue, presence.unique_name(), 1)
