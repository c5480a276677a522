"""Undocumented names of uvicorn that the server relies on, and a check that they exist.

docs/en/reference/design.md, "Private interfaces", says what each is for. The bound in pyproject.toml is the newest
tested version.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.metadata import version
from typing import NoReturn

from babyllm.errors import UserError

PRIVATE_NAMES = {
    ("uvicorn.protocols.http.h11_impl", "H11Protocol"): (
        *("client", "conn", "connections", "cycle", "loop", "scope", "transport"),
        *("connection_lost", "connection_made", "data_received", "eof_received", "pause_writing", "resume_writing"),
        *("on_response_complete", "send_400_response", "timeout_keep_alive_handler"),
    ),
    ("uvicorn.protocols.http.h11_impl", "RequestResponseCycle"): ("keep_alive", "response_complete"),
    ("uvicorn.server", "Server"): ("handle_exit", "serve", "should_exit", "shutdown", "startup"),
}
"""Names by module and class: methods, and attributes that the constructor sets."""


def check_uvicorn(names: Mapping[tuple[str, str], Sequence[str]] = PRIVATE_NAMES) -> None:
    """Check that the installed uvicorn has the names that the server relies on.

    Args:
        names: names by their module and class.

    Raises:
        UserError: a name is missing; the message says which and what to install.
    """
    for (module, owner), needed in names.items():
        try:
            found = getattr(import_module(module), owner)
        except (ImportError, AttributeError):
            _refuse(f"{module}.{owner}")
        present = {*dir(found), *found.__init__.__code__.co_names}
        for name in needed:
            if name not in present:
                _refuse(f"{owner}.{name}")


def _refuse(name: str) -> NoReturn:
    advice = 'install a version that babyllm is tested with: pip install "babyllm[serve]"'
    raise UserError(f"uvicorn {version('uvicorn')} lacks {name}, which serving relies on: {advice}")
