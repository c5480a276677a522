"""Ranks are real processes here: all scenarios run at the same time, and each test looks at how one of them ended."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from babyllm.errors import UserError
from babyllm.runtime import RuntimeConfig, derive_seed, environment, seed_all, start, user_errors
from babyllm.runtime.machine import cores, listed_tflops, memory_bytes, peak_flops

TIMEOUT_S = 4.0
JOB = """
import json, multiprocessing, os, signal, sys, time
from pathlib import Path
from babyllm.errors import UserError
from babyllm.runtime import RuntimeConfig, start, user_errors

scenario, out, timeout_s = sys.argv[1], Path(sys.argv[2]), float(sys.argv[3])

def everything(runtime):
    import torch
    seen = {"sum": runtime.sum([1, 2**52 - runtime.rank, runtime.rank == 1]), "threads": torch.get_num_threads()}
    with runtime.main_first():
        seen["before"] = sorted(path.name for path in out.glob("*.mark"))
        if runtime.is_main:
            time.sleep(0.5)
        (out / f"{runtime.rank}.mark").touch()
    with runtime.patience():
        if runtime.rank == 1:
            time.sleep(timeout_s + 1)
    fork = multiprocessing.get_context("fork")
    is_up = fork.Event()
    worker = fork.Process(target=lambda: (is_up.set(), time.sleep(1000)), daemon=True)
    worker.start()
    is_up.wait()
    worker.terminate()
    worker.join(timeout=5)
    seen["worker"] = worker.exitcode
    seen["stop_before"] = runtime.sum([runtime.stop_requested])
    if runtime.rank == 1:
        os.kill(os.getpid(), signal.SIGTERM)
    seen["stop_after"] = runtime.sum([runtime.stop_requested])
    (out / f"{runtime.rank}.json").write_text(json.dumps(seen))

def steps(runtime):
    for step in range(100):
        runtime.beat(step)
        time.sleep(0.02)
        if step == 57 and scenario == "keeper":
            if runtime.rank == 0:
                os.kill(os.getpid(), signal.SIGSTOP)
            with runtime.patience():
                time.sleep(1000)
        if step == 57 and runtime.rank == 1:
            if scenario == "everything":
                time.sleep(1000)
            os.kill(os.getpid(), {"stop": signal.SIGSTOP, "kill": signal.SIGKILL}[scenario])
        runtime.sum([step])

with user_errors():
    if scenario == "shared":
        raise UserError("data/x.bin: not there")
    with start(RuntimeConfig(device="cpu", timeout_s=timeout_s)) as runtime:
        if scenario == "first":
            with runtime.main_first():
                raise UserError(f"corpus.txt: empty on rank {runtime.rank}")
        if scenario == "everything":
            everything(runtime)
        steps(runtime)
"""


LAUNCHER = """
import os, runpy, signal, socket, sys
from pathlib import Path
import torch

job, folder, timeout_s = sys.argv[1:]
ranks = {}
for scenario in ("stop", "keeper", "kill", "first"):
    (Path(folder) / scenario).mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    for rank in range(2):
        pid = os.fork()
        if pid:
            ranks[pid] = (scenario, rank)
            continue
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2")
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
        out = Path(folder) / scenario
        os.dup2(os.open(out / f"{rank}.err", os.O_WRONLY | os.O_CREAT), 2)
        sys.argv = [job, scenario, str(out), timeout_s]
        try:
            runpy.run_path(job, run_name="__main__")
        except SystemExit as stop:
            os._exit(stop.code)
        os._exit(2)
while ranks:
    pid, status = os.wait()
    scenario, rank = ranks.pop(pid)
    (Path(folder) / scenario / f"{rank}.end").write_text(f"{pid} {os.waitstatus_to_exitcode(status)}")
    for other, place in ranks.items():
        if scenario == place[0] and scenario in ("stop", "keeper"):
            os.kill(other, signal.SIGKILL)  # it is suspended and would stay so
