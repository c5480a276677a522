"""One command, several processes: all scenarios run at the same time, and each test looks at how one of them ended."""

import json
import os
import re
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from training_fixtures import FLAGS, ROOT, SCRIPT

from babyllm.config import load
from babyllm.errors import UserError
from babyllm.runtime import RuntimeConfig
from babyllm.runtime.launching.launch import Needs, choose_processes, launch
from babyllm.runtime.launching.processes import is_running
from babyllm.runtime.machine import physical_cores
from babyllm.runtime.rendezvous import FolderStore
from babyllm.training.recording.records import read_metrics
from babyllm.training.stages.pretraining_config import PretrainConfig

WAIT_S = 120.0
JOB = """
import os, signal, sys, time
from dataclasses import dataclass
from pathlib import Path
from babyllm.errors import UserError
from babyllm.runtime import RuntimeConfig, start, user_errors
from babyllm.runtime.launching.launch import launch

scenario, out, n = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
rank = int(os.environ.get("RANK", -1))

@dataclass(frozen=True)
class Config:
    runtime: RuntimeConfig

def mark(what):
    (out / f"{what}.tmp{rank}").write_text(str(os.getpid()))
    os.replace(out / f"{what}.tmp{rank}", out / f"{what}.{rank}")

def work(config):
    mark("began")
    if scenario == "shared":
        raise UserError("data/x.bin: not there")
    if rank == 1:
        if scenario == "second":
            raise UserError("disk full")
        if scenario == "bug":
            raise ZeroDivisionError("a bug")
    if scenario in ("second", "bug", "parent") or (scenario == "early" and rank == 1):
        time.sleep(1000)
    with start(config.runtime) as runtime:
        mark("started")
        for step in range(100_000):
            runtime.beat(step)
            runtime.sum([step])
            if step == 3:
                mark("steps")
            if scenario == "evaluate" and step == 3:
                with runtime.patience():
                    mark("patient")
                    time.sleep(1000 if rank else 0)
            if scenario == "save" and step == 3:
                with runtime.patience():
                    mark("saving")
                    if rank == 0:
                        time.sleep(3)
                        mark("saved")
                    runtime.barrier()
            if runtime.sum([runtime.stop_requested])[0]:
                break
            time.sleep(0.005)

with user_errors():
    timeout_s = 10 if scenario == "evaluate" else 60
    launch(work, Config(RuntimeConfig(device="cpu", threads=1, processes=n, timeout_s=timeout_s)))
"""


