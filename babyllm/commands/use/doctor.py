"""Test each device and link of this machine, or of several, and name what is broken or slowest.

torchrun --nnodes=2 --node_rank=N --master_addr=HOST --master_port=29500 --nproc_per_node=8 -m babyllm doctor
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from babyllm.config.values import Count, PathText, PositiveSeconds
from babyllm.runtime import RuntimeConfig

ARGUMENTS = ""


@dataclass(frozen=True)
class Flags:
    """Flags of `babyllm doctor`.

    Attributes:
        seconds: time that each device multiplies, in each number format.
        size_mib: memory that is filled and read back on each device, in MiB; null takes half of what is free on a GPU,
            and 256 on a CPU.
        run_dir: run directory whose disk is tested: how fast it is, and whether all machines see the same one.
        runtime: device and processes; `timeout_s` is the time after which a link that is stuck ends the test.
    """

    seconds: PositiveSeconds = 2.0
    size_mib: Count | None = None
    run_dir: PathText | None = None
    runtime: RuntimeConfig = field(default_factory=lambda: RuntimeConfig(timeout_s=60.0))


def run(flags: Flags) -> None:
    """Run the tests in one process per device, and print tables and one line.

    Raises:
        UserError: something is broken; the message names machine, rank and device.
    """
    from babyllm.runtime.launching.launch import choose_processes, launch

    any_number = 0  # which every number of processes divides
    n, _ = choose_processes(flags.runtime, any_number, None)
    launch(_examine, replace(flags, runtime=replace(flags.runtime, processes=n)))


def _examine(flags: Flags) -> None:
    from pathlib import Path

    from babyllm.doctor.diagnosis import diagnose, report
    from babyllm.doctor.examination import examine
    from babyllm.errors import UserError
    from babyllm.pipeline.report import print_report
    from babyllm.runtime import start

    n_bytes = flags.size_mib << 20 if flags.size_mib else None
    with start(flags.runtime) as runtime:
        findings = examine(runtime, flags.seconds, n_bytes, Path(flags.run_dir) if flags.run_dir else None)
    if not runtime.is_main:
        return
    found = diagnose(findings)
    print_report(report(findings, found))
    for remark in found.remarks:
        print(remark)
    if found.faults:
        raise UserError(found.verdict)
    print(found.verdict)
