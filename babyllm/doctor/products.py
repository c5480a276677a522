"""Products of matrices whose answer is known exactly, in every number format that a device multiplies.

With a Hadamard matrix H of side n, H H = n I. Its columns and rows are multiplied by signs and by the two factors of
45/16, which differ from column to column. So the numbers have different digits, and each product is 45/16 up to its
sign. All sums are multiples of 1/16 below 2**14, which float32 holds exactly in any order.
"""

from __future__ import annotations

import time
from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor

# Pairs with the product 720; divided by 16, each fits into the 8 bits of bfloat16.
_FACTORS = ((8, 90), (9, 80), (10, 72), (12, 60), (15, 48), (16, 45), (18, 40), (20, 36), (24, 30))
_SIDES = {"cuda": 4096, "mps": 2048}
_ON_CPU = {4: 512, 2: 256}  # by the bytes of a number: most processors multiply 16 bits slowly
_LEAST, _FRESH = 4, 8  # products at least, and products after which the numbers change


class Products(NamedTuple):
    """Repeated products in one number format.

    Attributes:
        dtype: number format.
        n: number of products.
        n_wrong: number of products with an entry that is not the answer.
        flops: FLOP/s of the median product.
    """

    dtype: str
    n: int
    n_wrong: int
    flops: float


def formats(device: torch.device) -> list[torch.dtype]:
    """The number formats that the device multiplies."""
    has_bf16 = device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)
    return [torch.float32, *([torch.bfloat16] if has_bf16 else []), torch.float16]


def repeated_products(device: torch.device, dtype: torch.dtype, seconds: float, seed: int = 0) -> Products:
    """Multiply for a while, and compare every entry with the answer.

    Args:
        device: device that multiplies.
        dtype: number format of the matrices and of the result.
        seconds: time to spend.
        seed: seed of the signs and factors.
    """
    side = _SIDES.get(device.type) or _ON_CPU[dtype.itemsize]
    generator = torch.Generator().manual_seed(seed)
    n, n_wrong, times, deadline = 0, 0, list[float](), time.perf_counter() + seconds
    with torch.no_grad():
        while n < _LEAST or time.perf_counter() < deadline:
            if n % _FRESH == 0:
                one, two, answer = (x.to(device, dtype) for x in known_product(side, generator))
                multiply(one, two)  # the first one of a kind is slow
            synchronize(device)
            began = time.perf_counter()
            found = multiply(one, two)
            synchronize(device)
            times.append(time.perf_counter() - began)
            n_wrong += not torch.equal(found, answer)
            n += 1
    return Products(str(dtype).removeprefix("torch."), n, n_wrong, 2 * side**3 / median(times))


def multiply(one: Tensor, two: Tensor) -> Tensor:
    """The product that is tested, (side, side)."""
    return one @ two


def known_product(side: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Two matrices and their product, float32 (side, side), exact in all number formats.

    Args:
        side: power of two, at most 4096.
        generator: source of the signs and factors.
    """
    hadamard = torch.ones(1, 1)
    while len(hadamard) < side:
        hadamard = torch.cat([torch.cat([hadamard, hadamard], 1), torch.cat([hadamard, -hadamard], 1)])
    left, middle, right = torch.randint(0, 2, (3, side), generator=generator) * 2.0 - 1
    factors = torch.tensor(_FACTORS)[torch.randint(0, len(_FACTORS), (side,), generator=generator)] / 16
    one = left[:, None] * hadamard * (middle * factors[:, 0])
    two = (middle * factors[:, 1])[:, None] * hadamard * right
    return one, two, torch.diag(left * right * (side * 720 / 256))


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all its work."""
    getattr(torch, device.type).synchronize()
