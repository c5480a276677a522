"""The process group of a run: joined, watched and left."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from babyllm.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch.distributed.distributed_c10d import Store

    from babyllm.runtime.watchdog import Watchdog

# Collectives give up this many times later than the watchdog, which alone can tell which rank is to blame.
_BACKSTOP = 10
_STARTS = itertools.count()


@contextmanager
def joined_group(
    device: torch.device, rank: int, world_size: int, timeout_s: float
) -> Iterator[tuple[Store, Watchdog]]:
    """Join the process group and watch it while the body runs; say which rank is missing when a collective fails."""
    import torch.distributed as dist
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    from babyllm.runtime import watchdog as wd

    absent = ", ".join(name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ)
    if absent:
        raise UserError(f"WORLD_SIZE={world_size} but {absent} is not set: start with torchrun, or set all of them")
    address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    try:
        store, _, _ = next(rendezvous("env://", timeout=timedelta(seconds=timeout_s)))
    except dist.DistError as error:
        reason = f"within {timeout_s:g} s: {str(error).splitlines()[0]}"
        raise UserError(f"rank {rank} of {world_size} could not meet the others at {address} {reason}") from error
    # Names of an earlier `start` in the same processes would be found again otherwise.
    store = PrefixStore(f"run{next(_STARTS)}", store)
    keeps_store = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    watchdog = wd.Watchdog(store, rank, world_size, timeout_s, address, keeps_store)
    watchdog.join()
    watchdog.run()
    try:
        dist.init_process_group(
            # Counts and flags travel as CPU tensors over gloo, so that summing them never waits for the GPU.
            "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
            store=store,
            rank=rank,
            world_size=world_size,
            timeout=timedelta(seconds=_BACKSTOP * timeout_s),
            device_id=device if device.type == "cuda" else None,
        )
        yield store, watchdog
    except BaseException as error:
        is_broken = isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))
        line = watchdog.explain() if is_broken else None
        watchdog.close(wd.FAILED if line is None else wd.STOPPING)
        # The group is left to the end of the process: taking it down here would break the others' collectives before
        # this rank has told its error, and may itself wait for a rank that is gone.
        if line is None:
            raise
        if not line:
            raise SystemExit(1) from error
        raise UserError(line) from error
    watchdog.close(wd.DONE)
    dist.destroy_process_group()
