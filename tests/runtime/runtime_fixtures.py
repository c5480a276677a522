"""What tests of runtime share."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

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


def _popen(stem: Path, command: list[str]) -> subprocess.Popen[bytes]:
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with open(stem.with_suffix(".err"), "wb") as err:
        return subprocess.Popen([sys.executable, *command], env=env, stdout=err, stderr=err)
