"""The number of connections that the system's limit of open files allows."""

from __future__ import annotations

from contextlib import suppress

MAX_CONNECTIONS = 1000
RESERVED = 256
"""Number of open files kept for other purposes and for connections just accepted."""


def max_connections() -> int:
    """The largest number of connections to hold; also raises the soft limit of open files to the hard one."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return MAX_CONNECTIONS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):  # macOS reports a hard limit that it does not accept
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    if soft == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    return min(MAX_CONNECTIONS, max(soft // 4, soft - RESERVED))
