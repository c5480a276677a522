"""GPUs by name: memory and its bandwidth, from the vendor's data sheets; peaks of products are `runtime.machine`'s."""

from __future__ import annotations

import re
from dataclasses import dataclass

from babyllm.config import nearest
from babyllm.errors import UserError
from babyllm.runtime.machine import listed_tflops

_GIB = 1 << 30
# Memory in GiB, and its bandwidth in GB/s.
_MEMORY: dict[str, tuple[float, float]] = {
    "B200": (180, 8000),
    "H200": (141, 4800),
    "H100": (80, 3350),
    "H100 NVL": (94, 3900),
    "H100 PCIe": (80, 2000),
    "H800": (80, 3350),
    "H20": (96, 4000),
    "A100 40GB": (40, 1555),
    "A100 80GB": (80, 2039),
    "A800": (80, 2039),
    "A40": (48, 696),
    "A30": (24, 933),
    "A10": (24, 600),
    "L40S": (48, 864),
    "L40": (48, 864),
    "L4": (24, 300),
    "V100": (32, 900),
    "V100-PCIE": (16, 900),
    "T4": (16, 320),
    "RTX A6000": (48, 768),
    "RTX 5090": (32, 1792),
    "RTX 5080": (16, 960),
    "RTX 5070 Ti": (16, 896),
    "RTX 5070": (12, 672),
    "RTX 4090": (24, 1008),
    "RTX 4090 D": (24, 1008),
    "RTX 4080": (16, 717),
    "RTX 4070 Ti": (12, 504),
    "RTX 4070": (12, 504),
    "RTX 4060 Ti": (8, 288),
    "RTX 4060": (8, 272),
    "RTX 3090 Ti": (24, 1008),
    "RTX 3090": (24, 936),
    "RTX 3080 Ti": (12, 912),
    "RTX 3080": (10, 760),
    "RTX 3070": (8, 448),
    "RTX 3060 Ti": (8, 448),
    "RTX 3060": (12, 360),
}
_WITHOUT_BFLOAT16 = ("V100", "V100-PCIE", "T4")


@dataclass(frozen=True)
class Gpu:
    """A GPU as its data sheet describes it.

    Attributes:
        name: its name.
        memory: bytes of memory.
        bandwidth: bytes per second that memory delivers.
        flops16: FLOP/s of dense 16-bit products.
        flops32: FLOP/s of float32.
        has_bfloat16: whether it multiplies bfloat16.
    """

    name: str
    memory: float
    bandwidth: float
    flops16: float
    flops32: float
    has_bfloat16: bool


def gpu_names() -> list[str]:
    """The names of all GPUs that are listed."""
    return list(_MEMORY)


def find_gpu(name: str) -> Gpu:
    """The GPU of a name, which may be written without spaces, "RTX" or its memory: `4090`, `rtx4090`, `A100`.

    Raises:
        UserError: no such GPU is listed.
    """
    wanted = _plain(name)
    found = [known for known in _MEMORY if _plain(known).startswith(wanted)] if wanted else []
    exact = [known for known in found if _plain(known) == wanted]
    if not found:
        close = nearest(name, list(_MEMORY))
        raise UserError(f"device={name}: is not listed; did you mean {close!r}? cpu is this machine's processor")
    # Of several memories the smaller one, so that what is planned fits both.
    known = exact[0] if exact else min(found, key=lambda one: (len(one), _MEMORY[one][0]))
    gibibytes, bandwidth = _MEMORY[known]
    listed = listed_tflops(known)
    assert listed is not None, known
    return Gpu(
        known, gibibytes * _GIB, bandwidth * 1e9, listed[0] * 1e12, listed[1] * 1e12, known not in _WITHOUT_BFLOAT16
    )


def _plain(name: str) -> str:
    """A name in small letters, without spaces, dashes and the words before the number."""
    short = re.sub(r"[\s_-]", "", name.lower())
    return re.sub(r"^(nvidia)?(geforce)?(tesla)?(rtx)?(?=[a-z]*\d)", "", short)
