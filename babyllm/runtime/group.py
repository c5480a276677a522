"""The process group of a run: joined, watched and left."""

from __future__ import annotations

import ctypes
import itertools
import os
import socket
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from babyllm.errors import UserError
from babyllm.runtime.launching.place import Place
from babyllm.runtime.rendezvous import FolderStore, Store, answer
from babyllm.runtime.signals import StopSignal

if TYPE_CHECKING:
    import torch
    from torch.distributed.distributed_c10d import Store as TorchStore

    from babyllm.runtime.watchdog import Watchdog

# Collectives wait this many times longer than the watchdog, because only the watchdog knows which rank is at fault.
_BACKSTOP = 10
_STARTS = itertools.count()


class _Meeting(NamedTuple):
    """Where the ranks meet.

    Attributes:
        store: the store for this rank's main thread.
        watched: the same store over a connection of the watchdog's own, since a request may block its connection.
        group: the store for torch's process group.
        address: the address of the store, for messages.
        keeper: the rank whose process holds the store; if another program or a folder holds it, its name for messages.
        admission: a context in which rank 0 waits for the others.
    """

    store: Store
    watched: Store
    group: TorchStore
    address: str
    keeper: int | str
    admission: AbstractContextManager[None] = nullcontext()


@contextmanager
def joined_group(
    device: torch.device, place: Place, timeout_s: float, stop: StopSignal
) -> Iterator[tuple[Store, Watchdog]]:
    """Join the process group and watch it while the body runs; a collective that fails names the missing rank.

    Yields:
        The store where the ranks meet, and the watchdog of this rank.
    """
    import torch
    import torch.distributed as dist

    from babyllm.runtime.health.wiring import advice
    from babyllm.runtime.launching.verdict import DONE, FAILED, STOPPING
    from babyllm.runtime.watchdog import Watchdog

    _silence_c10d()
    rank, world_size, timeout = place.rank, place.world_size, timedelta(seconds=timeout_s)
    # An earlier `start` in the same processes has left its keys in the store.
    name = f"run{next(_STARTS)}"
    meeting = _in_folder(place.meeting, name, world_size) if place.meeting else _by_address(place, name, timeout, stop)
    own, what_to_try = _named(device), advice("NCCL" if device.type == "cuda" else "GLOO")
    watchdog = Watchdog(meeting.watched, rank, world_size, timeout_s, meeting.address, meeting.keeper, own, what_to_try)
    with meeting.admission:
        watchdog.join(stop)
    watchdog.run()
    try:
        dist.init_process_group(
            # Counts and flags travel as CPU tensors over gloo, so that summing them never waits for the GPU.
            "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
            store=meeting.group,
            rank=rank,
            world_size=world_size,
            timeout=_BACKSTOP * timeout,
            device_id=device if device.type == "cuda" else None,
        )
        yield meeting.store, watchdog
    except BaseException as error:
        is_broken = isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))
        is_explained = is_broken and watchdog.explain()
        watchdog.close(STOPPING if is_explained else FAILED)
        # The group stays until the process ends. Destroying it here would break the collectives of other ranks before
        # this rank has reported its error. It could also wait for a rank that has died.
        if is_explained:
            raise SystemExit(1) from error
        if is_broken or isinstance(error, torch.AcceleratorError):
            line = (str(error).strip() or type(error).__name__).splitlines()[0]
            end = what_to_try if is_broken else "`babyllm doctor` tests the card, and `dmesg` has what its driver saw"
            raise UserError(f"rank {rank} ({socket.gethostname()}, {own}): {line}; {end}") from error
        raise
    watchdog.close(DONE)
    dist.destroy_process_group()


def _named(device: torch.device) -> str:
    """A device as messages name it; a card with the beginning of its identity, which nvidia-smi -L lists."""
    if device.type != "cuda":
        return str(device)
    import torch

    return f"{device} GPU-{str(torch.cuda.get_device_properties(device).uuid)[:8]}"


def _in_folder(folder: Path, name: str, world_size: int) -> _Meeting:
    """The meeting of processes that `launch` started; no other user and no other machine can reach it."""
    from torch.distributed import FileStore  # type: ignore[attr-defined]  # missing from PyTorch's stubs

    # torch's own file store only grows. It serves torch alone, which uses it once.
    store, group = FolderStore(folder / name), FileStore(str(folder / f"{name}.group"), world_size)
    return _Meeting(store, store, group, str(folder), f"the folder {folder}")


def _by_address(place: Place, name: str, timeout: timedelta, stop: StopSignal) -> _Meeting:
    """The meeting at the address in the environment, which torchrun or another launcher has set."""
    import torch.distributed as dist
    from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

    from babyllm.runtime.launching.rounds import admitted, found_round, new_round

    absent = ", ".join(name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ)
    if absent:
        raise UserError(
            f"WORLD_SIZE={place.world_size} but {absent} is not set: start with torchrun, or set all of them"
        )
    host, port = os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]
    is_agents = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    who = f"rank {place.rank} of {place.world_size}"

    def copied(store: TorchStore) -> Store:
        return store.clone()  # type: ignore[attr-defined, no-any-return]  # missing from PyTorch's stubs

    def connect() -> tuple[TorchStore, Store, AbstractContextManager[None]]:
        # The watchdog waits for the other ranks: it can name the missing ones, and a stop signal ends its waiting.
        tcp = TCPStore(
            host,
            int(port),
            place.world_size,
            is_master=place.rank == 0 and not is_agents,
            timeout=timeout,
            wait_for_workers=False,
            multi_tenant=not is_agents,
        )
        rounds = PrefixStore("rounds", tcp)
        if not is_agents:
            store = PrefixStore(name, tcp)
            return store, copied(store), nullcontext()
        if place.rank:
            store = PrefixStore(f"{found_round(rounds, place.rank, who, timeout.total_seconds(), stop)}/{name}", tcp)
            return store, copied(store), nullcontext()
        begun = new_round()
        store = PrefixStore(f"{begun}/{name}", tcp)
        return store, copied(store), admitted(copied(rounds), begun, place.world_size)

    try:
        # It looks for the address for `timeout`. After it has connected it would wait without end.
        asked = "torchrun" if is_agents else "rank 0"
        store, watched, admission = answer(connect, timeout.total_seconds(), stop, who, asked, f"{host}:{port}")
    except (dist.DistError, ValueError) as error:
        if stop.is_set:  # the other ranks were stopped too, and have reported it
            raise SystemExit(1) from error
        reason = f"within {timeout.total_seconds():g} s: {str(error).splitlines()[0]}"
        raise UserError(f"{who} could not meet the others at {host}:{port} {reason}") from error
    address = f"{host}:{port}"
    keeper = f"torchrun on the first machine, {address}," if is_agents else 0
    return _Meeting(store, watched, store, address, keeper, admission)


def _silence_c10d() -> None:
    """Keep torch's C++ code from logging its stack when a connection breaks; errors are raised anyway.

    torch reads the environment variable when it is imported. That has happened, so this sets the library's own
    variable.
    """
    if "TORCH_CPP_LOG_LEVEL" in os.environ:
        return
    import torch

    fatal = 3
    with suppress(OSError, ValueError):
        library = next((Path(torch.__file__).parent / "lib").glob("*c10.*"), None)
        if library:
            ctypes.c_int.in_dll(ctypes.CDLL(str(library)), "FLAGS_caffe2_log_level").value = fatal