"""


@dataclass
class Ended:
    """A process that has ended: its id, its exit status, what it wrote and, of that, the program's own lines."""

    pid: int
    status: int
    text: str

    @property
    def said(self) -> list[str]:
        return [line for line in self.text.splitlines() if line.startswith("job.py: ")]


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ended]:
    """Every process by name: "everything" and "shared" under torchrun, "stop/0", "stop/1" ... without it."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "job.py").write_text(JOB)
    (folder / "launcher.py").write_text(LAUNCHER)
    (folder / "everything").mkdir()
    (folder / "shared").mkdir()
    job = [str(folder / "job.py")]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", *job]
    started = {
        "plain": _popen(folder / "launcher", [str(folder / "launcher.py"), *job, str(folder), str(TIMEOUT_S)]),
        "everything": _popen(
            folder / "everything", [*torchrun, "everything", str(folder / "everything"), str(TIMEOUT_S)]
        ),
        "shared": _popen(folder / "shared", [*torchrun, "shared", str(folder / "shared"), str(TIMEOUT_S)]),
    }
    try:
        for process in started.values():
            process.wait(timeout=150)
    finally:
        for process in started.values():
            process.kill()
            process.wait()
    result = {}
    for name in ("everything", "shared"):
        text = (folder / f"{name}.err").read_text()
        result[name] = Ended(started[name].pid, started[name].returncode, text)
    for end in folder.glob("*/*.end"):
        pid, status = end.read_text().split()
        result[f"{end.parent.name}/{end.stem}"] = Ended(int(pid), int(status), end.with_suffix(".err").read_text())
    for seen in sorted((folder / "everything").glob("*.json")):
        result[f"everything/{seen.stem}"] = Ended(0, 0, seen.read_text())
    return result


def _popen(stem: Path, command: list[str]) -> subprocess.Popen[bytes]:
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with open(stem.with_suffix(".err"), "wb") as err:
        return subprocess.Popen([sys.executable, *command], env=env, stdout=err, stderr=err)


@pytest.mark.slow
def test_ranks_work_together(ended: dict[str, Ended]) -> None:
    """Ranks add exactly, divide the cores, wait for rank 0 and hear of each other's signals."""
    seen = [json.loads(ended[f"everything/{rank}"].text) for rank in range(2)]
    for rank in range(2):
        assert seen[rank]["sum"] == [2, 2**53 - 1, 1]
        assert seen[rank]["threads"] == max(1, cores() // 2)
        assert (seen[rank]["stop_before"], seen[rank]["stop_after"]) == ([0], [1])
        assert seen[rank]["worker"] == -signal.SIGTERM
    assert seen[0]["before"] == []
    assert seen[1]["before"] == ["0.mark"]


@pytest.mark.slow
def test_a_rank_that_hangs_is_named_once(ended: dict[str, Ended]) -> None:
    """A rank that sleeps while others wait in a collective ends the run with one line: who, at which step, where."""
    (line,) = ended["everything"].said
    assert line.startswith("job.py: rank 1 (")
    assert "has not gone beyond step 57 for 4 s (it is at job.py:" in line
    assert line.endswith(" steps): stopping")
    assert ended["everything"].status == 1


@pytest.mark.slow
def test_a_rank_that_is_suspended_is_named(ended: dict[str, Ended]) -> None:
    """When a rank's process stops running without ending, the other one says so and ends."""
    (line,) = ended["stop/0"].said
    assert f"pid {ended['stop/1'].pid}) has given no sign of life for 4 s, last seen at step " in line
    assert ended["stop/0"].status == 1


@pytest.mark.slow
def test_a_suspended_keeper_of_the_store_is_named_whatever_the_patience(ended: dict[str, Ended]) -> None:
    """Where rank 0 keeps the store and is stopped while the other one evaluates, that one says so and ends."""
    (line,) = ended["keeper/1"].said
    assert "rank 0 (" in line and f"pid {ended['keeper/0'].pid}) has" in line and line.endswith(": stopping")
    assert ended["keeper/1"].status == 1


@pytest.mark.slow
def test_a_rank_that_dies_is_named(ended: dict[str, Ended]) -> None:
    """When a rank is killed, the other one names it in one line instead of showing the collective's traceback."""
    (line,) = ended["kill/0"].said
    assert f"pid {ended['kill/1'].pid}) died, last seen at step " in line
    assert "Traceback" not in ended["kill/0"].text
    assert ended["kill/0"].status == 1


@pytest.mark.slow
def test_a_failing_first_rank_stops_the_others_quietly(ended: dict[str, Ended]) -> None:
    """When rank 0 fails in main_first it says why, and the others exit with status 1 without a word."""
    assert ended["first/0"].said == ["job.py: corpus.txt: empty on rank 0"]
    assert ended["first/1"].text == ""
    assert [ended[f"first/{rank}"].status for rank in range(2)] == [1, 1]


@pytest.mark.slow
def test_an_error_of_all_ranks_appears_once(ended: dict[str, Ended]) -> None:
    """An error that all ranks meet under torchrun is printed once, and its report shows it too."""
    assert ended["shared"].said == ["job.py: data/x.bin: not there"]
    assert "traceback : data/x.bin: not there" in ended["shared"].text


def test_ranks_that_cannot_meet_say_where(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rank that stays alone says within the timeout where it waited for the others."""
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}.items():
        monkeypatch.setenv(name, value)
    begin = time.monotonic()
    with pytest.raises(UserError, match=r"rank 0 of 2 could not meet the others at 127\.0\.0\.1:0 within 1 s"):
        start(RuntimeConfig(device="cpu", timeout_s=1)).__enter__()
    assert time.monotonic() - begin < 20
    monkeypatch.delenv("MASTER_PORT")
    with pytest.raises(UserError, match="MASTER_PORT is not set"):
        start(RuntimeConfig(device="cpu")).__enter__()


def test_a_rank_that_waits_for_others_hears_a_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGTERM to a rank whose others have not come, as torchrun sends it when one of them died: it ends and says so."""
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}.items():
        monkeypatch.setenv(name, value)
    timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM))
    before = signal.signal(signal.SIGTERM, lambda signum, frame: None)  # it may come too late
    timer.start()
    try:
        with pytest.raises(UserError, match="rank 0 of 2 was asked to stop while it waited for rank 1, which had not"):
            start(RuntimeConfig(device="cpu", timeout_s=60)).__enter__()
    finally:
        timer.join()
        signal.signal(signal.SIGTERM, before)