def wait_for(condition: Callable[[], Any], process: subprocess.Popen[bytes]) -> None:
    """Return once the condition holds."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert process.poll() is None, "it has ended before"
        assert time.monotonic() < deadline, "it does not come"
        time.sleep(0.01)


@dataclass
class Scenario:
    """A job that runs: `name` says what its ranks do, and `n` how many there are."""

    name: str
    n: int
    folder: Path
    process: subprocess.Popen[bytes] = field(init=False)

    def __post_init__(self) -> None:
        self.folder.mkdir()
        command = [sys.executable, "job.py", self.name, str(self.folder), str(self.n)]
        with open(self.folder / "out", "wb") as out, open(self.folder / "err", "wb") as err:
            env = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(self.folder)}
            self.process = subprocess.Popen(command, cwd=self.folder.parent, env=env, stdout=out, stderr=err)

    def pids(self, mark: str) -> dict[int, int]:
        """The processes, by rank, that have come as far as `mark`."""
        return {int(path.suffix[1:]): int(path.read_text()) for path in self.folder.glob(f"{mark}.[0-9]*")}

    def reach(self, mark: str, n: int | None = None) -> dict[int, int]:
        """Wait until `n` ranks, all of them by default, have come as far as `mark`."""
        wait_for(lambda: len(self.pids(mark)) >= (n or self.n), self.process)
        return self.pids(mark)

    def end(self) -> tuple[int, str, str]:
        """Exit status, standard output and error when it has ended."""
        status = self.process.wait(WAIT_S)
        return status, (self.folder / "out").read_text(), (self.folder / "err").read_text()

    def leftovers(self) -> list[str]:
        """Temporary folders that are still there."""
        return [path.name for path in self.folder.glob("babyllm-*")]


ALL = {"kill": 3, "save": 3, "evaluate": 2, "twice": 2, "early": 2, "shared": 2, "second": 2, "bug": 2, "parent": 2}


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Scenario]]:
    """Every scenario by name, begun."""
    folder = tmp_path_factory.mktemp("launch")
    (folder / "job.py").write_text(JOB)
    started = {name: Scenario(name, n, folder / name) for name, n in ALL.items()}
    yield started
    for scenario in started.values():
        scenario.process.kill()
        scenario.process.wait()


@pytest.mark.slow
def test_a_killed_rank_is_the_one_that_is_named(jobs: dict[str, Scenario]) -> None:
    """kill -9 of one of three ranks while they compute: one line that names it and how it died, status 1."""
    pids = jobs["kill"].reach("steps")
    os.kill(pids[0], signal.SIGKILL)
    status, out, err = jobs["kill"].end()
    assert re.fullmatch(rf"job\.py: rank 0 \(\S+, cpu, pid {pids[0]}\) died of SIGKILL [^\n;]+\n", err), err
    assert (status, out) == (1, "")
    assert not any(is_running(pid) for pid in pids.values())
    assert jobs["kill"].leftovers() == []


@pytest.mark.slow
def test_a_save_ends_although_a_rank_has_died(jobs: dict[str, Scenario]) -> None:
    """What rank 0 writes when another one is killed is written to its end; only the one killed is named."""
    pids = jobs["save"].reach("saving")
    os.kill(pids[1], signal.SIGKILL)
    status, _, err = jobs["save"].end()
    assert jobs["save"].pids("saved").keys() == {0}
    assert status == 1 and err.count("\n") == 1 and "rank 1 (" in err and "died of SIGKILL" in err


@pytest.mark.slow
def test_a_suspended_rank_is_named_while_others_evaluate(jobs: dict[str, Scenario]) -> None:
    """Rank 0 is stopped while rank 1 works with patience: after the timeout it is named, and it is ended too."""
    pids = jobs["evaluate"].reach("patient")
    os.kill(pids[0], signal.SIGSTOP)
    status, _, err = jobs["evaluate"].end()
    assert re.fullmatch(r"job\.py: rank 0 \([^\n]+ has given no sign of life for 10 s[^\n]+\n", err), err
    assert status == 1 and not is_running(pids[0])


@pytest.mark.slow
def test_a_rank_that_ends_before_it_has_started_is_named(jobs: dict[str, Scenario]) -> None:
    """SIGTERM to one rank before it catches signals: the others, which wait for it, end at once with one line."""
    pids = jobs["early"].reach("began")
    os.kill(pids[1], signal.SIGTERM)
    status, _, err = jobs["early"].end()
    assert err == f"job.py: rank 1 (pid {pids[1]}) died of SIGTERM, before it had started\n"
    assert status == 1 and not is_running(pids[0])


@pytest.mark.slow
def test_an_error_is_one_line(jobs: dict[str, Scenario]) -> None:
    """A user's error of all ranks appears once; one that only a later rank has appears with its number."""
    assert jobs["shared"].end() == (1, "", "job.py: data/x.bin: not there\n")
    assert jobs["second"].end() == (1, "", "job.py: rank 1: disk full\n")


@pytest.mark.slow
def test_a_bug_is_one_traceback(jobs: dict[str, Scenario]) -> None:
    """An exception that is not a user's error shows its traceback, from the rank that has it alone."""
    status, _, err = jobs["bug"].end()
    assert status == 1 and err.count("Traceback") == 1
    assert err.endswith("ZeroDivisionError: a bug\n")


@pytest.mark.slow
def test_a_second_interrupt_ends_at_once(jobs: dict[str, Scenario]) -> None:
    """Ctrl-C twice, before the ranks have heeded the first one: status 130 and no word."""
    pids = jobs["twice"].reach("steps")
    os.kill(pids[1], signal.SIGSTOP)  # so that the other one waits for it
    jobs["twice"].process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    jobs["twice"].process.send_signal(signal.SIGINT)
    assert jobs["twice"].end() == (130, "", "")


