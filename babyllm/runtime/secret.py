"""Secrets of the user, such as the tokens of hubs: read from the environment, never stored or printed."""

from __future__ import annotations

import os


def secret(name: str) -> str | None:
    """The value of an environment variable without spaces around it; None if it is missing or empty."""
    return os.environ.get(name, "").strip() or None