def test_one_process_needs_no_group() -> None:
    """Without torchrun everything works in one process and no process group is made."""
    with start(RuntimeConfig(device="cpu", threads=1)) as runtime:
        assert (runtime.rank, runtime.world_size, runtime.is_main) == (0, 1, True)
        assert torch.get_num_threads() == 1
        assert not torch.distributed.is_initialized()
        assert runtime.sum([3, 0.5]) == [3.0, 0.5]
        with runtime.main_first(), runtime.patience():
            runtime.beat(1)
        runtime.barrier()


@pytest.mark.parametrize("threads", [-1, 0, 100_000])
def test_impossible_threads_are_refused(threads: int) -> None:
    """A number of threads below one, or one that would bring the machine down, is refused by its key."""
    with pytest.raises(UserError, match=rf"^runtime\.threads={threads}: must be at (least 1|most \d+)"):
        start(RuntimeConfig(device="cpu", threads=threads)).__enter__()


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGUSR1", "SIGXCPU"])
def test_signals_ask_to_stop(name: str) -> None:
    """What service managers, closed terminals and batch systems send only sets stop_requested."""
    signum = getattr(signal, name)
    before = signal.getsignal(signum)
    with start(RuntimeConfig(device="cpu")) as runtime:
        assert not runtime.stop_requested
        os.kill(os.getpid(), signum)
        assert runtime.stop_requested
    assert signal.getsignal(signum) is before


def test_nohup_is_respected() -> None:
    """A signal that this process was started to ignore stays ignored."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with start(RuntimeConfig(device="cpu")) as runtime:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not runtime.stop_requested
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_second_interrupt_raises() -> None:
    """The first Ctrl-C only sets stop_requested, the second interrupts, and the old handlers come back."""
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), start(RuntimeConfig(device="cpu")) as runtime:
        os.kill(os.getpid(), signal.SIGINT)
        assert runtime.stop_requested
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_dtype_rules_matrix_products_and_the_scaler(dtype: str) -> None:
    """Under autocast products have the dtype asked for, and only float16 scales its gradients."""
    with start(RuntimeConfig(device="cpu", dtype=dtype)) as runtime:  # type: ignore[arg-type]
        layer = torch.nn.Linear(4, 4)
        with runtime.autocast():
            product = layer(torch.ones(2, 4))
        scaled = runtime.scaler().scale(torch.ones(()))
    assert product.dtype is runtime.dtype is getattr(torch, dtype)
    assert (scaled != 1).item() == (dtype == "float16")


def test_cpus_are_not_compiled_for_by_themselves() -> None:
    """auto does not compile for CPUs; True does."""
    with start(RuntimeConfig(device="cpu")) as runtime:
        assert runtime.compile is False
    with start(RuntimeConfig(device="cpu", compile=True)) as runtime:
        assert runtime.compile is True


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_an_absent_device_is_a_users_error() -> None:
    """A device that is not there, or not known, is refused in one line that names the key."""
    for device in ("cuda", "tpu"):
        with pytest.raises(UserError, match=f"^runtime.device={device}: [^\n]+$"), start(RuntimeConfig(device=device)):
            pass
    with pytest.raises(UserError, match=r"runtime\.timeout_s=0"), start(RuntimeConfig(timeout_s=0)):
        pass


def test_deterministic_holds_while_running() -> None:
    """deterministic makes PyTorch refuse operations that differ from run to run, and the next start takes it back."""
    with start(RuntimeConfig(device="cpu", deterministic=True)):
        assert torch.are_deterministic_algorithms_enabled()
    with start(RuntimeConfig(device="cpu")):
        assert not torch.are_deterministic_algorithms_enabled()


def test_seeds_are_functions_of_integers() -> None:
    """Equal keys give equal random numbers whatever was drawn before; every key, its place and its sign count."""
    seed_all(1, 2, 3)
    first = torch.rand(4)
    torch.rand(7)
    seed_all(1, 2, 3)
    assert torch.equal(torch.rand(4), first)
    keys = [(1, 2, 3), (1, 3, 2), (1, 2), (1, 2, 0), (0, 1, 2), (-1, 2, 3), (derive_seed(1), 2, 3)]
    assert len({derive_seed(*key) for key in keys}) == len(keys)
    assert all(0 <= derive_seed(*key) < 2**63 for key in keys)
    assert derive_seed(1, 2, 3) == 6520558355739401531
    for seed in (2**63, -(2**63) - 1):
        with pytest.raises(UserError, match=f"seed {seed}: must fit into 64 bits"):
            derive_seed(1, seed)


def test_user_errors_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """A UserError becomes one line and exit status 1, with a traceback under --debug alone; other errors pass."""
    with pytest.raises(SystemExit) as stop, user_errors(["/x/train.py"]):
        raise UserError("config.yaml: bad\nkey")
    assert (stop.value.code, capsys.readouterr().err) == (1, "train.py: config.yaml: bad key\n")
    with pytest.raises(SystemExit), user_errors(["/x/babyllm/__main__.py", "--debug"]):
        raise UserError("bad")
    err = capsys.readouterr().err
    assert err.startswith("Traceback")
    assert err.endswith("\nbabyllm: bad\n")
    with pytest.raises(ZeroDivisionError), user_errors():
        1 / 0  # noqa: B018
    with pytest.raises(SystemExit) as stop, user_errors():
        raise KeyboardInterrupt
    assert stop.value.code == 130


def test_a_later_rank_tells_its_own_error(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """An error that only a later rank has is printed too, with the rank's number."""
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(SystemExit), user_errors(["train.py"]):
        raise UserError("disk full")
    assert capsys.readouterr().err == "train.py: rank 3: disk full\n"


