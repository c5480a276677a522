"""The memory of a device: filled and read back, and copied from and to the memory of its machine."""

from __future__ import annotations

import time
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor

from babyllm.doctor.products import synchronize
from babyllm.runtime.machine import available_memory

_BLOCK = 64 << 20  # bytes
_TURNS = 5
_ON_CPU = 256 << 20  # bytes tested by each rank on a CPU, whose memory has other users
_ODD = 0x5851F42D4C957F2D  # multiplier of Knuth's MMIX generator: neighbours get unlike bits


class Storage(NamedTuple):
    """Memory that was filled and read back, and copies.

    Attributes:
        n_bytes: bytes that were tested.
        n_wrong: numbers of 8 bytes that came back wrong.
        to_device: bytes per second of copies from the machine's memory to the device; within it on a CPU.
        from_device: bytes per second of copies back.
        n_wrong_copies: copies that arrived wrong.
    """

    n_bytes: int
    n_wrong: int
    to_device: float
    from_device: float
    n_wrong_copies: int


def tested_storage(device: torch.device, n_bytes: int | None, local_world_size: int) -> Storage:
    """Fill memory of a device with numbers that differ from place to place, read them back, and copy some.

    All of it is written before any is read, so an address that stands for another one is found too. A second time all
    bits are inverted.

    Args:
        device: device whose memory is tested.
        n_bytes: bytes to test; None is half of what is free on a GPU, and a fixed amount on a CPU.
        local_world_size: ranks that share the memory of the machine.
    """
    wanted = n_bytes or _default_bytes(device)
    if device.type == "cpu":
        wanted = min(wanted, available_memory() // (2 * local_world_size))
    blocks = _blocks(device, wanted)
    n_wrong = 0
    for inverts in (False, True):
        for number, block in enumerate(blocks):
            _write(block, number, inverts=inverts)
        n_wrong += sum(_n_wrong(block, number, inverts=inverts) for number, block in enumerate(blocks))
    n_tested = sum(block.nbytes for block in blocks)
    to_device, from_device, n_wrong_copies = _copies(device, blocks[0] if blocks else torch.empty(0))
    return Storage(n_tested, n_wrong, to_device, from_device, n_wrong_copies)


def _default_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] // 2
    return _ON_CPU


def _blocks(device: torch.device, n_bytes: int) -> list[Tensor]:
    """Memory of the device, (block,) int64 each; less where it does not have so much."""
    blocks = []
    try:
        while n_bytes >= 8:
            blocks.append(torch.empty(min(n_bytes, _BLOCK) // 8, dtype=torch.int64, device=device))
            n_bytes -= _BLOCK
    except (torch.OutOfMemoryError, MemoryError):
        pass
    return blocks


def _write(block: Tensor, number: int, *, inverts: bool) -> None:
    torch.arange(number * len(block), (number + 1) * len(block), device=block.device, out=block)
    block.mul_(_ODD)
    if inverts:
        block.bitwise_not_()


def _n_wrong(block: Tensor, number: int, *, inverts: bool) -> int:
    expected = torch.empty_like(block)
    _write(expected, number, inverts=inverts)
    return int((block != expected).sum())


def _copies(device: torch.device, block: Tensor) -> tuple[float, float, int]:
    """Bytes per second to the device and back, and the number of copies that differ from what was sent."""
    if not len(block):
        return 0.0, 0.0, 0
    sent = torch.empty(block.shape, dtype=block.dtype, pin_memory=device.type == "cuda")
    _write(sent, 1, inverts=False)
    back = torch.empty_like(sent, pin_memory=device.type == "cuda")
    to_device, from_device, n_wrong = list[float](), list[float](), 0
    for _ in range(_TURNS):
        to_device.append(_copied(block, sent, device))
        from_device.append(_copied(back, block, device))
        n_wrong += not torch.equal(back, sent)
    return block.nbytes / median(to_device), block.nbytes / median(from_device), n_wrong


def _copied(target: Tensor, source: Tensor, device: torch.device) -> float:
    """Seconds of a copy."""
    synchronize(device)
    began = time.perf_counter()
    target.copy_(source)
    synchronize(device)
    return time.perf_counter() - began