@pytest.mark.slow
def test_no_process_outlives_the_command(jobs: dict[str, Scenario]) -> None:
    """When the process that started them is killed, no rank goes on."""
    pids = jobs["parent"].reach("began")
    jobs["parent"].process.kill()
    deadline = time.monotonic() + WAIT_S
    while any(is_running(pid) for pid in pids.values()):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def listening(pids: set[int]) -> list[str]:
    """Addresses at which processes listen, in the hexadecimal form of /proc/net."""
    inodes = set()
    for pid in pids:
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                inodes.add(os.readlink(descriptor))
    tables = [Path(f"/proc/net/{name}").read_text(encoding="utf-8").splitlines()[1:] for name in ("tcp", "tcp6")]
    lines = [line.split() for table in tables for line in table]
    return [line[1].split(":")[0] for line in lines if line[3] == "0A" and f"socket:[{line[9]}]" in inodes]


def children(pid: int) -> set[int]:
    return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()}


@pytest.mark.slow
def test_a_run_listens_at_the_loopback_interface_alone(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command trains on two processes without a port that others can reach; a closed terminal saves.

    Their number stays when the run goes on.
    """
    if not Path("/proc/net/tcp").exists():
        pytest.skip("needs Linux")
    flags = [*FLAGS, f"--data.path={data}", "--run_dir=run", "--prompts=[]"]
    flags += ["--plan.steps=5000", "--save_every=0", "--eval_every=0"]
    command = [sys.executable, "-m", "babyllm", "pretrain", *flags]
    run_dir = tmp_path / "run"
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"}
    with open(tmp_path / "out", "wb") as out:
        process = subprocess.Popen([*command, "--runtime.processes=2"], cwd=tmp_path, env=env, stdout=out, stderr=out)
    wait_for(lambda: (run_dir / "metrics.jsonl").exists() and len(read_metrics(run_dir)) > 3, process)
    ranks = children(process.pid)
    assert len(ranks) == 2
    addresses = listening(ranks | {process.pid})
    assert addresses and set(addresses) <= {"0100007F", "0" * 24 + "01000000"}
    process.send_signal(signal.SIGHUP)
    assert process.wait(WAIT_S) == 0
    text = (tmp_path / "out").read_text()
    last = read_metrics(run_dir)[-1]["step"]
    assert f"stopped at step {last} of 5000" in text and "on 2 x cpu" in text, text
    assert (run_dir / f"step_{last:08d}").is_dir()
    assert load(PretrainConfig, run_dir / "config.yaml").runtime.processes == 2
    assert json.loads((run_dir / "environment.json").read_text()).items() >= {"world_size": 2, "threads": 1}.items()
    with_another = [*flags, "--data.global_batch=48", "--print_config"]  # which more than two would divide
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *with_another])
    monkeypatch.setattr(sys, "orig_argv", [sys.executable, *sys.argv])
    with pytest.raises(SystemExit, match=r"^0$"):
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert "\n  processes: 2\n" in capsys.readouterr().out


def test_one_process_is_this_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is started where one process is enough, nor inside another program."""
    monkeypatch.setattr(sys, "argv", ["train.py", "--as_called_by=pytest"])
    seen: list[int] = []
    config = SimpleNamespace(runtime=RuntimeConfig(device="cpu", processes=1))
    launch(lambda config: seen.append(os.getpid()), config)
    launch(lambda config: seen.append(os.getpid()), SimpleNamespace(runtime=RuntimeConfig(processes=2)))
    assert seen == [os.getpid()] * 2


@pytest.fixture
def as_a_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process looks as if it had been started as `python train.py`."""
    monkeypatch.setattr(sys, "argv", ["train.py"])
    monkeypatch.setattr(sys, "orig_argv", [sys.executable, "train.py"])


def test_the_number_of_processes_divides_the_batch(as_a_program: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new run takes a process per physical core, at most 4, as far as the batch divides; a run keeps what it had."""
    cpu = RuntimeConfig(device="cpu")
    n, remark = choose_processes(cpu, 48, None)
    assert (n, remark) == (min(4, physical_cores()), "") or 48 % physical_cores()
    assert choose_processes(cpu, 1, None) == (1, "")
    assert choose_processes(cpu, 48, 3) == (3, "")
    assert choose_processes(RuntimeConfig(device="cpu", processes=2), 48, 3) == (2, "")
    assert choose_processes(cpu, 8, 3) == (2, "the run has had 3 processes, here it can have 2")
    monkeypatch.setenv("WORLD_SIZE", "16")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert choose_processes(cpu, 48, 3) == (8, "")


def test_the_number_of_processes_is_what_the_model_is_divided_by(
    as_a_program: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is a multiple of what `parallel` asks for, and only processes that read other rows divide the batch."""
    cpu, cuda = RuntimeConfig(device="cpu"), RuntimeConfig(device="cuda")
    split = Needs(2, 2, "parallel.tensor=2")
    assert choose_processes(cpu, 1, None, split) == (2, "")
    assert choose_processes(cpu, 48, None, Needs(3, 6, "parallel.tensor=3 and parallel.shard_ranks=2")) == (6, "")
    assert choose_processes(cpu, 48, 1, split) == (2, "the run has had 1 processes, here it needs 2")
    assert choose_processes(cpu, 48, 3, split) == (2, "the run has had 3 processes, here it can have 2")
    assert choose_processes(RuntimeConfig(device="cpu", processes=3), 48, None, split) == (3, "")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 7)
    assert choose_processes(cuda, 3, None, split) == (6, "")
    assert choose_processes(cuda, 2, 7, split)[0] == 4
    with pytest.raises(UserError, match=r"parallel\.tensor=8: needs a multiple of 8 processes, and here it can have 7"):
        choose_processes(cuda, 8, None, Needs(8, 8, "parallel.tensor=8"))
    monkeypatch.setattr(sys, "argv", ["train.py", "--as_called_by=pytest"])
    with pytest.raises(UserError, match=r"parallel\.tensor=2: needs .* can have 1; .* torchrun"):
        choose_processes(cpu, 8, None, split)


def test_gpus_are_counted(as_a_program: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process per GPU; a run that has had more than there are now goes on with what is there, and says so."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_processes(RuntimeConfig(device="cuda"), 8, None) == (2, "")
    assert choose_processes(RuntimeConfig(device="cuda"), 8, 1) == (1, "")
    assert choose_processes(RuntimeConfig(device="cuda"), 8, 4) == (
        2,
        "the run has had 4 processes, here it can have 2",
    )
    with pytest.raises(UserError, match=r"runtime\.processes=4: this machine has 2 cuda devices"):
        choose_processes(RuntimeConfig(device="cuda", processes=4), 8, None)


def test_too_many_processes_are_refused(as_a_program: None) -> None:
    """None, and so many that the machine would go down, are refused by the key."""
    for n in (0, -1, 100_000):
        with pytest.raises(UserError, match=rf"runtime\.processes={n}: must be at (least 1|most \d+)"):
            choose_processes(RuntimeConfig(device="cpu", processes=n), 8, None)


def test_windows_has_one_process(as_a_program: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """There a new run takes one process, as does one that has had several elsewhere; more are refused by the key."""
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for device in ("cpu", "cuda"):
        assert choose_processes(RuntimeConfig(device=device), 8, None) == (1, "")
        assert choose_processes(RuntimeConfig(device=device), 8, 2)[0] == 1
        with pytest.raises(UserError, match=r"runtime\.processes=2: on Windows a run is one process"):
            choose_processes(RuntimeConfig(device=device, processes=2), 8, None)


def test_another_program_starts_no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the script is not the program, one process is chosen, and more are refused."""
    monkeypatch.setattr(sys, "argv", ["train.py", "--as_called_by=pytest"])
    assert choose_processes(RuntimeConfig(device="cpu"), 8, 2)[0] == 1
    with pytest.raises(UserError, match=r"runtime\.processes=2: only a program that was started by its own"):
        choose_processes(RuntimeConfig(device="cpu", processes=2), 8, None)


def test_a_folder_is_a_store(tmp_path: Path) -> None:
    """Values are replaced as a whole and do not pile up; no two callers of a counter get the same number."""
    store, other = FolderStore(tmp_path / "store"), FolderStore(tmp_path / "store")
    assert not store.check(["a/0"])
    for value in ("1", "二"):
        store.set("a/0", value)
    store.set("a/1", "x")
    assert other.check(["a/0", "a/1"]) and not other.check(["a/0", "a/2"])
    assert other.multi_get(["a/0", "a/1"]) == ["二".encode(), b"x"]
    assert [store.add("n", 1), other.add("n", 1), store.add("n", 2)] == [1, 2, 4]
    assert len(list((tmp_path / "store").iterdir())) == 2 + 4
    assert (tmp_path / "store").stat().st_mode & 0o777 == 0o700
