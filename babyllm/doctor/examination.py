"""All tests of one rank, in the order in which ranks take part in them together."""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path

import torch

from babyllm.doctor.disks import tested_disk
from babyllm.doctor.exchanges import clock_offset, tested_links, tested_sums
from babyllm.doctor.findings import Findings, from_json
from babyllm.doctor.products import formats, repeated_products
from babyllm.doctor.storage import tested_storage
from babyllm.runtime import Runtime
from babyllm.runtime.health.cards import Card, read_cards
from babyllm.runtime.health.wiring import variables
from babyllm.runtime.machine import cpu_model, describe

_MESSAGE = 16 << 20  # bytes
_FILE = 64 << 20


def examine(runtime: Runtime, seconds: float, n_bytes: int | None, folder: Path | None) -> list[Findings]:
    """Test the devices, links and disks of all ranks; every rank must call it.

    Args:
        runtime: this rank.
        seconds: time for products in each number format.
        n_bytes: bytes of memory to test on each device; None is half of what is free on a GPU, 256 MiB on a CPU.
        folder: run directory whose disk is tested; None tests none.

    Returns:
        The findings of all ranks, in their order, on every rank.
    """
    runtime.barrier()  # all begin at the same time: cards that share a power supply or air are tested together
    products = []
    for dtype in formats(runtime.device):
        products.append(repeated_products(runtime.device, dtype, seconds, seed=runtime.rank))
        runtime.beat(len(products))
    card = _own_card(runtime.device)  # while it is still warm
    with runtime.patience():
        storage = tested_storage(runtime.device, n_bytes, runtime.local_world_size)
    runtime.barrier()
    found = Findings(
        rank=runtime.rank,
        host=socket.gethostname(),
        device=str(runtime.device),
        model=_model(runtime.device),
        versions=_versions(),
        variables=variables(),
        products=products,
        storage=storage,
        card=card,
    )
    if runtime.world_size > 1:
        links, sums = tested_links(runtime, _MESSAGE), tested_sums(runtime, _MESSAGE)
        found = replace(found, links=links, sums=sums, clock_s=clock_offset(runtime))
    if folder:
        with runtime.patience():
            found = replace(found, disk=tested_disk(folder, _FILE, runtime))
    return [from_json(text) for text in runtime.gather(found.to_json())]


def _own_card(device: torch.device) -> Card | None:
    """What the driver reports about the card of this rank."""
    cards = read_cards() if device.type == "cuda" else None
    if not cards:
        return None
    uuid = str(torch.cuda.get_device_properties(device).uuid)
    return next((card for card in cards if uuid in card.uuid), None)


def _model(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_model() or device.type


def _versions() -> dict[str, str]:
    """Versions of what all machines should have alike."""
    facts = describe()
    found = {name: str(facts[name]) for name in ("babyllm", "python", "torch", "cuda") if facts[name]}
    if torch.cuda.is_available() and torch.distributed.is_nccl_available():
        found["nccl"] = ".".join(map(str, torch.cuda.nccl.version()))  # type: ignore[no-untyped-call]
    return found
