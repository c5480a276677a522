"""What tests of this folder share."""

import pytest
from runtime_fixtures import JOB, LAUNCHER, TIMEOUT_S, Ended, _popen


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
