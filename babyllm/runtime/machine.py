"""What this machine is and can do: cores, GPUs, peak FLOP/s, memory in use, versions.

torch is imported inside functions, so that commands without it start at once.
"""

from __future__ import annotations

import ctypes
import importlib
import locale
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TextIO

if TYPE_CHECKING:
    import torch

Language = Literal["en", "zh"]
RETURNED = 1 << 20
"""Bytes of the smallest tensors whose memory `return_freed_memory` returns."""

# Dense peaks in TFLOP/s from the vendor's data sheets and architecture papers: first of 16-bit matrix products
# accumulated in float32, then of plain float32. On GeForce cards since Ampere the first is twice the second.
_PEAK_TFLOPS: dict[str, tuple[float, float]] = {
    "B200": (2250, 75),
    "H200": (989, 67),
    "H100": (989, 67),
    "H100 NVL": (835, 60),
    "H100 PCIe": (756, 51),
    "H800": (989, 67),
    "H20": (148, 44),
    "A100": (312, 19.5),
    "A800": (312, 19.5),
    "A40": (149.7, 37.4),
    "A30": (165, 10.3),
    "A10": (125, 31.2),
    "L40S": (362, 91.6),
    "L40": (181, 90.5),
    "L4": (121, 30.3),
    "V100": (125, 15.7),
    "V100-PCIE": (112, 14),
    "T4": (65, 8.1),
    "RTX A6000": (154.8, 38.7),
    "RTX 5090": (209.5, 104.8),
    "RTX 5080": (112.6, 56.3),
    "RTX 5070 Ti": (87.9, 43.9),
    "RTX 5070": (61.7, 30.9),
    "RTX 4090": (165.2, 82.6),
    "RTX 4090 D": (147.1, 73.5),
    "RTX 4080": (97.5, 48.7),
    "RTX 4070 Ti": (80.2, 40.1),
    "RTX 4070": (58.3, 29.1),
    "RTX 4060 Ti": (44.1, 22.1),
    "RTX 4060": (30.2, 15.1),
    "RTX 3090 Ti": (80, 40),
    "RTX 3090": (71, 35.6),
    "RTX 3080 Ti": (68.2, 34.1),
    "RTX 3080": (59.5, 29.8),
    "RTX 3070": (40.6, 20.3),
    "RTX 3060 Ti": (32.4, 16.2),
    "RTX 3060": (25.5, 12.7),
}


def cores() -> int:
    """How many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def is_array_task() -> bool:
    """Whether Slurm has started this process as one of an array of equal ones."""
    return "SLURM_ARRAY_TASK_ID" in os.environ


def ray_head() -> str | None:
    """The address of a Ray cluster that the environment names. Ray's reports of its use are turned off."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    return os.environ.get("RAY_ADDRESS")


def physical_cores() -> int:
    """Number of physical cores this process may use; the number of logical ones where the system does not say."""
    if not hasattr(os, "sched_getaffinity"):
        answer = _output("sysctl", "-n", "hw.physicalcpu") if sys.platform == "darwin" else None
        return int(answer) if answer and answer.isdigit() else cores()
    physical = set()
    for logical in os.sched_getaffinity(0):
        topology = Path(f"/sys/devices/system/cpu/cpu{logical}/topology")
        try:
            physical.add(
                tuple((topology / name).read_text(encoding="utf-8") for name in ("physical_package_id", "core_id"))
            )
        except OSError:
            return cores()
    return len(physical)


def peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """The peak FLOP/s of this process in matrix products of `dtype`, against which its own speed is compared.

    For a known GPU it is the data sheet's dense peak. Elsewhere it is measured with one large product and the
    process's threads, which takes a fraction of a second. Random generators are not used.
    """
    import torch

    listed = listed_tflops(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    if listed and (dtype is not torch.bfloat16 or torch.cuda.is_bf16_supported(including_emulation=False)):
        return listed[dtype is torch.float32] * 1e12
    return _measured_flops(device, dtype)


def listed_tflops(name: str) -> tuple[float, float] | None:
    """The data sheet's dense peaks of a GPU, (16 bits, float32) in TFLOP/s; None for a name that is not listed."""
    # A suffix that the table lacks means another card, which is often much slower.
    found = [model for model in _PEAK_TFLOPS if re.search(rf"\b{model}\b(?! (Ti|SUPER|D|Laptop|with|Max-Q)\b)", name)]
    return _PEAK_TFLOPS[max(found, key=len)] if found else None


def _measured_flops(device: torch.device, dtype: torch.dtype) -> float:
    import torch

    side = {"cuda": 4096, "mps": 2048}.get(device.type, 768)
    with torch.no_grad():
        a = torch.linspace(-1, 1, side * side, device=device).view(side, side).to(dtype)
        best_s, deadline = float("inf"), time.perf_counter() + 0.2
        while time.perf_counter() < deadline:
            begin = time.perf_counter()
            a @ a.T
            getattr(torch, device.type).synchronize()
            best_s = min(best_s, time.perf_counter() - begin)
    return 2 * side**3 / best_s


def keep_freed_memory() -> None:
    """Make the C library keep the memory that tensors free, since asking the system for it again costs time.

    Only glibc has this setting; elsewhere nothing happens.
    """
    _set_malloc(mmap_threshold=1 << 30, trim_threshold=(1 << 31) - 1)


def return_freed_memory() -> None:
    """Make the C library return the memory that tensors of `RETURNED` bytes and more free, at once.

    Kept memory has holes, into which what is gathered next does not fit. Only glibc has this setting.
    """
    _set_malloc(mmap_threshold=RETURNED, trim_threshold=RETURNED)


def _set_malloc(mmap_threshold: int, trim_threshold: int) -> None:
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-3, mmap_threshold)  # the numbers are those of mallopt(3)
        mallopt(-1, trim_threshold)