def test_a_closed_pipe_is_silent() -> None:
    """Output into a reader that has gone away ends the program without a message."""
    code = "from babyllm.runtime import user_errors\nwith user_errors():\n    for i in range(10**6): print(i)"
    shell = f'set -o pipefail; "{sys.executable}" -c "{code}" | head -n 1'
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, env=env)
    assert (done.stdout, done.stderr, done.returncode) == ("0\n", "", 141)


def test_importing_the_runtime_leaves_torch_alone() -> None:
    """Commands that need no torch do not pay for it by using user_errors."""
    code = "import sys, babyllm.runtime; sys.exit('torch' in sys.modules)"
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    assert subprocess.run([sys.executable, "-c", code], env=env).returncode == 0


def test_peak_flops_and_memory_are_measured() -> None:
    """On a CPU the peak is measured without touching the random generator; memory is the process's."""
    state = torch.get_rng_state()
    assert 1e8 < peak_flops(torch.device("cpu"), torch.float32) < 1e15
    assert torch.equal(torch.get_rng_state(), state)
    before = memory_bytes(torch.device("cpu"))
    assert before > 50e6
    block = torch.ones(before // 4 + 25_000_000)
    assert memory_bytes(torch.device("cpu")) > block.numel() * 4


def test_gpus_are_recognised_by_name() -> None:
    """A GPU's name finds its own data sheet and never that of a card with a similar name."""
    halves = {
        "A100-SXM4-80GB": 312,
        "H100 80GB HBM3": 989,
        "H100 PCIe": 756,
        "L4": 121,
        "L40S": 362,
        "RTX 4060 Ti": 44.1,
    }
    for name, half in halves.items():
        assert (listed_tflops(f"NVIDIA {name}") or (0, 0))[0] == half
    for name in ("GeForce RTX 4090 Laptop GPU", "GeForce RTX 4080 SUPER", "A10G", "GH200 480GB"):
        assert listed_tflops(f"NVIDIA {name}") is None


def test_environment_is_json() -> None:
    """The environment's description survives JSON and names the versions and the number of ranks."""
    described = json.loads(json.dumps(environment()))
    assert described == environment()
    assert described["torch"] == torch.__version__
    assert described["world_size"] == 1
    assert described["cores"] >= 1
    assert described["threads"] == torch.get_num_threads()


@pytest.mark.slow
def test_nothing_but_the_line_is_said_and_torchrun_reports_it(ended: dict[str, Ended]) -> None:
    """No frames of C++ stand before the line that names a rank, and torchrun's own report has it too."""
    for name in ("kill/0", "stop/0", "keeper/1"):
        assert ended[name].text.splitlines() == ended[name].said, name
    assert "frame #" not in ended["everything"].text and "traceback : rank 1 (" in ended["everything"].text
