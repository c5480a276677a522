"""What decides how ranks are linked: variables of the environment, network interfaces, and advice when links fail."""

from __future__ import annotations

import os
import socket
from contextlib import suppress

_PREFIXES = ("NCCL_", "GLOO_", "TORCH_NCCL_", "TP_")
_NAMES = (
    *("CUDA_VISIBLE_DEVICES", "MASTER_ADDR", "MASTER_PORT", "OMP_NUM_THREADS", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE"),
    *("TORCHELASTIC_MAX_RESTARTS", "GROUP_WORLD_SIZE"),
)


def variables() -> dict[str, str]:
    """The variables of the environment that decide how ranks are linked, as far as they are set."""
    return {name: value for name, value in sorted(os.environ.items()) if name.startswith(_PREFIXES) or name in _NAMES}


def interfaces() -> list[str]:
    """The names of this machine's network interfaces; empty where the system does not list them."""
    with suppress(OSError, AttributeError):
        return [name for _, name in socket.if_nameindex()]
    return []


def advice(library: str) -> str:
    """What to try when ranks do not reach each other, as the end of a message.

    Args:
        library: NCCL or GLOO, which carries the messages.
    """
    choices = ", ".join(interfaces())
    name = f"{library}_SOCKET_IFNAME"
    chosen = f"{name} is {os.environ[name]}" if name in os.environ else f"set {name} to the interface of the network"
    lines = [f"{chosen}{f' (here: {choices})' if choices else ''}"]
    if library == "NCCL":
        absent = [name for name in ("NCCL_P2P_DISABLE", "NCCL_IB_DISABLE") if os.environ.get(name) != "1"]
        if absent:
            lines.append(
                f"{' '.join(f'{name}=1' for name in absent)} where cards (RTX 40) or switches cannot do without"
            )
        lines.append("NCCL_DEBUG=INFO shows what it does")
    return f"try `babyllm doctor` in the same way; {'; '.join(lines)}"


def sharing_hint() -> str | None:
    """A line for runs that torchrun cannot extend later; None for others.

    torchrun hands new machines the address of its store only in its first round, unless the ranks make their own.
    """
    can_restart = os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0") != "0"
    has_others = os.environ.get("GROUP_WORLD_SIZE", "1") != "1"
    shares = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if not (can_restart and has_others and shares):
        return None
    return (
        "no machine can join this run later; if one should, use --rdzv-backend=c10d and set "
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 before torchrun on each machine"
    )