def physical_memory() -> int | None:
    """Memory of this machine in bytes; None where the system does not report it."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None


def available_memory() -> int:
    """Memory in bytes that this process can still take, within the limits of its control groups.

    Where the system does not report it, a quarter of the physical memory; 0 if that is unknown too.
    """
    try:
        found = re.search(r"^MemAvailable: *(\d+) kB$", Path("/proc/meminfo").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        found = None
    free = int(found[1]) * 1024 if found else (physical_memory() or 0) // 4
    return max(0, min([free, *_free_in_groups()]))


def _free_in_groups() -> Iterator[int]:
    """The free memory of each control group of this process that has a limit, in bytes; on Linux alone."""
    # In a container the paths may be those of the host. The groups that are missing here are left out.
    kinds = {
        "": ("", "memory.max", "memory.current", "inactive_file"),
        "memory": ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    }
    with suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines():
            _, kind, path = line.split(":", 2)
            if kind in kinds:
                folder, limit, usage, cache = kinds[kind]
                top = Path("/sys/fs/cgroup", folder)
                group = top / path.lstrip("/")
                for place in (group, *group.parents):
                    if place.is_relative_to(top) and (free := _free_in_group(place, limit, usage, cache)) is not None:
                        yield free


def _free_in_group(group: Path, limit: str, usage: str, cache: str) -> int | None:
    try:
        allowed, used = ((group / name).read_text(encoding="utf-8").strip() for name in (limit, usage))
        # The system gives up cached files first.
        cached = re.search(rf"^{cache} (\d+)$", (group / "memory.stat").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        return None
    return int(allowed) - int(used) + int(cached[1] if cached else 0) if allowed.isdigit() else None


def memory_bytes(device: torch.device) -> int:
    """Memory of this process in bytes; 0 if unknown.

    On CUDA and on a CPU it is the peak, on MPS what the driver holds now.
    """
    import torch

    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    if device.type == "mps":
        return int(torch.mps.driver_allocated_memory())
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, other systems KiB


def lacking() -> list[str]:
    """What a run could use and this system lacks, one line each; empty on Linux and macOS."""
    lines = {
        "fcntl": "no file locks here: take care that one run directory is used by one command at a time",
        "resource": "the memory of a process is not measured here: memory_bytes is 0",
    }
    return [line for module, line in lines.items() if not _is_there(module)]


def _is_there(module: str) -> bool:
    try:
        importlib.import_module(module)
    except ImportError:
        return False
    return True


def describe() -> dict[str, Any]:
    """Versions, the machine and the commit of the source, as JSON values; None stands for an unknown value."""
    import importlib.metadata

    import torch

    try:
        version = importlib.metadata.version("babyllm")
    except importlib.metadata.PackageNotFoundError:  # run from a checkout that is not installed
        version = None
    return {
        "babyllm": version,
        "commit": _commit(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": cpu_model(),
        "cores": cores(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }


def _output(*command: str) -> str | None:
    try:
        return subprocess.check_output(
            command, cwd=Path(__file__).parent, stderr=subprocess.DEVNULL, text=True, timeout=10
        ).strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _commit() -> str | None:
    # An installed copy may lie inside some other repository, such as the user's own.
    if _output("git", "ls-files", "--error-unmatch", Path(__file__).name) is None:
        return None
    return _output("git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")


def cpu_model() -> str | None:
    """The name of the processor, as the system reports it."""
    if sys.platform == "darwin":
        return _output("sysctl", "-n", "machdep.cpu.brand_string")
    info = Path("/proc/cpuinfo")
    found = (
        re.search(r"^model name\s*: (.+)$", info.read_text(encoding="utf-8"), re.MULTILINE) if info.exists() else None
    )
    return found[1] if found else platform.processor() or None


def device_memory(device: torch.device) -> int | None:
    """Memory of a CUDA device or an Apple GPU in bytes; None on a CPU."""
    import torch

    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory())
    return None


def multiplies_bfloat16() -> bool:
    """Whether the CPU multiplies bfloat16 natively, without converting it first."""
    import torch

    # These functions are private in PyTorch and may disappear.
    tests = [getattr(torch.cpu, test, None) for test in ("_is_amx_tile_supported", "_is_avx512_bf16_supported")]
    return any(test() for test in tests if test)


def preferred_language() -> Language:
    """The language of this machine's user, of Chinese and English, by the variables of the locale or the system."""
    named = next((value for name in ("LC_ALL", "LC_MESSAGES", "LANG") if (value := os.environ.get(name))), None)
    with suppress(ValueError):  # a name that this system does not know
        named = named or locale.getlocale()[0]
    return "zh" if named and named.lower().startswith(("zh", "chinese")) else "en"


def shows_colours(output: TextIO) -> bool:
    """Whether an output is a terminal for which the user has not turned colours off (https://no-color.org)."""
    return output.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
