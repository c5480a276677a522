"""What one process of a run has: signals, dtypes, seeds, errors, facts of the machine."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from runtime_fixtures import Ended

from babyllm.errors import UserError
from babyllm.runtime import RuntimeConfig, derive_seed, environment, seed_all, start, user_errors
from babyllm.runtime.machine import listed_tflops, memory_bytes, peak_flops


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
