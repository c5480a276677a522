"""Machines to drill with: network namespaces with processes, names and addresses of their own where Linux allows them.

    switch namespace: a bridge --- veth pair --- namespace of machine 0 (10.77.0.1)
                             '---- veth pair --- namespace of machine 1 (10.77.0.2)

Elsewhere a machine is a launcher with an address of the loopback interface, 127.0.0.1 or 127.0.0.2. To kill a machine
is to kill all its processes at once. In a namespace its address vanishes too, so no connection is closed in good order.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from worker import ONE_THREAD, ROOT

TIMEOUT_S = 120.0
PORT = 29477
_SLEEP = ("sleep", "1000000")


def wait_for(condition: Callable[[], bool], what: str) -> None:
    """Return once the condition holds."""
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, f"{what} does not come"
        time.sleep(0.005)


def children(pid: int) -> list[int]:
    """The processes that a process has started and not yet waited for; ended ones too."""
    try:
        return [
            int(child)
            for task in Path(f"/proc/{pid}/task").iterdir()
            for child in (task / "children").read_text(encoding="utf-8").split()
        ]
    except OSError:
        return []


def ranks_of(agent: int) -> list[int]:
    """The ranks that an agent of torchrun has started."""
    found = []
    for child in children(agent):
        with suppress(OSError):
            if b"train_" in Path(f"/proc/{child}/cmdline").read_bytes():
                found.append(child)
    return found


def torchrun(
    arguments: Sequence[str], output: Path, within: Sequence[str] = (), **variables: str
) -> subprocess.Popen[bytes]:
    """Start torchrun in a session of its own.

    Args:
        arguments: arguments of torchrun.
        output: file to which it appends what it prints.
        within: command line that runs another one, as `nsenter` does.
        variables: more variables of its environment.
    """
    env = {**os.environ, **ONE_THREAD, "PYTHONPATH": str(ROOT), **variables}
    command = [*within, sys.executable, "-m", "torch.distributed.run", *arguments]
    with output.open("ab") as file:
        return subprocess.Popen(
            command, env=env, cwd=output.parent, stdout=file, stderr=file, stdin=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip


def end_all(agent: subprocess.Popen[bytes]) -> None:
    """Kill an agent of torchrun and all its ranks, if they still run."""
    for pid in [agent.pid, *children(agent.pid)] if agent.poll() is None else []:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    agent.wait()


class Machine:
    """One of two machines.

    Args:
        number: 0 or 1.
        folder: folder for what its launcher prints.
        switch: process in the namespace of the bridge; None for an address of the loopback interface.
    """

    def __init__(self, number: int, folder: Path, switch: int | None) -> None:
        self.output = folder / f"machine{number}.txt"
        self.address = f"machine{number}" if switch else f"127.0.0.{number + 1}"
        self._number, self._switch, self._init = number, switch, 0
        self.agent: subprocess.Popen[bytes] | None = None
        self._holder: subprocess.Popen[bytes] | None = None

    def start(
        self, arguments: Sequence[str], *, first: str, nodes: str, processes: int = 1, restarts: int = 100
    ) -> None:
        """Switch the machine on and start torchrun there.

        Args:
            arguments: script and its arguments.
            first: address of the machine that all machines meet at.
            nodes: numbers of machines with which the run goes on, as `--nnodes` takes them.
            processes: ranks of this machine.
            restarts: failures after which the run ends.
        """
        if self._switch:
            self._plug_in()
        conf = "last_call_timeout=2,keep_alive_interval=1,keep_alive_max_attempt=3,join_timeout=120"
        meeting = ["--rdzv-backend=c10d", f"--rdzv-endpoint={first}:{PORT}", "--rdzv-id=drill", f"--rdzv-conf={conf}"]
        counts = [f"--nnodes={nodes}", f"--nproc-per-node={processes}", f"--max-restarts={restarts}"]
        variables = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}  # or no machine can join a run that has begun
        if self._switch:
            self.agent = torchrun([*meeting, *counts, *arguments], self.output, self._inside(), **variables)
            return
        # These have one name in common, by which torchrun would find who keeps the store, and address the ranks.
        meeting[-1] += f",is_host={int(self.address == first)}"
        own = f"--local-addr={self.address}"
        self.agent = torchrun([*meeting, own, *counts, *arguments], self.output, GLOO_SOCKET_IFNAME="lo", **variables)

    def kill(self) -> None:
        """Switch the machine off, as a power cut does."""
        assert self.agent
        self._unplug()
        end_all(self.agent)

    def stop(self) -> None:
        """Ask the launcher to stop, as a batch system or a cloud does."""
        assert self.agent
        # A namespace of processes puts `nsenter` between this process and the launcher.
        os.kill(children(self.agent.pid)[0] if self._switch else self.agent.pid, signal.SIGTERM)

    def wait(self) -> int:
        """The exit status of its launcher."""
        agent = self.agent
        assert agent
        wait_for(lambda: agent.poll() is not None, f"the end of machine {self._number}")
        return agent.returncode

    def close(self) -> None:
        """End whatever still runs."""
        self._unplug()
        if self.agent:
            end_all(self.agent)

    def _unplug(self) -> None:
        if self._holder:
            os.kill(self._init, signal.SIGKILL)  # and with it all processes of its namespace
            self._holder.wait()
            self._holder = None

    def _plug_in(self) -> None:
        self._unplug()
        own = ["--net", "--uts", "--pid", "--fork", "--kill-child", "--mount", "--mount-proc"]
        holder = subprocess.Popen([*_within(self._switch), "unshare", *own, *_SLEEP], stderr=subprocess.DEVNULL)
        self._holder = holder
        wait_for(lambda: bool(_sleeping(holder.pid)), "a namespace")
        (self._init,) = _sleeping(holder.pid)
        # Its own name each time: the system removes the port of a machine that was killed a moment later.
        port, inside = f"p{self._number}n{self._init}", self._inside()
        link = ["ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", str(self._init)]
        _run(*_within(self._switch), *link)
        _run(*_within(self._switch), "ip", "link", "set", port, "master", "bridge0", "up")
        _run(*inside, "ip", "address", "add", f"10.77.0.{self._number + 1}/24", "dev", "eth0")
        for interface in ("lo", "eth0"):
            _run(*inside, "ip", "link", "set", interface, "up")
        _run(*inside, "hostname", self.address)
        names = self.output.with_suffix(".hosts")
        addresses = {"localhost": "127.0.0.1", **{f"machine{i}": f"10.77.0.{i + 1}" for i in range(2)}}
        names.write_text("".join(f"{address} {name}\n" for name, address in addresses.items()))
        _run(*inside, "mount", "--bind", str(names), "/etc/hosts")

    def _inside(self) -> list[str]:
        return ["nsenter", *_user_flags(), "-t", str(self._init), "-n", "-u", "-p", "-m"]


@contextmanager
def two_machines(folder: Path) -> Iterator[tuple[Machine, Machine]]:
    """Two machines that are switched off; all they run ends with the body."""
    switch = _switch()
    machines = Machine(0, folder, switch and switch.pid), Machine(1, folder, switch and switch.pid)
    try:
        yield machines
    finally:
        for machine in machines:
            machine.close()
        if switch:
            switch.kill()
            switch.wait()


def _switch() -> subprocess.Popen[bytes] | None:
    """A process in a namespace with a bridge; None where that is not allowed."""
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    try:
        process = subprocess.Popen(["unshare", *user, "--net", *_SLEEP], stderr=subprocess.DEVNULL)
    except OSError:
        return None
    try:
        time.sleep(0.2)
        _run(*_within(process.pid), "ip", "link", "add", "bridge0", "type", "bridge")
        _run(*_within(process.pid), "ip", "link", "set", "bridge0", "up")
        probe = ("unshare", "--net", "--uts", "--pid", "--fork", "--mount", "--mount-proc", "true")
        _run(*_within(process.pid), *probe)
    except (OSError, subprocess.CalledProcessError):
        process.kill()
        process.wait()
        return None
    return process


def _sleeping(holder: int) -> list[int]:
    """The first process of the namespaces that `holder` makes, once it has replaced itself by `sleep`."""
    return [pid for pid in children(holder) if b"sleep" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def _user_flags() -> list[str]:
    return [] if os.geteuid() == 0 else ["-U", "--preserve-credentials"]


def _within(pid: int | None) -> list[str]:
    return ["nsenter", *_user_flags(), "-t", str(pid), "-n"]


def _run(*command: str) -> None:
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
